"""River swim: a small reward downstream, a large one upstream, against the current. Hard to explore, easy
to solve.

Source: Strehl & Littman, *An analysis of model-based interval estimation for MDPs*, JCSS 74, 2008; rewards
scaled as by Osband, Russo & Van Roy, NeurIPS 2013. With six states the best average reward is 0.4286 per
step.
"""

from collections.abc import Iterator

from bellmark.mdp.examples.table import at_least, tabulate
from bellmark.mdp.model import FiniteMDP, Transition


def river_swim(
    length: int = 6, near_reward: float = 0.005, far_reward: float = 1.0, discount: float = 0.99
) -> FiniteMDP:
    """Drifting left always works; swimming right gains 0.35, stays 0.6, loses 0.05 (0.6 / 0.4 at the
    ends)."""
    last = at_least(length, 2, "length") - 1

    def outcomes(place: int, action: str) -> Iterator[Transition]:
        if action == "left":
            yield 1.0, max(place - 1, 0), near_reward if place == 0 else 0.0, False
        elif place == 0:
            yield 0.4, 0, 0.0, False
            yield 0.6, 1, 0.0, False
        elif place == last:
            yield 0.4, last - 1, far_reward, False
            yield 0.6, last, far_reward, False
        else:
            yield 0.05, place - 1, 0.0, False
            yield 0.6, place, 0.0, False
            yield 0.35, place + 1, 0.0, False

    return tabulate(
        range(length), ["left", "right"], outcomes, initial={0: 1.0}, name="river-swim", discount=discount
    )
