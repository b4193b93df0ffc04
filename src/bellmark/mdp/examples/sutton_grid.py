"""Sutton & Barto's two small grids, on which they first compute values.

Source: Sutton & Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, examples 3.5, 3.8 and 4.1.
"""

from collections.abc import Iterator

from bellmark.mdp.examples.grid_world import MOVES, Cell, bump, grid_layout
from bellmark.mdp.examples.table import tabulate
from bellmark.mdp.model import FiniteMDP, Transition


def jump_grid(discount: float = 0.9) -> FiniteMDP:
    """The 5×5 grid: from A every action pays 10 and jumps to A′, from B it pays 5 and jumps to B′.

    Walking off the edge stays put and pays −1; everything else pays 0; it never ends.
    Optimal value of A: 10 / (1 − γ⁵), which is 24.419428 at γ = 0.9.
    """
    cells = [(r, c) for r in range(5) for c in range(5)]
    jumps = {(0, 1): ((4, 1), 10.0), (0, 3): ((2, 3), 5.0)}

    def outcomes(cell: Cell, move: str) -> Iterator[Transition]:
        if cell in jumps:
            yield 1.0, *jumps[cell], False
        else:
            target = bump(cell, MOVES[move], cells)
            yield 1.0, target, -1.0 if target == cell else 0.0, False

    layout = grid_layout(cells, (5, 5), {}, [])
    layout.marks.update({1: "A", 21: "A′", 3: "B", 13: "B′"})
    return tabulate(cells, list(MOVES), outcomes, name="jump-grid", discount=discount, layout=layout)


def small_grid(discount: float = 1.0) -> FiniteMDP:
    """The 4×4 grid: −1 per move until one of two opposite corners is reached.

    The random policy is worth 0, −14, −20, −22 along the first row, undiscounted.
    """
    cells = [(r, c) for r in range(4) for c in range(4)]
    corners = (cells[0], cells[-1])

    def outcomes(cell: Cell, move: str) -> Iterator[Transition]:
        if cell not in corners:
            yield 1.0, bump(cell, MOVES[move], cells), -1.0, False

    layout = grid_layout(cells, (4, 4), {}, [])
    layout.marks.update({0: "end", 15: "end"})
    return tabulate(cells, list(MOVES), outcomes, name="small-grid", discount=discount, layout=layout)
