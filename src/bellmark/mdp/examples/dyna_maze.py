"""The Dyna maze: a small maze for planning with a learnt model.

Source: Sutton & Barto, 2018, example 8.1. The shortest way takes 14 steps.
"""

from collections.abc import Iterator

from bellmark.mdp.examples.grid_world import MOVES, Cell, bump, grid_layout
from bellmark.mdp.examples.table import tabulate
from bellmark.mdp.model import FiniteMDP, Transition

MAZE = """
. . . . . . . # G
. . # . . . . # .
S . # . . . . # .
. . # . . . . . .
. . . . . # . . .
. . . . . . . . .
"""


def dyna_maze(discount: float = 0.95) -> FiniteMDP:
    """Reward 1 on entering the goal, 0 elsewhere: the optimum from the start is γ¹³."""
    symbols = {
        (r, c): symbol
        for r, line in enumerate(MAZE.strip().splitlines())
        for c, symbol in enumerate(line.split())
    }
    cells = [cell for cell, symbol in symbols.items() if symbol != "#"]
    start = next(cell for cell in cells if symbols[cell] == "S")
    goal = next(cell for cell in cells if symbols[cell] == "G")

    def outcomes(cell: Cell, move: str) -> Iterator[Transition]:
        if cell != goal:
            target = bump(cell, MOVES[move], cells)
            yield 1.0, target, float(target == goal), False

    layout = grid_layout(cells, (6, 9), {}, [start])
    layout.marks[cells.index(goal)] = "G"
    return tabulate(
        cells, list(MOVES), outcomes, initial={start: 1.0}, name="dyna-maze", discount=discount, layout=layout
    )
