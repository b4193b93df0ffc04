"""Acrobot-v1: a gymnast on a bar, driven at the hips alone, has to swing the feet above the bar.

θ₁ is the first link's angle from hanging straight down, θ₂ the second's from being in line with the first.
The torque at the joint between them is -1, 0 or 1 N·m, held for 0.2 s, integrated by one classical Runge-
Kutta step of fourth order.  Every step costs 1, except the one on which -cos θ₁ - cos(θ₁ + θ₂) > 1: that one
terminates the episode.  The registered environment is cut after 500 steps.

Source: R. S. Sutton, "Generalization in reinforcement learning: successful examples using sparse coarse
coding", NIPS 1996; the equations of motion as corrected in R. S. Sutton and A. G. Barto, *Reinforcement
Learning*, 1st edition, section 11.3.  Equal to Gymnasium's Acrobot-v1.
"""

import math
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.envs.classic_control.angles import sine_cosine, wrapped
from bellmark.types import Key

# Both links are alike: mass 1 kg, length 1 m, centre of mass half-way, moment of inertia 1 kg·m².
MASS, LENGTH, CENTRE, INERTIA = 1.0, 1.0, 0.5, 1.0
GRAVITY = 9.8  # m/s²
SECONDS = 0.2  # per step
TOP_SPEED_1, TOP_SPEED_2 = 4 * math.pi, 9 * math.pi  # rad/s

COUPLING = MASS * LENGTH * CENTRE

_HIGH = np.array([1, 1, 1, 1, TOP_SPEED_1, TOP_SPEED_2], np.float32)
OBSERVATION_SPACE = gymnasium.spaces.Box(-_HIGH, _HIGH, dtype=np.float32)
ACTION_SPACE = gymnasium.spaces.Discrete(3)


class State(NamedTuple):
    angle_1: Float[Array, ""]
    angle_2: Float[Array, ""]
    speed_1: Float[Array, ""]
    speed_2: Float[Array, ""]


def motion(state: State, torque: Float[Array, ""]) -> State:
    """The state's time derivative under a torque at the second joint."""
    angle_1, angle_2, speed_1, speed_2 = state
    sine_1, cosine_1 = sine_cosine(angle_1)
    sine, cosine = sine_cosine(angle_2)
    inertia_1 = MASS * (2 * CENTRE**2 + LENGTH**2) + 2 * INERTIA + 2 * COUPLING * cosine
    inertia_2 = MASS * CENTRE**2 + INERTIA + COUPLING * cosine
    weight_2 = MASS * CENTRE * GRAVITY * (sine_1 * cosine + cosine_1 * sine)
    weight_1 = MASS * (CENTRE + LENGTH) * GRAVITY * sine_1 + weight_2
    load = weight_1 - COUPLING * (speed_2 + 2 * speed_1) * speed_2 * sine
    ratio = inertia_2 / inertia_1
    acceleration_2 = (torque + ratio * load - COUPLING * speed_1**2 * sine - weight_2) / (
        MASS * CENTRE**2 + INERTIA - inertia_2 * ratio
    )
    acceleration_1 = -ratio * acceleration_2 - load / inertia_1
    return State(speed_1, speed_2, acceleration_1, acceleration_2)


def swing(state: State, torque: Float[Array, ""]) -> State:
    """One Runge-Kutta step of `SECONDS`."""

    def ahead(slope: State, seconds: float) -> State:
        return State(*(value + seconds * rate for value, rate in zip(state, slope, strict=True)))

    first = motion(state, torque)
    second = motion(ahead(first, SECONDS / 2), torque)
    third = motion(ahead(second, SECONDS / 2), torque)
    fourth = motion(ahead(third, SECONDS), torque)
    mean = (a + 2 * (b + c) + d for a, b, c, d in zip(first, second, third, fourth, strict=True))
    return ahead(State(*mean), SECONDS / 6)


class Acrobot(AbstractEnvironment):
    """The physics without the time limit, which is `wrappers.TimeLimit`."""

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return OBSERVATION_SPACE

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        return ACTION_SPACE

    def reset(self, key: Key) -> State:
        return State(*jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1))

    def observe(self, state: State) -> Float[Array, "6"]:
        (sine_1, cosine_1), (sine_2, cosine_2) = sine_cosine(state.angle_1), sine_cosine(state.angle_2)
        seen = (cosine_1, sine_1, cosine_2, sine_2, state.speed_1, state.speed_2)
        return jnp.stack(seen).astype(jnp.float32)

    def step(self, state: State, action: Int[Array, ""], key: Key) -> tuple[State, Step]:
        swung = swing(state, action - 1.0)
        after = State(
            wrapped(swung.angle_1),
            wrapped(swung.angle_2),
            jnp.clip(swung.speed_1, -TOP_SPEED_1, TOP_SPEED_1),
            jnp.clip(swung.speed_2, -TOP_SPEED_2, TOP_SPEED_2),
        )
        (_, cosine_1), (_, cosine_sum) = (
            sine_cosine(after.angle_1),
            sine_cosine(after.angle_1 + after.angle_2),
        )
        above = -cosine_1 - cosine_sum > 1
        return after, Step(jnp.where(above, 0.0, -1.0).astype(jnp.float32), above, jnp.bool_(False))

    def render(self, state: State) -> np.ndarray:
        from bellmark.envs.drawing import BLUE, FAINT, GREEN, INK, ORANGE, Canvas

        one, two = float(state.angle_1), float(state.angle_2)
        canvas = Canvas(600, 400, centre=(0.0, 0.0), pixels_per_unit=85)
        hips = (LENGTH * math.sin(one), -LENGTH * math.cos(one))
        feet = (hips[0] + LENGTH * math.sin(one + two), hips[1] - LENGTH * math.cos(one + two))
        for dash in range(-22, 22):
            canvas.line([(dash / 6, 1.0), (dash / 6 + 0.07, 1.0)], 0.025, GREEN)
        canvas.line([(-3.6, 0.0), (3.6, 0.0)], 0.03, FAINT)
        canvas.line([(0.0, 0.0), hips], 0.19, BLUE)
        canvas.line([hips, feet], 0.15, ORANGE)
        canvas.circle((0.0, 0.0), 0.07, INK)
        canvas.circle(hips, 0.06, INK)
        return canvas.pixels()
