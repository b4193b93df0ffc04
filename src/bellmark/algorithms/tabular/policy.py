"""What a table learner leaves behind: an action for every state, on the host and in compiled programs alike."""

from typing import Any, ClassVar

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from bellmark.envs.wrappers.discretise import StateIndex
from bellmark.experience.policy import FixedSpace
from bellmark.maths.distributions import Categorical
from bellmark.types import Key


class TablePolicy(eqx.Module):
    """The greedy action of every state, and the behaviour that found it.

    - `actions`: int32 [S], greedy, the first of equals: what `mode` takes.
    - `probabilities`: float32 [S, A], the behaviour at the end: what is drawn where actions are to be random.
    - `values`: float64 [S, A], the action values, or [S, 1], the state values of a predictor.
    - `bins`: how continuous observations are cut.
    """

    actions: Any
    probabilities: Any
    values: Any
    fixed: FixedSpace = eqx.field(static=True)
    bins: tuple[int, ...] = eqx.field(static=True, default=())

    def states(self, observation: Any) -> Any:
        """Observations as rows of the tables."""
        return StateIndex.of(self.fixed.space, self.bins)(observation)

    def mode(self, observation: Any, mask: Any = None) -> Any:
        """The greedy action; where a mask forbids it, the best that is allowed."""
        state = self.states(observation)
        action = jnp.asarray(self.actions)[state]
        if mask is None or self.values.shape[1] == 1:
            return action
        allowed = jnp.take_along_axis(mask, action[..., None], -1)[..., 0]
        values = jnp.asarray(self.values, jnp.float32)[state]
        return jnp.where(allowed, action, jnp.argmax(jnp.where(mask, values, -jnp.inf), axis=-1))

    def distribution(self, observation: Any, mask: Any = None) -> Categorical:
        """The behaviour, as the exact evaluation of a trained policy asks for it."""
        del mask
        state = self.states(observation)
        greedy = jax.nn.one_hot(jnp.asarray(self.actions)[state], self.probabilities.shape[1])
        shares = jnp.asarray(self.probabilities)[state]
        # in float32 two actions may share first place; the nudge leaves it to the greedy one
        return Categorical(jnp.where(shares > 0, jnp.log(jnp.maximum(shares, 1e-38)), -1e9) + 1e-5 * greedy)

    def randomness(self, key: Key, shape: tuple[int, ...]) -> Any:
        return jax.random.uniform(key, shape)

    def __call__(self, observation: Any, randomness: Any, mask: Any = None) -> tuple[Any, None]:
        del mask  # the behaviour gives no probability to what is not available
        running = jnp.cumsum(jnp.asarray(self.probabilities)[self.states(observation)], axis=-1)
        drawn = randomness[..., None] * running[..., -1:]
        return (running <= drawn).sum(axis=-1), None

    def on_host(self) -> "HostTablePolicy":
        return HostTablePolicy(self)


class HostTablePolicy:
    """A `TablePolicy` on NumPy arrays."""

    zero_noise_is_mode: ClassVar[bool] = True

    def __init__(self, policy: TablePolicy):
        self._index = StateIndex.of(policy.fixed.space, policy.bins)
        self._actions, self._values = np.asarray(policy.actions), np.asarray(policy.values)
        self._running = np.cumsum(np.asarray(policy.probabilities), axis=-1)

    def randomness(self, key: Key, shape: tuple[int, ...]) -> np.ndarray:
        return np.asarray(jax.random.uniform(key, shape))

    def __call__(self, observation: Any, randomness: Any, mask: Any = None) -> tuple[np.ndarray, None]:
        """Actions for observations [B, …]; `randomness` 0.0 gives the greedy ones."""
        state = np.asarray(self._index(observation))
        if isinstance(randomness, float):
            action = self._actions[state]
            if mask is not None and self._values.shape[1] > 1:
                allowed = np.take_along_axis(mask, action[..., None], -1)[..., 0]
                best = np.argmax(np.where(mask, self._values[state], -np.inf), axis=-1)
                action = np.where(allowed, action, best)
            return action, None
        running = self._running[state]
        drawn = randomness[..., None] * running[..., -1:]
        return (running <= drawn).sum(axis=-1), None


def policy_template(
    observation_space: gymnasium.Space,
    action_space: gymnasium.spaces.Discrete,
    bins: tuple[int, ...],
    width: int,
) -> TablePolicy:
    """A policy of the right shapes, for reading one from a file; `width` is A, or 1 for a predictor."""
    size, actions = StateIndex.of(observation_space, bins).size, int(action_space.n)
    return TablePolicy(
        np.zeros(size, np.int32),
        np.zeros((size, actions), np.float32),
        np.zeros((size, width)),
        FixedSpace(observation_space),
        bins,
    )
