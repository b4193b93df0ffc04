"""Hide part of an observation: a Markov process becomes partially observed, and memory begins to matter."""

from typing import Any

import equinox as eqx
import gymnasium
import numpy as np
from jaxtyping import Array, Bool, Float

from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.errors import BadInput
from bellmark.types import Action, Key


class MaskObservation(AbstractEnvironment):
    """Only the components `keep` of a vector observation are shown, in that order.

    `MaskObservation(CartPole(), keep=(0, 2))` shows where cart and pole are and hides how fast they move.
    """

    environment: AbstractEnvironment
    keep: tuple[int, ...] = eqx.field(static=True, converter=tuple)

    def __check_init__(self):
        space = self.environment.observation_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise BadInput(f"MaskObservation needs a vector; the observation space is {space}")
        size = space.shape[0]
        if not self.keep or not all(0 <= index < size for index in self.keep):
            raise BadInput(f"components {list(self.keep)} were to be kept; allowed are 0 to {size - 1}")

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        space = self.environment.observation_space
        assert isinstance(space, gymnasium.spaces.Box)
        kept = list(self.keep)
        return gymnasium.spaces.Box(space.low[kept], space.high[kept], dtype=space.dtype.type)

    @property
    def action_space(self) -> gymnasium.Space:
        return self.environment.action_space

    def reset(self, key: Key) -> Any:
        return self.environment.reset(key)

    def observe(self, state: Any) -> Float[Array, " kept"]:
        return self.environment.observe(state)[np.array(self.keep)]

    def step(self, state: Any, action: Action, key: Key) -> tuple[Any, Step]:
        return self.environment.step(state, action, key)

    def action_mask(self, state: Any) -> Bool[Array, " A"] | None:
        return self.environment.action_mask(state)

    def render(self, state: Any) -> np.ndarray:
        return self.environment.render(state)
