"""`python -m tests`: lint, format, types and the quick tests, in that order; stops at the first that fails.

Arguments go to pytest: `python -m tests -k ppo`.
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECKED = ["src", "tests", "benchmarks"]

STEPS = {
    "lint": ["ruff", "check", *CHECKED],
    "format": ["ruff", "format", "--check", *CHECKED],
    "types": ["mypy"],
    # two workers for the two cores that everybody has; learning tests are `make learn`;
    # a worker that crashed ends the suite and names its test, for where it is replaced others may wait for ever
    "tests": [
        *("pytest", "-q", "-n", "2", "--dist", "loadfile", "--max-worker-restart", "0"),
        *("-m", "not learning", *sys.argv[1:]),
    ],
}


def main() -> int:
    for name, command in STEPS.items():
        print(f"── {name}: {' '.join(command)}", flush=True)
        began = time.monotonic()
        status = subprocess.call([sys.executable, "-m", *command], cwd=ROOT)
        print(
            f"── {name}: {'ok' if status == 0 else 'FAILED'} after {time.monotonic() - began:.0f} s",
            flush=True,
        )
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
