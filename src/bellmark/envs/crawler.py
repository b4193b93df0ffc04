"""Pictures of the crawling robot: its two joints are the state, how far it has come is what it has earned."""

import math

import numpy as np

from bellmark.envs.drawing import BLUE, FAINT, GROUND, INK, ORANGE, RED, Canvas, Point
from bellmark.mdp.examples.crawler import HINGE_HEIGHT, joints
from bellmark.mdp.model import FiniteMDP

BODY, BEHIND = 90.0, 100.0
"""The body's length, and how far its hinge stands from the picture's left where a stretch of ground begins."""
STRETCH, POST = 400.0, 50.0
"""The robot walks through this much ground in one picture; then the next stretch is shown. Posts stand in between."""
WIDTH, HEIGHT, PIXELS = 640, 200, 1.04


def draw_crawler(mdp: FiniteMDP, state: int, travelled: float) -> np.ndarray:
    """uint8 [200, 640, 3]: the robot in `state` after it has come `travelled` units from where it started.

    A hand that is pressed below the ground lifts the body, which turns about its rear.
    """
    joint_notches = np.array(mdp.states)
    arms, hands = joint_notches.max(axis=0) + 1
    arm, hand = joint_notches[state]
    stretch = math.floor(travelled / STRETCH)
    left = stretch * STRETCH - BEHIND
    canvas = Canvas(WIDTH, HEIGHT, (left + WIDTH / PIXELS / 2, 70.0), PIXELS)
    canvas.rectangle((left - 10, -60.0), (left + WIDTH, 0.0), GROUND)
    post = math.ceil(left / POST)
    while post * POST < left + WIDTH / PIXELS:
        tall = post % 4 == 0
        canvas.line(
            ((post * POST, -4.0), (post * POST, -26.0 if tall else -14.0)), 3.0, INK if tall else FAINT
        )
        post += 1
    canvas.line(((0.0, -4.0), (0.0, -32.0)), 5.0, RED)
    elbow, tip = joints(arm / (arms - 1), hand / (hands - 1))
    pressed = max(0.0, -math.atan2(tip[1], tip[0] + BODY))

    def placed(point: Point) -> Point:
        """From the hinge's frame, the body level, to the world, turned about the rear's foot."""
        x, y = point[0] + BODY, point[1]
        turned = x * math.cos(pressed) - y * math.sin(pressed), x * math.sin(pressed) + y * math.cos(pressed)
        return turned[0] - BODY + travelled, turned[1]

    hinge = (0.0, HINGE_HEIGHT)
    corners = ((-BODY, 4.0), (0.0, 4.0), (0.0, HINGE_HEIGHT + 6), (-BODY, HINGE_HEIGHT + 6))
    canvas.polygon([placed(corner) for corner in corners], BLUE)
    canvas.circle(placed((-BODY + 12, 7.0)), 7.0, INK)
    canvas.circle(placed((-10.0, 7.0)), 7.0, INK)
    canvas.line([placed(hinge), placed(elbow)], 9.0, ORANGE)
    canvas.line([placed(elbow), placed(tip)], 7.0, ORANGE)
    for joint in (hinge, elbow):
        canvas.circle(placed(joint), 5.0, INK)
    canvas.circle(placed(tip), 4.0, RED if tip[1] <= 0 else INK)
    return canvas.pixels()
