"""Compiled environments whose every step can be foretold."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from bellmark.envs.base import AbstractEnvironment, Step

ACTIONS = {
    "three": Discrete(3),
    "from minus one": Discrete(3, start=-1),
    "two choices": MultiDiscrete([2, 3]),
}


class Count(NamedTuple):
    first: jax.Array
    steps: jax.Array


class Countdown(AbstractEnvironment):
    """Shows (first, steps taken), first being a random number per episode; pays first + 10 · steps + action.

    Step `terminates` terminates and step `truncates` truncates, both at once where they are equal.
    """

    terminates: int = eqx.field(static=True, default=1000)
    truncates: int = eqx.field(static=True, default=1000)
    actions: str = eqx.field(static=True, default="three")
    masked: bool = eqx.field(static=True, default=False)
    nested: bool = eqx.field(static=True, default=False)

    @property
    def observation_space(self):
        plain = Box(-100.0, 1000.0, (2,))
        return Dict({"where": plain, "phase": Discrete(3, start=1)}) if self.nested else plain

    @property
    def action_space(self):
        return ACTIONS[self.actions]

    def reset(self, key):
        return Count(jax.random.uniform(key), jnp.zeros((), jnp.int32))

    def observe(self, state):
        plain = jnp.stack([state.first, state.steps.astype(jnp.float32)])
        return {"where": plain, "phase": 1 + state.steps % 3} if self.nested else plain

    def step(self, state, action, key):
        steps = state.steps + 1
        paid = state.first + 10.0 * steps + jnp.sum(action)
        return Count(state.first, steps), Step(paid, steps == self.terminates, steps == self.truncates)

    def action_mask(self, state):
        """Where `masked`, only action `steps % 3` is valid."""
        return jnp.arange(3) == state.steps % 3 if self.masked else None


class Tracking(AbstractEnvironment):
    """Move a number to 0: what is shown is where it is, what is paid is minus its square.  Truncated after 8."""

    @property
    def observation_space(self):
        return Box(-10.0, 10.0, (1,))

    @property
    def action_space(self):
        return Box(-0.5, 0.5, (1,))

    def reset(self, key):
        return Count(jax.random.uniform(key, minval=-1.0), jnp.zeros((), jnp.int32))

    def observe(self, state):
        return state.first[None]

    def step(self, state, action, key):
        after = Count(state.first + action[0], state.steps + 1)
        return after, Step(-jnp.square(after.first), jnp.bool_(False), after.steps == 8)
