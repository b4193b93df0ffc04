"""A small picture of one state of a gridworld, in NumPy alone, for the simulators' `render`."""

import numpy as np
from numpy.typing import NDArray

from bellmark.mdp.layout import GridLayout

CELL = 32
FLOOR, LINE, WALL, MARKED, DANGER, AGENT = (
    (250, 250, 247),
    (214, 214, 209),
    (74, 78, 86),
    (205, 230, 208),
    (238, 190, 182),
    (38, 96, 164),
)


def draw_state(layout: GridLayout, state: int) -> NDArray[np.uint8]:
    """uint8 [rows · 32, columns · 32, 3]: walls dark, marked cells green, cliffs red, the agent a blue
    disc."""
    height, width = layout.shape
    picture = np.empty((height * CELL, width * CELL, 3), np.uint8)
    picture[:] = FLOOR
    cells = {(int(layout.rows[s]), int(layout.columns[s])): MARKED for s in layout.marks}
    cells |= {(int(layout.rows[s]), int(layout.columns[s])): DANGER for s in layout.cliffs}
    cells |= dict.fromkeys(layout.walls, WALL)
    for (row, column), colour in cells.items():
        picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = colour
    picture[::CELL], picture[:, ::CELL] = LINE, LINE
    row, column = int(layout.rows[state]), int(layout.columns[state])
    if row >= 0:
        y, x = np.ogrid[: height * CELL, : width * CELL]
        centre = (row + 0.5) * CELL - 0.5, (column + 0.5) * CELL - 0.5
        picture[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= (0.34 * CELL) ** 2] = AGENT
    return picture
