"""How kernels are compiled here: without reference counting, and small ones always inside their callers."""

import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
"""`_nrt` False: no reference counts. Kernels that allocate nothing need none, and counting arrays up and down, an
atomic operation each time, took two thirds of Q-learning's loop."""

_STAMP = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
"""Of all source here. Numba keeps machine code until the kernel's own file changes, and does not look at the files of
the kernels inside it; with the stamp in its name, a kernel is looked for only among what this very source made."""


def kernel(function: Callable[..., Any], **options: Any) -> Any:
    """A kernel that Python calls: it allocates nothing, holds no lock, and its machine code is kept on disk."""
    function.__qualname__ = f"{function.__qualname__}_{_STAMP:08x}"
    options = {**_OPTIONS, **options}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        folder = os.path.join(tempfile.gettempdir(), f"bellmark-numba-{os.getuid()}")
        numba.config.CACHE_DIR = folder  # type: ignore[attr-defined]
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:
        return numba.njit(function, **options)


def learner_kernel(function: Callable[..., Any]) -> Any:
    """A learner's `begin` or `learn`: called by Python on a host environment, part of the loop on a model."""
    return kernel(function, forceinline=True)


def inlined(function: Callable[..., Any]) -> Any:
    """A small kernel that becomes part of every kernel that calls it.

    A call hands over two dozen arguments through memory and hides from the compiler what does not change from step to
    step: with calls, the sampling loop of Q-learning took five times as long.
    """
    return numba.njit(function, forceinline=True, **_OPTIONS)


def called(function: Callable[..., Any]) -> Any:
    """A kernel for paths that are taken seldom: called, so that its callers stay small and compile quickly."""
    return numba.njit(function, **_OPTIONS)
