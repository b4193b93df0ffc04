"""Small environments for policies with memory: one that needs it, and one with everything at once."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from bellmark.envs.base import AbstractEnvironment, Step


class Remembered(NamedTuple):
    cue: jax.Array
    steps: jax.Array


class Recall(AbstractEnvironment):
    """A corridor with a fork: which way to turn is shown in the first step only, the turn is taken in the last.

    Shown is (cue, 0) at the start, (0, 0) on the way and (0, 1) at the fork.  The right turn pays 1, the wrong one −1,
    so with memory the optimum is 1; the cue is fair and the fork looks the same for both, so whatever a policy without
    memory does there pays 0 in the mean.
    """

    length: int = eqx.field(static=True, default=5)

    @property
    def observation_space(self):
        return Box(-1.0, 1.0, (2,))

    @property
    def action_space(self):
        return Discrete(2)

    def reset(self, key):
        return Remembered(jax.random.bernoulli(key), jnp.int32(0))

    def observe(self, state):
        shown = jnp.where(state.steps == 0, 2.0 * state.cue - 1.0, 0.0)
        return jnp.stack([shown, (state.steps == self.length - 1).astype(jnp.float32)])

    def step(self, state, action, key):
        over = state.steps == self.length - 1
        right = jnp.where(action == state.cue, 1.0, -1.0)
        return Remembered(state.cue, state.steps + 1), Step(
            jnp.where(over, right, 0.0), over, jnp.bool_(False)
        )


class Everything(AbstractEnvironment):
    """A dictionary is shown, two choices are made at once, some of them are forbidden, and nothing is random.

    Terminated every fifth step where `ends` is "terminated", truncated where it is "truncated".  From step
    `impossible` of an episode on, the second choice has no valid option.
    """

    ends: str = eqx.field(static=True, default="truncated")
    impossible: int = eqx.field(static=True, default=1000)

    @property
    def observation_space(self):
        return Dict({"where": Box(-10.0, 10.0, (2,)), "phase": Discrete(3)})

    @property
    def action_space(self):
        return MultiDiscrete([2, 3])

    def reset(self, key):
        return Remembered(jnp.float32(0.5), jnp.int32(0))

    def observe(self, state):
        return {"where": jnp.stack([state.cue, -state.cue]), "phase": state.steps % 3}

    def step(self, state, action, key):
        after = Remembered(jnp.sin(state.cue + action[0] - 0.5 * action[1]), state.steps + 1)
        over = after.steps == 5
        yes, no = over & (self.ends == "terminated"), over & (self.ends == "truncated")
        return after, Step(after.cue + 0.1 * action[1], yes, no)

    def action_mask(self, state):
        second = jnp.arange(3) != state.steps % 3
        return jnp.concatenate([jnp.array([True, True]), second & (state.steps < self.impossible)])
