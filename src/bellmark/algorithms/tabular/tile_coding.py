"""Tile coding: continuous observations as a few active features out of many.

    T tilings cover the space, each displaced against the others; an observation lies in one tile of each.
    x(s) ∈ {0, 1}^F with exactly T ones,    v(s) = Σ_{active tiles} w

Tiling i is displaced along dimension d by i · (2d + 1) mod T parts of 1/T tile: the first odd numbers, which leave no
diagonal along which tiles line up. So all displacements are multiples of 1/T of a tile, and the cell of the grid that
is T times finer than the tiles says everything about an observation: an observation *is* the number of its fine cell,
which `StateIndex` computes as it does for tables. Nothing is hashed; every tile has a weight of its own.

A numbered state is a place on a line of such cells; with one tiling of tiles as long as a cell, that is the table.

Sutton & Barto, 2nd ed., section 9.5.4; the displacements: W. T. Miller, F. H. Glanz, 1996.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bellmark.envs.wrappers.discretise import StateIndex

from .kernels import inlined


class Tiling(NamedTuple):
    """What the kernels read: int64 [D] each. `cells` of a dimension, `tiles` that cover them in one tiling."""

    cells: NDArray[np.int64]
    tiles: NDArray[np.int64]

    @staticmethod
    def of(index: StateIndex, tilings: int) -> "Tiling":
        cells = np.array([count for count, _ in index.parts], np.int64)
        # displaced by up to T − 1 cells, a tiling reaches beyond the last one
        return Tiling(cells, (cells - 1 + tilings - 1) // tilings + 1)

    def features(self, tilings: int) -> int:
        """F, the number of tiles in all tilings."""
        return tilings * int(np.prod(self.tiles))


@inlined
def find_tiles(cells: Any, tiles: Any, s: int, active: Any) -> None:
    """Write the active tile of every tiling, int64 [T], for the fine cell `s` (unsigned)."""
    tilings = len(active)
    for i in range(tilings):
        left, stride, feature = np.int64(s), np.int64(1), np.int64(0)
        for back in range(len(cells)):
            d = len(cells) - 1 - back
            place = left % cells[d]
            left //= cells[d]
            feature += stride * ((place + (i * (2 * d + 1)) % tilings) // tilings)
            stride *= tiles[d]
        active[i] = i * stride + feature


def active_tiles(tiling: Tiling, tilings: int, s: Any) -> Any:
    """The same of many cells at once, NumPy or JAX: integers [*B] to [*B, T]."""
    i = np.arange(tilings)
    feature: Any = 0
    stride, left = 1, s[..., None]
    for d in reversed(range(len(tiling.cells))):
        place = left % int(tiling.cells[d])
        left = left // int(tiling.cells[d])
        feature = feature + stride * ((place + i * (2 * d + 1) % tilings) // tilings)
        stride *= int(tiling.tiles[d])
    return feature + i * stride
