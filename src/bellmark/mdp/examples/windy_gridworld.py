"""Windy gridworld: a cross wind pushes you up while you walk to the goal.

Source: Sutton & Barto, 2018, example 6.5 and exercises 6.9 and 6.10. Fifteen steps are needed; seven with
king's moves.
"""

from collections.abc import Iterator

from bellmark.mdp.examples.grid_world import MOVES, Cell, grid_layout
from bellmark.mdp.examples.table import tabulate
from bellmark.mdp.model import FiniteMDP, Transition

ROWS, COLUMNS = 7, 10
WIND = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)
START, GOAL = (3, 0), (3, 7)
DIAGONALS: dict[str, Cell] = {
    "up-right": (-1, 1),
    "down-right": (1, 1),
    "down-left": (1, -1),
    "up-left": (-1, -1),
}


def windy_gridworld(
    kings_moves: bool = False, stand_still: bool = False, gusts: bool = False, discount: float = 1.0
) -> FiniteMDP:
    """−1 per move until the goal. The wind of the column you leave lifts you; the edges hold you.

    `kings_moves` adds the diagonals, `stand_still` an action that only drifts; with `gusts`, wherever
    there is wind, it is one stronger or one weaker with probability 1/3 each.
    """
    moves = MOVES | (DIAGONALS if kings_moves else {}) | ({"stay": (0, 0)} if stand_still else {})
    cells = [(r, c) for r in range(ROWS) for c in range(COLUMNS)]

    def outcomes(cell: Cell, move: str) -> Iterator[Transition]:
        if cell == GOAL:
            return
        wind = WIND[cell[1]]
        winds = (wind - 1, wind, wind + 1) if gusts and wind else (wind,)
        for lift in winds:
            row = min(max(cell[0] + moves[move][0] - lift, 0), ROWS - 1)
            column = min(max(cell[1] + moves[move][1], 0), COLUMNS - 1)
            yield 1.0 / len(winds), (row, column), -1.0, False

    layout = grid_layout(cells, (ROWS, COLUMNS), {}, [START], tuple(moves.values()))
    layout.marks[cells.index(GOAL)] = "G"
    name = "windy-gridworld"
    return tabulate(
        cells, list(moves), outcomes, initial={START: 1.0}, name=name, discount=discount, layout=layout
    )
