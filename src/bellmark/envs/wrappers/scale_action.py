"""Let the agent act in [-1, 1], whatever the environment's own bounds are."""

from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.errors import BadInput
from bellmark.types import Action, Key, Observation


class ScaleAction(AbstractEnvironment):
    """An action a in [-1, 1] reaches the environment as low + (a + 1) / 2 · (high - low), per component."""

    environment: AbstractEnvironment

    def __check_init__(self):
        space = self.environment.action_space
        if not isinstance(space, gymnasium.spaces.Box) or not space.is_bounded():
            raise BadInput(f"ScaleAction needs a Box with finite bounds; the action space is {space}")

    @property
    def observation_space(self) -> gymnasium.Space:
        return self.environment.observation_space

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, self.environment.action_space.shape, np.float32)

    def reset(self, key: Key) -> Any:
        return self.environment.reset(key)

    def observe(self, state: Any) -> Observation:
        return self.environment.observe(state)

    def step(self, state: Any, action: Action, key: Key) -> tuple[Any, Step]:
        space = self.environment.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        half = (space.high - space.low) / 2
        # Rounding must not carry a = ±1 out of the bounds.
        scaled = jnp.clip(space.low + (action + 1) * half, space.low, space.high)
        return self.environment.step(state, scaled.astype(space.dtype), key)

    def action_mask(self, state: Any) -> Bool[Array, " A"] | None:
        return self.environment.action_mask(state)

    def render(self, state: Any) -> np.ndarray:
        return self.environment.render(state)
