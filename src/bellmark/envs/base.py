"""The protocol of a compiled environment, and the little that every rollout needs to know about one.

A compiled environment is a pure description: its fields are parameters, its methods are pure functions of arrays that
can be jitted, vmapped and differentiated.  It describes *one* environment; the rollout runs many by `vmap`.

    state        = environment.reset(key)
    observation  = environment.observe(state)
    state, step  = environment.step(state, action, key)      # never resets, `step` is (reward, terminated, truncated)

An environment never resets itself: after `terminated` or `truncated` the rollout calls `reset`, and the true successor
is kept.  Observation is a function of the state, so that it is written once and never computed when not needed.
"""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import gymnasium
import numpy as np
from jaxtyping import Array, Bool, Float

from bellmark.types import Action, Key, Observation

State = Any


class Step(NamedTuple):
    """What one step yields beside the next state."""

    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]


class AbstractEnvironment(eqx.Module):
    """A Markov decision process as pure functions.  Subclasses are final: none overrides another's method."""

    @property
    @abc.abstractmethod
    def observation_space(self) -> gymnasium.Space: ...

    @property
    @abc.abstractmethod
    def action_space(self) -> gymnasium.Space: ...

    @abc.abstractmethod
    def reset(self, key: Key) -> State:
        """Draw an initial state."""

    @abc.abstractmethod
    def observe(self, state: State) -> Observation:
        """What the agent sees in `state`: an element of `observation_space`, as arrays."""

    @abc.abstractmethod
    def step(self, state: State, action: Action, key: Key) -> tuple[State, Step]:
        """Apply `action`; the key feeds the environment's own noise and is unused by deterministic ones."""

    def action_mask(self, state: State) -> Bool[Array, " A"] | None:
        """Which actions of a discrete space are valid in `state`; None when all always are."""
        return None

    def render(self, state: State) -> np.ndarray:
        """A picture of `state`, uint8 [height, width, 3], drawn on the host."""
        raise NotImplementedError(f"{type(self).__name__} has no picture")
