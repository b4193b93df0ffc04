"""Rewards: a question and the text of an answer to a number, or to named parts that add up to it.

    exact          1 where the answer, spaces at its ends aside, is the question's `answer`
    number         1 where the first number in the answer is the question's `answer`
    regex:PATTERN  1 where the pattern is found in the answer
    sentiment      how friendly the words are: a lexicon's, for learning without labels
    module:name    your own function `(question: dict, text: str) -> float | dict[str, float]`

A reward of one's own is imported when it is named, on the command line or in a call; never because a saved run names it
(`docs/decisions/0006-a-run-never-imports-code.md`).
"""

import importlib
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from bellmark.errors import BadInput, BellmarkError, unknown

Parts = dict[str, float]
Reward = Callable[[Mapping[str, Any], str], Any]
"""(question's fields, answer's text) to a number or to named parts."""

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class RewardFailure(BellmarkError):
    """A reward raised, or returned something that is no finite number; the message names the sample."""


def exact(question: Mapping[str, Any], text: str) -> float:
    return float(text.strip() == str(_answer(question)).strip())


def number(question: Mapping[str, Any], text: str) -> float:
    found = _NUMBER.search(text)
    try:
        return float(found is not None and float(found.group()) == float(_answer(question)))
    except (TypeError, ValueError):
        raise ValueError(f"the question's answer {_answer(question)!r} is no number") from None


def _answer(question: Mapping[str, Any]) -> Any:
    if question.get("answer") is None:
        raise KeyError("answer")
    return question["answer"]


def _words(text: str) -> list[str]:
    return text.split()


FRIENDLY = frozenset(
    _words("""
amazing beautiful best brilliant calm charming cheerful clever comfortable delicious delight delighted enjoy
enjoyed excellent fantastic favourite fine friendly fun glad good gorgeous grateful great happy hope hopeful
joy kind like liked love loved lovely lucky nice perfect pleasant pleased pretty proud smile smiled sunny
superb sweet thank thanks warm welcome well win wonderful
""")
)
HOSTILE = frozenset(
    _words("""
angry annoying awful bad bitter bored boring broken cold cruel dark dead dirty dreadful dull evil fail
failed fear gloomy grim hate hated horrible hurt ill lost mean miserable nasty pain poor rotten rude sad
scared sick sorry stupid terrible tired ugly unhappy upset weak worse worst wrong
""")
)


def sentiment(question: Mapping[str, Any], text: str) -> float:
    """(friendly − hostile) words per word, times 5 and held within ±1: −1 to 1, 0 where there is neither."""
    words = re.findall(r"[a-z']+", text.lower())
    if not words:
        return 0.0
    balance = sum((word in FRIENDLY) - (word in HOSTILE) for word in words)
    return max(-1.0, min(1.0, 5.0 * balance / len(words)))


NAMED: dict[str, Reward] = {"exact": exact, "number": number, "sentiment": sentiment}


def reward_of(name: str, *, from_file: bool = False) -> Reward:
    """The reward of that name.  `from_file`: a saved run names it, so nothing is imported.

    Raises: `BadInput` for a name that is not known, a pattern that is none, a module that cannot be imported.
    """
    if name in NAMED:
        return NAMED[name]
    if name.startswith("regex:"):
        return matching(name.removeprefix("regex:"))
    if ":" not in name:
        raise unknown("reward", name, [*NAMED, "regex:PATTERN", "module:function"])
    if from_file:
        raise BadInput(f"this run used your own reward {name}; name it again: --reward {name}")
    return imported("reward", name)


def imported(what: str, name: str) -> Callable[..., Any]:
    """The user's function `module:name`.  Raises: `BadInput`."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise BadInput(f"the {what} is {name!r}; allowed: module:function")
    sys.path.insert(0, "")
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise BadInput(f"the {what} {name} cannot be imported: {error}") from None
    finally:
        sys.path.remove("")
    if not callable(function):
        raise BadInput(f"{module} has no function {attribute!r}")
    return function


def matching(pattern: str) -> Reward:
    """1 where `pattern` is found in the answer."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise BadInput(f"{pattern!r} is no regular expression: {error}") from None
    return lambda question, text: float(compiled.search(text) is not None)


def parts_of(value: Any) -> Parts:
    """What a reward returned, as named parts.  Raises: `ValueError` for anything that is no finite number."""
    parts = dict(value) if isinstance(value, Mapping) else {"reward": value}
    if not parts:
        raise ValueError("it returned no parts")
    for name, part in parts.items():
        if not hasattr(part, "__float__") or not math.isfinite(float(part)):
            raise ValueError(f"it returned {name} = {part!r}")
    return {str(name): float(part) for name, part in parts.items()}
