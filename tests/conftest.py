"""Shapes are checked in every test, and what was compiled once is kept for the next run of the suite."""

import gc
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

CHECKED = (
    "bellmark.types",
    "bellmark.maths",
    "bellmark.networks",
    "bellmark.experience",
    "bellmark.algorithms.base",
    "bellmark.algorithms.policy_gradient",
    "bellmark.algorithms.continuous",
    "bellmark.algorithms.value_based",
)

# before any of them is imported, for the whole session
install_import_hook(CHECKED, "beartype.beartype")


def keep_compiled_programs() -> None:
    """A cache of the suite's own, so that no test depends on what a user's runs have left in theirs.

    Through the environment, so that the processes that tests start share it; without a folder that can be written to,
    the suite is slower and nothing else.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bellmark" / "tests"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")


keep_compiled_programs()

# A background job of a shell script ignores SIGINT, and so would a run that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

MAPPINGS = 20_000
"""A compiled program is some mappings of memory for as long as it is kept; Linux grants a process 65,530 of all kinds
and XLA ends with a segmentation fault where it gets no more."""


@pytest.fixture(autouse=True, scope="module")
def few_compiled_programs():
    """Programs of earlier files are let go before they are too many; what is needed again comes from the cache."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and len(mappings.read_bytes().splitlines()) > MAPPINGS:
        sys.modules["jax"].clear_caches()
        gc.collect()
