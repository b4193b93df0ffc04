"""MountainCarContinuous-v0: the mountain car with a throttle, which wastes energy when it is used.

The same slope as `mountain_car`; a stronger engine pushes with any force in [-1, 1].  Every step costs 0.1
force², of the force as asked for, before it is limited; reaching x ≥ 0.45 pays 100 and terminates the
episode.  The registered environment is cut after 999 steps.  Doing nothing is a local optimum with return 0.

Source: as `mountain_car`; the continuous variant is from A. de la Broissia's and O. Sigaud's, 2016.  Equal to
Gymnasium's, which keeps this state in float32.
"""

import gymnasium
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.envs.classic_control.mountain_car import OBSERVATION_SPACE, State, draw, roll, start
from bellmark.types import Key

ENGINE, GOAL = 0.0015, 0.45

ACTION_SPACE = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)


class MountainCarContinuous(AbstractEnvironment):
    """The physics without the time limit, which is `wrappers.TimeLimit`."""

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return OBSERVATION_SPACE

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        return ACTION_SPACE

    def reset(self, key: Key) -> State:
        return start(key)

    def observe(self, state: State) -> Float[Array, "2"]:
        return jnp.stack(state).astype(jnp.float32)

    def step(self, state: State, action: Float[Array, "1"], key: Key) -> tuple[State, Step]:
        after = roll(state, ENGINE * jnp.clip(action[0], -1, 1))
        arrived = (after.position >= GOAL) & (after.velocity >= 0)
        reward = jnp.where(arrived, 100.0, 0.0) - 0.1 * action[0] ** 2
        return after, Step(reward.astype(jnp.float32), arrived, jnp.bool_(False))

    def render(self, state: State) -> np.ndarray:
        return draw(float(state.position), GOAL)
