"""How kernels are compiled here: without reference counting, and small ones always inside their callers."""

import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
"""`_nrt` False: no reference counts. Kernels that allocate nothing need none, and counting arrays up and down, an atomic
operation each time, took two thirds of Q-learning's loop."""

_STAMP = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
"""Of all source here. Numba keeps machine code until the kernel's own file changes, and does not look at the files of the
kernels inside it; with the stamp in its name, a kernel is looked for only among what this very source made."""


def kernel(function: Callable[..., Any]) -> Any:
    """A kernel that Python calls: it allocates nothing, holds no lock, and its machine code is kept on disk."""
    function.__qualname__ = f"{function.__qualname__}_{_STAMP:08x}"
    try:
        return numba.njit(function, cache=True, **_OPTIONS)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        numba.config.CACHE_DIR = os.path.join(tempfile.gettempdir(), f"bellmark-numba-{os.getuid()}")
    try:
        return numba.njit(function, cache=True, **_OPTIONS)
    except RuntimeError:
        return numba.njit(function, **_OPTIONS)


def inlined(function: Callable[..., Any]) -> Any:
    """A small kernel that becomes part of every kernel that calls it.

    A call hands over a dozen arguments through memory and hides from the compiler what does not change from step to
    step.
    """
    return numba.njit(function, forceinline=True, **_OPTIONS)
