"""CartPole-v1: push a cart left or right so that the pole on it stays upright.

Four numbers describe it: the cart's position x and the pole's angle θ from upright, with their velocities.  A
force of ±10 N acts for 0.02 s, integrated by Euler's explicit rule.  Every step pays 1, the last one
included; the episode terminates when |x| > 2.4 or |θ| > 12°, and the registered environment is cut after 500
steps.

Source: A. G. Barto, R. S. Sutton, C. W. Anderson, "Neuronlike adaptive elements that can solve difficult
learning control problems", IEEE Trans. SMC 13(5), 1983; the frictionless equations of motion are R. V.
Florian's, "Correct equations for the dynamics of the cart-pole system", 2007, eqs. 23 and 24.  Equal to
Gymnasium's CartPole-v1.
"""

import math
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.envs.classic_control.angles import sine_cosine
from bellmark.types import Key

GRAVITY = 9.8  # m/s²
CART_MASS, POLE_MASS = 1.0, 0.1  # kg
HALF_LENGTH = 0.5  # m, from the joint to the pole's centre of mass
FORCE = 10.0  # N
SECONDS = 0.02  # per step
POSITION_LIMIT, ANGLE_LIMIT = 2.4, 12 * math.pi / 180

TOTAL_MASS = CART_MASS + POLE_MASS
POLE_SHARE = POLE_MASS * HALF_LENGTH / TOTAL_MASS

_HIGH = np.array([2 * POSITION_LIMIT, np.inf, 2 * ANGLE_LIMIT, np.inf], np.float32)
OBSERVATION_SPACE = gymnasium.spaces.Box(-_HIGH, _HIGH, dtype=np.float32)
ACTION_SPACE = gymnasium.spaces.Discrete(2)


class State(NamedTuple):
    """One scalar each, so that the compiler fuses a step into one loop over the parallel environments."""

    position: Float[Array, ""]
    velocity: Float[Array, ""]
    angle: Float[Array, ""]
    angular_velocity: Float[Array, ""]


class CartPole(AbstractEnvironment):
    """The physics without the time limit, which is `wrappers.TimeLimit`."""

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return OBSERVATION_SPACE

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        return ACTION_SPACE

    def reset(self, key: Key) -> State:
        return State(*jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05))

    def observe(self, state: State) -> Float[Array, "4"]:
        return jnp.stack(state).astype(jnp.float32)

    def step(self, state: State, action: Int[Array, ""], key: Key) -> tuple[State, Step]:
        x, v, angle, spin = state
        force = FORCE * (2 * action - 1)
        sine, cosine = sine_cosine(angle)
        push = force / TOTAL_MASS + POLE_SHARE * spin**2 * sine
        spin_rate = (GRAVITY * sine - cosine * push) / (
            HALF_LENGTH * (4 / 3 - POLE_MASS / TOTAL_MASS * cosine**2)
        )
        acceleration = push - POLE_SHARE * spin_rate * cosine
        after = State(
            x + SECONDS * v, v + SECONDS * acceleration, angle + SECONDS * spin, spin + SECONDS * spin_rate
        )
        fallen = (jnp.abs(after.position) > POSITION_LIMIT) | (jnp.abs(after.angle) > ANGLE_LIMIT)
        return after, Step(jnp.float32(1), fallen, jnp.bool_(False))

    def render(self, state: State) -> np.ndarray:
        from bellmark.envs.drawing import BLUE, FAINT, GROUND, INK, ORANGE, RED, Canvas

        x, _, angle, _ = (float(number) for number in state)
        canvas = Canvas(600, 400, centre=(0.0, 0.62), pixels_per_unit=600 / 6.0)
        canvas.rectangle((-3.2, -2.0), (3.2, -0.42), GROUND)
        canvas.line([(-3.2, -0.42), (3.2, -0.42)], 0.02, FAINT)
        for mark in range(-12, 13):
            canvas.line([(mark / 5, -0.42), (mark / 5, -0.48 if mark % 5 else -0.54)], 0.012, FAINT)
        for limit in (-POSITION_LIMIT, POSITION_LIMIT):
            canvas.line([(limit, -0.42), (limit, -0.12)], 0.03, RED)
        tip = (x + 2 * HALF_LENGTH * math.sin(angle), 2 * HALF_LENGTH * math.cos(angle))
        for wheel in (x - 0.24, x + 0.24):
            canvas.circle((wheel, -0.31), 0.1, INK)
            canvas.circle((wheel, -0.31), 0.035, GROUND)
        canvas.rectangle((x - 0.42, -0.3), (x + 0.42, 0.06), BLUE, radius=0.07)
        canvas.line([(x, 0.0), tip], 0.1, ORANGE)
        canvas.circle((x, 0.0), 0.07, INK)
        return canvas.pixels()
