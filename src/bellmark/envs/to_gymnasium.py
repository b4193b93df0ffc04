"""A compiled environment as a `gymnasium.Env`, for other libraries, for checking, and for looking at it."""

from typing import Any

import gymnasium
import jax
import numpy as np

from bellmark.envs.base import AbstractEnvironment
from bellmark.errors import BadInput


class ToGymnasium(gymnasium.Env):
    """`environment`, one step at a time on the host; it is compiled at the first call.

    All randomness comes from Gymnasium's own generator, which `reset(seed=...)` sets.  Where the environment
    has a mask of valid actions, it is in `info["action_mask"]`, as Gymnasium's convention has it.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, environment: AbstractEnvironment, render_mode: str | None = None):
        if render_mode not in (None, "rgb_array"):
            raise BadInput(f"unknown render mode {render_mode!r}; allowed: 'rgb_array' or None")
        self.environment, self.render_mode = environment, render_mode
        self.observation_space = environment.observation_space
        self.action_space = environment.action_space
        self._state: Any = None
        self._key: Any = None
        self._earned = 0.0

        def shown(state):
            return environment.observe(state), environment.action_mask(state)

        def reset(key):
            state = environment.reset(key)
            return state, shown(state)

        def step(state, action, key):
            key, noise = jax.random.split(key)
            state, outcome = environment.step(state, action, noise)
            return state, key, outcome, shown(state)

        self._reset, self._step = jax.jit(reset), jax.jit(step)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict[str, Any]]:
        gymnasium.Env.reset(self, seed=seed)
        start, self._key = jax.random.split(jax.random.key(int(self.np_random.integers(2**31))))
        self._state, shown = self._reset(start)
        self._earned = 0.0
        return self._on_host(shown)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset before the first step")
        self._state, self._key, outcome, shown = self._step(self._state, action, self._key)
        observation, info = self._on_host(shown)
        reward, terminated, truncated = jax.device_get(outcome)
        self._earned += float(reward)
        return observation, float(reward), bool(terminated), bool(truncated), info

    def render(self) -> np.ndarray | None:
        """The picture of the present state, or None where no render mode was asked for."""
        if self.render_mode is None or self._state is None:
            return None
        state = jax.device_get(self._state)
        # what some environments look like depends on what was earned on the way
        after = getattr(self.environment, "render_after", None)
        return self.environment.render(state) if after is None else after(state, self._earned)

    def _on_host(self, shown: tuple[Any, Any]) -> tuple[Any, dict[str, Any]]:
        observation, mask = jax.device_get(shown)
        observation = plain(self.observation_space, observation)
        return observation, {} if mask is None else {"action_mask": np.asarray(mask, np.int8)}


def plain(space: gymnasium.Space, value: Any) -> Any:
    """JAX has no scalars but arrays without axes; a Discrete observation is an integer, as in Gymnasium."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.int64(value)
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: plain(inner, value[key]) for key, inner in space.spaces.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(plain(inner, part) for inner, part in zip(space.spaces, value, strict=True))
    return np.array(value)
