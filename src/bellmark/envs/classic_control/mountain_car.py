"""MountainCar-v0: an engine too weak for the slope has to swing the car back and forth to reach the flag.

The slope is sin 3x; the engine pushes left, not at all, or right.  Every step costs 1; the episode terminates
at x ≥ 0.5, and the registered environment is cut after 200 steps.

Source: A. W. Moore, "Efficient memory-based learning for robot control", PhD thesis, Cambridge, 1990, as
simplified in R. S. Sutton and A. G. Barto, *Reinforcement Learning*, 2nd edition, example 10.1.  Equal to
Gymnasium's.
"""

from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.envs.classic_control.angles import sine_cosine
from bellmark.types import Key

LEFT_END, RIGHT_END, GOAL = -1.2, 0.6, 0.5
TOP_SPEED = 0.07
ENGINE, GRAVITY = 0.001, 0.0025

OBSERVATION_SPACE = gymnasium.spaces.Box(
    np.array([LEFT_END, -TOP_SPEED], np.float32), np.array([RIGHT_END, TOP_SPEED], np.float32)
)
ACTION_SPACE = gymnasium.spaces.Discrete(3)


class State(NamedTuple):
    position: Float[Array, ""]
    velocity: Float[Array, ""]


def roll(state: State, push: Float[Array, ""]) -> State:
    """One step of the car under a push that changes its velocity; the left end is a wall that stops it."""
    _, slope = sine_cosine(3 * state.position)
    velocity = state.velocity + push - GRAVITY * slope
    velocity = jnp.clip(velocity, -TOP_SPEED, TOP_SPEED)
    position = jnp.clip(state.position + velocity, LEFT_END, RIGHT_END)
    # Inside the slope's ends nothing is to be done; at the wall only a velocity to the right survives.
    return State(position, jnp.where(position <= LEFT_END, jnp.maximum(velocity, 0), velocity))


def start(key: Key) -> State:
    """At rest, uniformly between -0.6 and -0.4: the bottom of the valley and a little beside it."""
    position = jax.random.uniform(key, (), minval=-0.6, maxval=-0.4)
    return State(position, jnp.zeros_like(position))


def draw(position: float, goal: float) -> np.ndarray:
    """The slope, the flag and the car, uint8 [400, 600, 3]."""
    from bellmark.envs.drawing import BLUE, FAINT, GREEN, GROUND, INK, Canvas

    def height(x: float) -> float:
        return float(0.45 * np.sin(3 * x) + 0.55)

    canvas = Canvas(600, 400, centre=(-0.3, 0.58), pixels_per_unit=600 / 1.9)
    xs = np.linspace(-1.3, 0.7, 120).tolist()
    canvas.polygon([(-1.3, -1.0), *((x, height(x)) for x in xs), (0.7, -1.0)], GROUND)
    canvas.line([(x, height(x)) for x in xs], 0.012, FAINT)
    canvas.line([(goal, height(goal)), (goal, height(goal) + 0.17)], 0.01, INK)
    flag = height(goal) + 0.17
    canvas.polygon([(goal, flag), (goal - 0.1, flag - 0.03), (goal, flag - 0.065)], GREEN)
    slope = np.arctan(1.35 * np.cos(3 * position))
    along, across = (np.cos(slope), np.sin(slope)), (-np.sin(slope), np.cos(slope))

    def place(u: float, v: float) -> tuple[float, float]:
        """`u` along the slope and `v` above it, from where the car stands."""
        x, y = u * along[0] + v * across[0], u * along[1] + v * across[1]
        return float(position + x), height(position) + float(y)

    canvas.line([place(-0.065, 0.055), place(0.065, 0.055)], 0.05, BLUE)
    canvas.line([place(-0.028, 0.085), place(0.018, 0.085)], 0.05, BLUE)
    for u in (-0.05, 0.05):
        canvas.circle(place(u, 0.032), 0.028, INK)
        canvas.circle(place(u, 0.032), 0.01, GROUND)
    return canvas.pixels()


class MountainCar(AbstractEnvironment):
    """The physics without the time limit, which is `wrappers.TimeLimit`."""

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return OBSERVATION_SPACE

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        return ACTION_SPACE

    def reset(self, key: Key) -> State:
        return start(key)

    def observe(self, state: State) -> Float[Array, "2"]:
        return jnp.stack(state).astype(jnp.float32)

    def step(self, state: State, action: Int[Array, ""], key: Key) -> tuple[State, Step]:
        after = roll(state, ENGINE * (action - 1))
        arrived = (after.position >= GOAL) & (after.velocity >= 0)
        return after, Step(jnp.float32(-1), arrived, jnp.bool_(False))

    def render(self, state: State) -> np.ndarray:
        return draw(float(state.position), GOAL)
