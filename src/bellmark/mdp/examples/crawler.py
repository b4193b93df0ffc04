"""A crawling robot with two joints: the reward is how far a step has dragged its body forward.

An upper arm is hinged at the front of the body, a hand at the end of the arm. Each action turns one joint
by one notch. While the tip of the hand is on the ground before and after a turn, it grips, and the body
moves by as much as the tip would have moved the other way; a tip in the air moves nothing. A hand that
would go below the ground lifts the body instead, which the tip's depth stands for here.

Source: Tokic, Ertle & Fessler, *The crawler, a class room demonstrator for reinforcement learning*, FLAIRS
2009; the lengths are in the manner of UC Berkeley's CS 188 crawler.
"""

import math
from collections.abc import Iterator

from bellmark.mdp.examples.table import at_least, probability, tabulate
from bellmark.mdp.model import FiniteMDP, Transition

ARM, HAND, HINGE_HEIGHT = 60.0, 50.0, 30.0
ARM_ANGLES = (-math.pi / 6, math.pi / 6)
HAND_ANGLES = (-math.pi, 0.0)
TURNS = {"arm down": (-1, 0), "arm up": (1, 0), "hand in": (0, -1), "hand out": (0, 1)}


def crawler(
    arm_notches: int = 9, hand_notches: int = 13, slip: float = 0.0, discount: float = 0.9
) -> FiniteMDP:
    """States (arm notch, hand notch); with chance `slip` a turn does not happen. It never ends."""
    arms, hands = at_least(arm_notches, 2, "arm_notches"), at_least(hand_notches, 2, "hand_notches")
    probability(slip, "slip")

    def tip(state: tuple[int, int]) -> tuple[float, float]:
        """(distance before the hinge, height above the ground) of the tip of the hand."""
        low, high = ARM_ANGLES
        arm = low + (high - low) * state[0] / (arms - 1)
        low, high = HAND_ANGLES
        hand = arm + low + (high - low) * state[1] / (hands - 1)
        height = HINGE_HEIGHT + ARM * math.sin(arm) + HAND * math.sin(hand)
        return ARM * math.cos(arm) + HAND * math.cos(hand), height

    def outcomes(state: tuple[int, int], action: str) -> Iterator[Transition]:
        turned = (state[0] + TURNS[action][0], state[1] + TURNS[action][1])
        if not (0 <= turned[0] < arms and 0 <= turned[1] < hands):
            return
        (before, height_before), (after, height_after) = tip(state), tip(turned)
        grips = height_before <= 0.0 and height_after <= 0.0
        yield 1.0 - slip, turned, before - after if grips else 0.0, False
        yield slip, state, 0.0, False

    states = [(arm, hand) for arm in range(arms) for hand in range(hands)]
    initial = {(arms // 2, hands // 2): 1.0}
    return tabulate(states, list(TURNS), outcomes, initial=initial, name="crawler", discount=discount)
