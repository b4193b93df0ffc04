"""Two robots that tidy up: one has to choose between a can and its charger, the other when to look for cans
at all."""

from collections.abc import Iterator

from bellmark.mdp.examples.table import probability, tabulate
from bellmark.mdp.model import FiniteMDP, Transition


def cleaning_robot(slip: float = 0.0, discount: float = 0.5) -> FiniteMDP:
    """Positions 0 … 5: the charger at 0 pays 1, the can at 5 pays 5; both end the episode.

    With chance `slip` a step fails: three times in four the robot stays, else it goes the other way
    (slip = 0.2 is the source's stochastic version). Source: Busoniu, Babuska, De Schutter & Ernst,
    *Reinforcement Learning and Dynamic Programming Using Function Approximators*, 2010, examples 2.1
    and 2.2. Without slip, at γ = 0.5, v = 0, 1, 1.25, 2.5, 5, 0.
    """
    probability(slip, "slip")

    def outcomes(place: int, action: str) -> Iterator[Transition]:
        if 0 < place < 5:
            step = 1 if action == "right" else -1
            for chance, moved in ((1.0 - slip, step), (0.75 * slip, 0), (0.25 * slip, -step)):
                target = place + moved
                yield chance, target, {0: 1.0, 5: 5.0}.get(target, 0.0), False

    return tabulate(range(6), ["left", "right"], outcomes, name="cleaning-robot", discount=discount)


def recycling_robot(
    search_high: float = 0.9,
    search_low: float = 0.6,
    search_reward: float = 3.0,
    wait_reward: float = 1.0,
    rescue_cost: float = 3.0,
    discount: float = 0.9,
) -> FiniteMDP:
    """Battery high or low; search, wait, or (when low) recharge; running flat costs `rescue_cost`.

    `search_high` and `search_low` are the chances that the battery level survives a search.
    Source: Sutton & Barto, 2018, example 3.3.
    """
    probability(search_high, "search_high")
    probability(search_low, "search_low")

    def outcomes(battery: str, action: str) -> Iterator[Transition]:
        if action == "wait":
            yield 1.0, battery, wait_reward, False
        elif action == "recharge":
            if battery == "low":
                yield 1.0, "high", 0.0, False
        elif battery == "high":
            yield search_high, "high", search_reward, False
            yield 1.0 - search_high, "low", search_reward, False
        else:
            yield search_low, "low", search_reward, False
            yield 1.0 - search_low, "high", -rescue_cost, False

    actions = ["search", "wait", "recharge"]
    return tabulate(
        ["high", "low"], actions, outcomes, initial={"high": 1.0}, name="recycling-robot", discount=discount
    )
