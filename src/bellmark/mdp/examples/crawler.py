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


def joints(arm_share: float, hand_share: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The elbow and the tip of the hand, each (distance before the hinge, height above the ground).

    Shares of the angles' ranges, 0 to 1; the second angle is counted from the arm.
    """
    arm = ARM_ANGLES[0] + (ARM_ANGLES[1] - ARM_ANGLES[0]) * arm_share
    hand = arm + HAND_ANGLES[0] + (HAND_ANGLES[1] - HAND_ANGLES[0]) * hand_share
    elbow = ARM * math.cos(arm), HINGE_HEIGHT + ARM * math.sin(arm)
    return elbow, (elbow[0] + HAND * math.cos(hand), elbow[1] + HAND * math.sin(hand))


def crawler(
    arm_notches: int = 9, hand_notches: int = 13, slip: float = 0.0, discount: float = 0.9
) -> FiniteMDP:
    """States (arm notch, hand notch); with chance `slip` a turn does not happen. It never ends."""
    arms, hands = at_least(arm_notches, 2, "arm_notches"), at_least(hand_notches, 2, "hand_notches")
    probability(slip, "slip")

    def tip(state: tuple[int, int]) -> tuple[float, float]:
        return joints(state[0] / (arms - 1), state[1] / (hands - 1))[1]

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
