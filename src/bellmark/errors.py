"""The errors that Bellmark raises on purpose, and the one-line messages they carry.

Every message says what was given and what is allowed.  The command line turns `BadInput` into exit status 2
and any other `BellmarkError` into exit status 1.
"""

import difflib
from collections.abc import Iterable


class BellmarkError(Exception):
    """A run, a file or an environment failed; nothing that was saved before is lost."""


class BadInput(BellmarkError, ValueError):
    """The caller asked for something that cannot be done; nothing has been written."""


class EnvironmentFailure(BellmarkError):
    """An environment broke its contract: the message names environment, index, step, field and value."""


class NonFiniteLoss(BellmarkError):
    """A metric or parameter became NaN or infinite; the message names it, the seed and the step."""


class CorruptFile(BellmarkError):
    """A file's hash, shape or structure is not what was written; nothing in it was executed."""


class DirectoryInUse(BellmarkError):
    """Another process holds the lock of this run directory."""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """A suggestion such as ` (did you mean 'ppo'?)`, or the empty string where nothing is near."""
    names = {name.lower(): name for name in allowed}
    near = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.55)
    return f" (did you mean {names[near[0]]!r}?)" if near else ""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> BadInput:
    """The error for a name that is not in a list: names the near miss and everything that is allowed."""
    allowed = list(allowed)
    shown = ", ".join(allowed[:40]) + (", …" if len(allowed) > 40 else "")
    return BadInput(f"unknown {kind} {given!r}{did_you_mean(given, allowed)}; allowed: {shown}")
