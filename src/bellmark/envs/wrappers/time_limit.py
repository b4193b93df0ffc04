"""Cut episodes after a number of steps: a truncation, never a termination, so that learners bootstrap."""

from typing import Any, NamedTuple

import equinox as eqx
import gymnasium
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.errors import BadInput
from bellmark.types import Action, Key, Observation


class Timed(NamedTuple):
    """The wrapped state, and how many steps its episode has taken."""

    inner: Any
    elapsed: Int[Array, ""]


class TimeLimit(AbstractEnvironment):
    """`environment`, truncated at its `limit`-th step, which may be terminated as well."""

    environment: AbstractEnvironment
    limit: int = eqx.field(static=True)

    def __check_init__(self):
        if self.limit < 1:
            raise BadInput(f"a time limit of {self.limit} was given; it must be at least 1")

    @property
    def observation_space(self) -> gymnasium.Space:
        return self.environment.observation_space

    @property
    def action_space(self) -> gymnasium.Space:
        return self.environment.action_space

    def reset(self, key: Key) -> Timed:
        return Timed(self.environment.reset(key), jnp.zeros((), jnp.int32))

    def observe(self, state: Timed) -> Observation:
        return self.environment.observe(state.inner)

    def step(self, state: Timed, action: Action, key: Key) -> tuple[Timed, Step]:
        inner, (reward, terminated, truncated) = self.environment.step(state.inner, action, key)
        elapsed = state.elapsed + 1
        return Timed(inner, elapsed), Step(reward, terminated, truncated | (elapsed >= self.limit))

    def action_mask(self, state: Timed) -> Bool[Array, " A"] | None:
        return self.environment.action_mask(state.inner)

    def render(self, state: Timed) -> np.ndarray:
        return self.environment.render(state.inner)
