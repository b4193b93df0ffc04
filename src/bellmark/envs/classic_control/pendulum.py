"""Pendulum-v1: swing a rod up and hold it there with a torque too weak to lift it directly.

θ is the angle from upright.  A torque u in [-2, 2] N·m acts for 0.05 s; velocity first, then angle (semi-
implicit Euler).  A step from (θ, θ') costs θ² + 0.1 θ'² + 0.001 u² with θ in [-π, π].  Nothing terminates an
episode; the registered environment is cut after 200 steps.

Source: the classic swing-up of an under-actuated rod about its end, moment of inertia m l² / 3; stated with
these constants in K. Doya, "Reinforcement learning in continuous time and space", Neural Computation 12(1),
2000, and in Gymnasium, whose Pendulum-v1 it equals.
"""

import math
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.envs.classic_control.angles import sine_cosine, wrapped
from bellmark.types import Key

GRAVITY, MASS, LENGTH = 10.0, 1.0, 1.0
TOP_TORQUE, TOP_SPEED = 2.0, 8.0
SECONDS = 0.05  # per step

_HIGH = np.array([1.0, 1.0, TOP_SPEED], np.float32)
OBSERVATION_SPACE = gymnasium.spaces.Box(-_HIGH, _HIGH, dtype=np.float32)
ACTION_SPACE = gymnasium.spaces.Box(-TOP_TORQUE, TOP_TORQUE, (1,), np.float32)


class State(NamedTuple):
    """The angle is kept in [-π, π], where sine, cosine and float32 itself are most accurate."""

    angle: Float[Array, ""]
    speed: Float[Array, ""]


class Pendulum(AbstractEnvironment):
    """The physics without the time limit, which is `wrappers.TimeLimit`."""

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return OBSERVATION_SPACE

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        return ACTION_SPACE

    def reset(self, key: Key) -> State:
        angle, speed = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return State(math.pi * angle, speed)

    def observe(self, state: State) -> Float[Array, "3"]:
        angle, speed = state
        sine, cosine = sine_cosine(angle)
        return jnp.stack((cosine, sine, speed)).astype(jnp.float32)

    def step(self, state: State, action: Float[Array, "1"], key: Key) -> tuple[State, Step]:
        torque = jnp.clip(action[0], -TOP_TORQUE, TOP_TORQUE)
        cost = state.angle**2 + 0.1 * state.speed**2 + 0.001 * torque**2
        sine, _ = sine_cosine(state.angle)
        pull = 3 * GRAVITY / (2 * LENGTH) * sine + 3 / (MASS * LENGTH**2) * torque
        speed = jnp.clip(state.speed + pull * SECONDS, -TOP_SPEED, TOP_SPEED)
        angle = wrapped(state.angle + speed * SECONDS)
        never = jnp.bool_(False)
        return State(angle, speed), Step(-cost.astype(jnp.float32), never, never)

    def render(self, state: State) -> np.ndarray:
        from bellmark.envs.drawing import FAINT, INK, ORANGE, Canvas

        angle = float(state.angle)
        canvas = Canvas(600, 400, centre=(0.0, 0.0), pixels_per_unit=150)
        canvas.circle((0.0, 0.0), 1.16, FAINT)
        canvas.circle((0.0, 0.0), 1.145, "#f7f8fb")
        canvas.line([(0.0, 1.08), (0.0, 1.22)], 0.02, INK)
        tip = (-LENGTH * math.sin(angle), LENGTH * math.cos(angle))
        canvas.line([(0.0, 0.0), tip], 0.17, ORANGE)
        canvas.circle((0.0, 0.0), 0.06, INK)
        return canvas.pixels()
