"""`bellmark COMMAND …`: finds the command's module, runs it, and turns every ending into an exit status.

0 done; 1 a run that failed; 2 bad input, with one line that says what was given and what is allowed; 130 Ctrl-C.
"""

import errno
import importlib
import os
import sys

from bellmark._version import __version__
from bellmark.errors import BellmarkError, unknown

COMMANDS = {
    "train": "train an agent: bellmark train ppo CartPole-v1",
    "resume": "go on with an interrupted run, exactly where it stopped",
    "evaluate": "play episodes with a trained policy and report its return",
    "watch": "save a video of a trained agent",
    "compare": "draw learning curves of several runs, with intervals",
    "solve": "solve a finite Markov decision process exactly, with proof",
    "experiment": "put a textbook claim to the test: bellmark experiment cliff-walking",
    "check": "check an environment's contract and explain what is broken",
    "language": "language models: bellmark language sft|reward|ppo|grpo|dpo|evaluate|sample|chat",
    "list": "list algorithms, environments or runs",
    "doctor": "versions, devices, and what each extra would give",
}

TRACEBACK = "BELLMARK_TRACEBACK"
"""Set to anything, errors that nobody foresaw show where they come from."""

HELP = f"""bellmark {__version__}: reinforcement learning, measured against Bellman

usage: bellmark COMMAND [ARGUMENTS]      bellmark COMMAND --help

{chr(10).join(f"  {name:<10}{text}" for name, text in COMMANDS.items())}

start here:
  bellmark train ppo CartPole-v1       a trained agent, a verdict and a picture in seconds
"""


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status; errors meant for the user travel as exceptions."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"bellmark {__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        raise unknown("command", command, COMMANDS)
    return importlib.import_module(f"bellmark.cli.{command}").main(rest)


def main() -> None:
    """The console script."""
    try:
        status = run(sys.argv[1:])
        sys.stdout.flush()
    except BellmarkError as error:
        print(f"bellmark: {' '.join(str(error).split())}", file=sys.stderr)
        status = 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt as stop:
        print(f"bellmark: {str(stop) or 'interrupted'}", file=sys.stderr, flush=True)
        # compiled programs that still run in threads would be waited for
        os._exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        print(f"bellmark: {unforeseen(error)}", file=sys.stderr)
        status = 1
    sys.exit(status)


def unforeseen(error: Exception) -> str:
    """One line for an error that nobody meant for the user: out of memory, or somebody's bug."""
    said = (str(error).strip().splitlines() or [""])[0][:300]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in said or "Out of memory" in said:
        return f"out of memory: {said}; fewer environments, seeds or a smaller network need less"
    outside = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
    number, what, name = None, None, None
    if isinstance(error, OSError):
        number, what, name = error.errno, error.strerror, error.filename
    full = "No space left on device"
    if full in said or number in outside:
        what = full if full in said else what
        where = f": {name}" if name else ""
        return f"{what}{where}; nothing more was written, and --directory names another place"
    return f"{type(error).__name__}: {said} (this should not happen; {TRACEBACK}=1 shows where it comes from)"


if __name__ == "__main__":
    main()
