"""Cliff walking: the shortest way home runs along an edge.

Source: Sutton & Barto, 2018, example 6.6; states, actions and table as in Gymnasium's CliffWalking-v1.
The optimum from the start is −13, along the edge.
"""

from collections.abc import Iterator

import numpy as np

from bellmark.mdp.examples.grid_world import MOVES
from bellmark.mdp.examples.table import tabulate
from bellmark.mdp.layout import GridLayout
from bellmark.mdp.model import FiniteMDP, Transition

ROWS, COLUMNS = 4, 12
START, GOAL = 36, 47
CLIFF = range(37, 47)


def cliff_walking(slippery: bool = False, discount: float = 1.0) -> FiniteMDP:
    """48 states row by row; every move pays −1, stepping off the cliff −100 and a walk back to the start.

    With `slippery`, a move goes where it points or to either side, each with probability 1/3.
    """
    ways = list(MOVES.values())

    def outcomes(state: int, move: str) -> Iterator[Transition]:
        row, column = divmod(state, COLUMNS)
        turn = list(MOVES).index(move)
        turns = (turn - 1, turn, turn + 1) if slippery else (turn,)
        for way in turns:
            down, right = ways[way % 4]
            target = min(max(row + down, 0), ROWS - 1) * COLUMNS + min(max(column + right, 0), COLUMNS - 1)
            if target in CLIFF:
                yield 1.0 / len(turns), START, -100.0, False
            else:
                yield 1.0 / len(turns), target, -1.0, target == GOAL

    states = range(ROWS * COLUMNS)
    rows, columns = np.divmod(np.arange(len(states)), COLUMNS)
    layout = GridLayout(
        (ROWS, COLUMNS), rows, columns, (), tuple(ways), {START: "S", GOAL: "G"}, tuple(CLIFF)
    )
    return tabulate(
        states,
        list(MOVES),
        outcomes,
        initial={START: 1.0},
        name="cliff-walking",
        discount=discount,
        layout=layout,
    )
