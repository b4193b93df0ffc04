"""Show the last few observations together, so that what one alone hides (a velocity, say) can be seen."""

from collections import deque
from typing import Any, NamedTuple

import equinox as eqx
import gymnasium
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.envs.spaces import is_image
from bellmark.envs.wrappers.scale_action import ScaleAction
from bellmark.envs.wrappers.time_limit import TimeLimit
from bellmark.errors import BadInput
from bellmark.types import Action, Key


class Stacked(NamedTuple):
    """The wrapped state, and the last `count` observations, oldest first."""

    inner: Any
    frames: Array


def stacked_space(space: gymnasium.Space, count: int) -> gymnasium.spaces.Box:
    """The space of `count` observations of a Box together."""
    if not isinstance(space, gymnasium.spaces.Box):
        raise BadInput(f"FrameStack stacks a Box; the observation space is {space}")
    if count < 1:
        raise BadInput(f"a stack of {count} frames was asked for; it must be at least 1")
    low, high = (stack([side] * count, space, np) for side in (space.low, space.high))
    return gymnasium.spaces.Box(low, high, dtype=space.dtype.type)


def stack(frames: list[Any], space: gymnasium.Space, xp: Any) -> Any:
    """Observations of `space`, oldest first, as one; `xp` is `numpy` or `jax.numpy`."""
    shape = space.shape or ()
    if len(shape) == 3:
        return xp.concatenate(frames, axis=-1)
    return xp.stack(frames, axis=-1 if is_image(space) else 0)


def stacked_frames(environment: AbstractEnvironment) -> int:
    """How many frames the pictures of a compiled environment consist of: 1 where nothing is stacked."""
    while isinstance(environment, TimeLimit | ScaleAction):
        environment = environment.environment
    if isinstance(environment, FrameStack) and is_image(environment.observation_space):
        return environment.count
    return 1


class FrameStack(AbstractEnvironment):
    """Observations of a Box [*shape] become the last `count` of them, [count, *shape], oldest first.

    Pictures [height, width, channels] are stacked on their channels, [height, width, count · channels], and
    grey ones [height, width] become [height, width, count]: what convolutions read.  A new episode begins with
    `count` copies of its first observation.
    """

    environment: AbstractEnvironment
    count: int = eqx.field(static=True)

    def __check_init__(self):
        stacked_space(self.environment.observation_space, self.count)

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return stacked_space(self.environment.observation_space, self.count)

    @property
    def action_space(self) -> gymnasium.Space:
        return self.environment.action_space

    def reset(self, key: Key) -> Stacked:
        inner = self.environment.reset(key)
        first = self.environment.observe(inner)
        return Stacked(inner, jnp.stack([first] * self.count))

    def observe(self, state: Stacked) -> Array:
        return stack(list(state.frames), self.environment.observation_space, jnp)

    def step(self, state: Stacked, action: Action, key: Key) -> tuple[Stacked, Step]:
        inner, step = self.environment.step(state.inner, action, key)
        frames = jnp.concatenate([state.frames[1:], self.environment.observe(inner)[None]])
        return Stacked(inner, frames), step

    def action_mask(self, state: Stacked) -> Bool[Array, " A"] | None:
        return self.environment.action_mask(state.inner)

    def render(self, state: Stacked) -> np.ndarray:
        return self.environment.render(state.inner)


class HostFrameStack(gymnasium.Wrapper):
    """The same around an environment of Gymnasium's."""

    def __init__(self, environment: gymnasium.Env, count: int):
        gymnasium.Wrapper.__init__(self, environment)
        self.observation_space = stacked_space(environment.observation_space, count)
        self.count = count
        self.stacked_frames = count if is_image(self.observation_space) else 1
        self._frames: deque[Any] = deque(maxlen=count)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        first, info = self.env.reset(seed=seed, options=options)
        self._frames.extend([np.array(first)] * self.count)
        return self._shown(), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict]:
        frame, reward, terminated, truncated, info = self.env.step(action)
        self._frames.append(np.array(frame))
        return self._shown(), reward, terminated, truncated, info

    def _shown(self) -> np.ndarray:
        return stack(list(self._frames), self.env.observation_space, np)
