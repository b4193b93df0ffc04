"""Frozen lake: cross the ice to the goal without falling into a hole.

Source: Gymnasium's FrozenLake-v1 (its states, actions and table, to the digit).
"""

from collections.abc import Iterator

import numpy as np

from bellmark.errors import BadInput, did_you_mean
from bellmark.mdp.examples.table import probability, tabulate
from bellmark.mdp.layout import GridLayout
from bellmark.mdp.model import FiniteMDP, Transition

MAPS = {
    "4x4": "SFFF FHFH FFFH HFFG",
    "8x8": "SFFFFFFF FFFFFFFF FFFHFFFF FFFFFHFF FFFHFFFF FHHFFFHF FHFFHFHF FFFHFFFG",
}
MOVES = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}


def frozen_lake(
    map: str = "4x4", slippery: bool = True, success_rate: float = 1.0 / 3.0, discount: float = 0.99
) -> FiniteMDP:
    """Reaching G pays 1; G and H end the episode.

    `map` is 4x4, 8x8, or rows of S, F, H and G separated by spaces. On slippery ice a move goes where
    it points with `success_rate` and to either side with half the rest.
    """
    rows = MAPS.get(map, map).split()
    letters = "".join(rows)
    if "S" not in letters or set(letters) - set("SFHG") or any(len(row) != len(rows[0]) for row in rows):
        raise BadInput(
            f"the map {map!r}{did_you_mean(map, MAPS)} is neither 4x4 nor 8x8 nor equally long rows of "
            "S, F, H and G with a start S"
        )
    width, fail = len(rows[0]), (1.0 - probability(success_rate, "success_rate")) / 2.0
    ways = list(MOVES.values())

    def outcomes(state: int, move: str) -> Iterator[Transition]:
        if letters[state] in "GH":
            yield 1.0, state, 0.0, True
            return
        turn = list(MOVES).index(move)
        weights = ((turn - 1, fail), (turn, success_rate), (turn + 1, fail)) if slippery else ((turn, 1.0),)
        for way, weight in weights:
            down, right = ways[way % 4]
            row, column = divmod(state, width)
            target = min(max(row + down, 0), len(rows) - 1) * width + min(max(column + right, 0), width - 1)
            yield weight, target, float(letters[target] == "G"), letters[target] in "GH"

    starts = [state for state, letter in enumerate(letters) if letter == "S"]
    row_of, column_of = np.divmod(np.arange(len(letters)), width)
    marks = {state: letter for state, letter in enumerate(letters) if letter != "F"}
    holes = tuple(state for state, letter in enumerate(letters) if letter == "H")
    return tabulate(
        range(len(letters)),
        list(MOVES),
        outcomes,
        initial={state: 1.0 / len(starts) for state in starts},
        name="frozen-lake",
        discount=discount,
        layout=GridLayout((len(rows), width), row_of, column_of, (), tuple(ways), marks, holes),
    )
