"""Show any observation as one float32 vector."""

from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Array, Bool, Float

from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.envs.spaces import flat_size, flatten
from bellmark.types import Action, Key


class FlattenObservation(AbstractEnvironment):
    """Observations become `spaces.flatten` of what they were: numbers in a row, choices one-hot."""

    environment: AbstractEnvironment

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        space = self.environment.observation_space
        if isinstance(space, gymnasium.spaces.Box):
            low, high = (side.reshape(-1).astype(np.float32) for side in (space.low, space.high))
            return gymnasium.spaces.Box(low, high, dtype=np.float32)
        return gymnasium.spaces.Box(-np.inf, np.inf, (flat_size(space),), np.float32)

    @property
    def action_space(self) -> gymnasium.Space:
        return self.environment.action_space

    def reset(self, key: Key) -> Any:
        return self.environment.reset(key)

    def observe(self, state: Any) -> Float[Array, " size"]:
        return flatten(self.environment.observation_space, self.environment.observe(state))

    def step(self, state: Any, action: Action, key: Key) -> tuple[Any, Step]:
        return self.environment.step(state, action, key)

    def action_mask(self, state: Any) -> Bool[Array, " A"] | None:
        return self.environment.action_mask(state)

    def render(self, state: Any) -> np.ndarray:
        return self.environment.render(state)
