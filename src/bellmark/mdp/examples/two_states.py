"""The smallest problem in which it pays to wait.

Source: Puterman, *Markov Decision Processes*, 1994, example 3.1. At γ = 0.95 the optimum is −8.5714 and −20.
"""

from collections.abc import Iterator

from bellmark.mdp.examples.table import tabulate
from bellmark.mdp.model import FiniteMDP, Transition


def two_states(discount: float = 0.95) -> FiniteMDP:
    """In the first state: stay or leave at even odds for 5, or leave for 10. In the second: stay, for
    −1, forever."""

    def outcomes(state: str, action: str) -> Iterator[Transition]:
        if state == "second" and action == "linger":
            yield 1.0, "second", -1.0, False
        elif state == "first" and action == "linger":
            yield 0.5, "first", 5.0, False
            yield 0.5, "second", 5.0, False
        elif state == "first":
            yield 1.0, "second", 10.0, False

    return tabulate(["first", "second"], ["linger", "leave"], outcomes, name="two-states", discount=discount)
