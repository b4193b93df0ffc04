"""Forest management: let the trees grow, or cut them, before a fire does.

Source: Chadès et al., *MDPtoolbox*, Ecography 37, 2014, after Possingham & Tuck, 1997. With three ages and
γ = 0.9 the optimum is to wait, worth 26.244, 29.484 and 33.484.
"""

from collections.abc import Iterator

from bellmark.mdp.examples.table import at_least, probability, tabulate
from bellmark.mdp.model import FiniteMDP, Transition


def forest_management(
    ages: int = 3,
    old_growth_reward: float = 4.0,
    timber_reward: float = 2.0,
    fire: float = 0.1,
    discount: float = 0.9,
) -> FiniteMDP:
    """States 0 (young) … ages − 1 (old). Waiting in the oldest pays `old_growth_reward`; cutting pays
    `timber_reward` there, 1 in the ages between, 0 when young, and starts anew; fire burns with chance
    `fire`."""
    at_least(ages, 2, "ages")
    probability(fire, "fire")
    oldest = ages - 1

    def outcomes(age: int, action: str) -> Iterator[Transition]:
        if action == "cut":
            yield 1.0, 0, timber_reward if age == oldest else float(age > 0), False
        else:
            paid = old_growth_reward if age == oldest else 0.0
            yield fire, 0, paid, False
            yield 1.0 - fire, min(age + 1, oldest), paid, False

    return tabulate(range(ages), ["wait", "cut"], outcomes, name="forest-management", discount=discount)
