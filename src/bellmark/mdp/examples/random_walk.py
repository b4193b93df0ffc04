"""Random walks: nothing to decide, so the values are all there is to learn.

Source: Sutton & Barto, 2018, examples 6.2 (five states) and 7.1 (nineteen).
"""

from collections.abc import Iterator

from bellmark.mdp.examples.table import at_least, tabulate
from bellmark.mdp.model import FiniteMDP, Transition


def random_walk(length: int = 5, left: float = 0.0, right: float = 1.0, discount: float = 1.0) -> FiniteMDP:
    """States 1 … n; each step goes left or right with equal chance; falling off an end pays `left` or
    `right`.

    Undiscounted value of state i: left + (right − left) · i / (n + 1). So i / 6 for five states, and
    (i − 10) / 10 for `random_walk(19, left=-1)`.
    """
    at_least(length, 1, "length")

    def outcomes(state: int, _: str) -> Iterator[Transition]:
        for neighbour, paid in ((state - 1, left), (state + 1, right)):
            inside = 1 <= neighbour <= length
            yield 0.5, neighbour if inside else state, 0.0 if inside else paid, not inside

    middle = {(length + 1) // 2: 1.0}
    states = list(range(1, length + 1))
    return tabulate(states, ["walk"], outcomes, initial=middle, name="random-walk", discount=discount)
