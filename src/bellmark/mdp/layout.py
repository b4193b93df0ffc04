"""Where the states of a gridworld are drawn, and which way its actions point."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class GridLayout:
    """A picture of a grid model, for `bellmark.report.finite_plots`. It plays no part in solving.

    - `shape`: (rows, columns) of the picture.
    - `rows`, `columns`: int [S], the cell of each state, or −1 for a state that is not drawn.
    - `walls`: cells that no state occupies.
    - `directions`: for each action (rows down, columns right), or None for an action that points nowhere.
    - `marks`: short labels, such as S and G, by state index.
    - `cliffs`: state indices to hatch as dangerous ground.
    """

    shape: tuple[int, int]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    walls: tuple[tuple[int, int], ...] = ()
    directions: tuple[tuple[int, int] | None, ...] = ()
    marks: dict[int, str] = field(default_factory=dict)
    cliffs: tuple[int, ...] = ()
