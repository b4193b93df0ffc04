"""Show the last few observations together, so that what one alone hides (a velocity, say) can be seen."""

from typing import Any, NamedTuple

import equinox as eqx
import gymnasium
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.errors import BadInput
from bellmark.types import Action, Key


class Stacked(NamedTuple):
    """The wrapped state, and the last `count` observations, oldest first."""

    inner: Any
    frames: Array


class FrameStack(AbstractEnvironment):
    """Observations of a Box [*shape] become the last `count` of them, [count, *shape], oldest first.

    Pictures [height, width, channels] are stacked on their channels, [height, width, count · channels], which
    is what convolutions read.  A new episode begins with `count` copies of its first observation.
    """

    environment: AbstractEnvironment
    count: int = eqx.field(static=True)

    def __check_init__(self):
        space = self.environment.observation_space
        if not isinstance(space, gymnasium.spaces.Box):
            raise BadInput(f"FrameStack stacks a Box; the observation space is {space}")
        if self.count < 1:
            raise BadInput(f"a stack of {self.count} frames was asked for; it must be at least 1")

    @property
    def _on_channels(self) -> bool:
        shape = self.environment.observation_space.shape
        return shape is not None and len(shape) == 3

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        space = self.environment.observation_space
        assert isinstance(space, gymnasium.spaces.Box)
        if self._on_channels:
            low, high = (np.concatenate([side] * self.count, axis=-1) for side in (space.low, space.high))
        else:
            low, high = (np.stack([side] * self.count) for side in (space.low, space.high))
        return gymnasium.spaces.Box(low, high, dtype=space.dtype.type)

    @property
    def action_space(self) -> gymnasium.Space:
        return self.environment.action_space

    def reset(self, key: Key) -> Stacked:
        inner = self.environment.reset(key)
        first = self.environment.observe(inner)
        return Stacked(inner, jnp.stack([first] * self.count))

    def observe(self, state: Stacked) -> Array:
        if not self._on_channels:
            return state.frames
        return jnp.concatenate([state.frames[i] for i in range(self.count)], axis=-1)

    def step(self, state: Stacked, action: Action, key: Key) -> tuple[Stacked, Step]:
        inner, step = self.environment.step(state.inner, action, key)
        frames = jnp.concatenate([state.frames[1:], self.environment.observe(inner)[None]])
        return Stacked(inner, frames), step

    def action_mask(self, state: Stacked) -> Bool[Array, " A"] | None:
        return self.environment.action_mask(state.inner)

    def render(self, state: Stacked) -> np.ndarray:
        return self.environment.render(state.inner)
