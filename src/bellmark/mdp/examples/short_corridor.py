"""The short corridor with aliased states: where the best policy has to be random.

Source: Sutton & Barto, 2018, example 13.1 and exercise 13.1. To the learner the three states look the same,
so its policy is one probability p of going right. Undiscounted, from the start:

    v(p) = −(4 − 2p) / (p (1 − p)),  best at p = 2 − √2 ≈ 0.586, worth −(6 + 4√2) ≈ −11.657
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bellmark.mdp.examples.table import tabulate
from bellmark.mdp.model import FiniteMDP, Transition


def short_corridor(discount: float = 1.0) -> FiniteMDP:
    """Three states in a row and the goal; −1 per step; in the second state left and right are swapped."""

    def outcomes(state: int, action: str) -> Iterator[Transition]:
        if state < 3:
            step = 1 if (action == "right") != (state == 1) else -1
            yield 1.0, max(state + step, 0), -1.0, False

    states = [0, 1, 2, 3]
    return tabulate(
        states, ["left", "right"], outcomes, initial={0: 1.0}, name="short-corridor", discount=discount
    )


def aliased_features() -> NDArray[np.float32]:
    """[4, 1]: what the learner sees of each state, which is nothing; for `FiniteEnvironment(mdp,
    features)`."""
    return np.ones((4, 1), np.float32)
