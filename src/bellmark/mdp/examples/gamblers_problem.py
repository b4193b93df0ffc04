"""The gambler's problem: stake money on coin flips until you are ruined or reach your goal.

Source: Sutton & Barto, 2018, example 4.3. With heads below one half, bold play is optimal and its values are
exact: with 0.4, v(25) = 0.16, v(50) = 0.4 and v(75) = 0.64.
"""

from collections.abc import Iterator

from bellmark.mdp.examples.table import at_least, probability, tabulate
from bellmark.mdp.model import FiniteMDP, Transition


def gamblers_problem(goal: int = 100, heads: float = 0.4, discount: float = 1.0) -> FiniteMDP:
    """States 0 … goal of capital, actions 1 … goal / 2 of stakes; reaching the goal pays 1. Value:
    chance to win."""
    at_least(goal, 2, "goal")
    probability(heads, "heads")

    def outcomes(capital: int, stake: int) -> Iterator[Transition]:
        if stake <= min(capital, goal - capital):
            yield heads, capital + stake, float(capital + stake == goal), False
            yield 1.0 - heads, capital - stake, 0.0, False

    return tabulate(
        range(goal + 1), range(1, goal // 2 + 1), outcomes, name="gamblers-problem", discount=discount
    )
