"""Eligibility traces, kept only where they are not negligible.

    E ← γλ E;   then, at the pair or state just left,
    accumulating  E ← E + 1          replacing  E ← 1          dutch  E ← (1 − α) E + 1

A sweep visits the entries on a list, not the whole table; an entry whose trace falls below 1e-12 leaves the list.
(Sutton & Barto, 2nd ed., sections 12.2, 12.5 and 12.7; replacing traces: S. P. Singh, R. S. Sutton, 1996.)
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .kernels import inlined

Traces = Literal["accumulating", "replacing", "dutch"]

NEGLIGIBLE = 1e-12


def no_traces(entries: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Traces float64 [entries], the list of those that are not 0, and its length [1]."""
    return np.zeros(entries), np.zeros(entries, np.int64), np.zeros(1, np.int64)


@inlined
def mark(settings: Any, traces: Any, listed: Any, count: Any, entry: int, step: float) -> None:
    """Raise the trace of `entry` (unsigned)."""
    if traces[entry] == 0.0:
        listed[count[0]] = entry
        count[0] += 1
    if settings.mode == 0:
        traces[entry] += 1.0
    elif settings.mode == 1:
        traces[entry] = 1.0
    else:
        traces[entry] += 1.0 - step * traces[entry]


@inlined
def sweep(values: Any, traces: Any, listed: Any, count: Any, change: float, decay: float) -> None:
    """values ← values + change · E,  E ← decay · E, over the list; a decay of 0 empties it. `values` is [S, W]."""
    width = np.uint64(values.shape[1])
    kept = 0
    for place in range(count[0]):
        entry = np.uint64(listed[place])
        values[entry // width, entry % width] += change * traces[entry]
        traces[entry] *= decay
        if traces[entry] < NEGLIGIBLE:
            traces[entry] = 0.0
        else:
            listed[kept] = entry
            kept += 1
    count[0] = kept
