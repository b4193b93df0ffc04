"""What a linear learner leaves behind: a weight for every tile and action."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bellmark.envs.wrappers.discretise import StateIndex
from bellmark.experience.policy import FixedSpace
from bellmark.maths.distributions import Categorical
from bellmark.types import Key

from .tile_coding import Tiling, active_tiles


class LinearPolicy(eqx.Module):
    """Greedy in q(s, a) = Σ_{active tiles} w(·, a), or ε-greedy or softmax where actions are to be random.

    - `weights`: float32 [F, A]; of a predictor [F, 1], and its policy is the uniform one.
    - `epsilon`, `temperature`: float32 []; a temperature of 0 means ε-greedy.
    """

    weights: Any
    epsilon: Any
    temperature: Any
    fixed: FixedSpace = eqx.field(static=True)
    bins: tuple[int, ...] = eqx.field(static=True)
    tilings: int = eqx.field(static=True)
    actions: int = eqx.field(static=True)

    def values(self, observation: Any) -> Any:
        """q(s, ·) [*B, A], or v(s) [*B, 1]."""
        index = StateIndex.of(self.fixed.space, self.bins)
        tiles = active_tiles(Tiling.of(index, self.tilings), self.tilings, index(observation))
        return self.weights[tiles].sum(axis=-2)

    def probabilities(self, observation: Any) -> Any:
        """π(a|s) [*B, A]."""
        q, width = self.values(observation), self.actions
        if self.weights.shape[1] != width:
            return jnp.full((*q.shape[:-1], width), 1.0 / width)
        greedy = jax.nn.one_hot(jnp.argmax(q, axis=-1), width)
        soft = jax.nn.softmax(q / jnp.maximum(self.temperature, 1e-6), axis=-1)
        return jnp.where(self.temperature > 0, soft, (1 - self.epsilon) * greedy + self.epsilon / width)

    def distribution(self, observation: Any, mask: Any = None) -> Categorical:
        del mask
        shares = self.probabilities(observation)
        return Categorical(jnp.where(shares > 0, jnp.log(jnp.maximum(shares, 1e-38)), -1e9))

    def mode(self, observation: Any, mask: Any = None) -> Any:
        """The greedy action; with a mask, of those that it allows."""
        q = self.values(observation)
        q = jnp.broadcast_to(q, (*q.shape[:-1], self.actions))
        return jnp.argmax(q if mask is None else jnp.where(mask, q, -jnp.inf), axis=-1)

    def randomness(self, key: Key, shape: tuple[int, ...]) -> Any:
        return jax.random.uniform(key, shape)

    def __call__(self, observation: Any, randomness: Any, mask: Any = None) -> tuple[Any, None]:
        shares = self.probabilities(observation)
        shares = shares if mask is None else shares * mask
        running = jnp.cumsum(shares, axis=-1)
        return (running <= randomness[..., None] * running[..., -1:]).sum(axis=-1), None

    def on_host(self) -> "HostLinearPolicy":
        return HostLinearPolicy(self)


class HostLinearPolicy:
    """A `LinearPolicy` on NumPy arrays."""

    zero_noise_is_mode: ClassVar[bool] = True

    def __init__(self, policy: LinearPolicy):
        self._policy = policy
        self._index = StateIndex.of(policy.fixed.space, policy.bins)
        self._tiling = Tiling.of(self._index, policy.tilings)
        self._weights = np.asarray(policy.weights)
        self._epsilon, self._temperature = float(policy.epsilon), float(policy.temperature)

    def randomness(self, key: Key, shape: tuple[int, ...]) -> np.ndarray:
        return np.asarray(jax.random.uniform(key, shape))

    def __call__(self, observation: Any, randomness: Any, mask: Any = None) -> tuple[np.ndarray, None]:
        """Actions for observations [B, …]; `randomness` 0.0 gives the greedy ones."""
        cells = np.asarray(self._index(observation))
        q = self._weights[active_tiles(self._tiling, self._policy.tilings, cells)].sum(axis=-2)
        q = np.broadcast_to(q, (*q.shape[:-1], self._policy.actions))
        allowed = np.ones(q.shape, np.bool_) if mask is None else mask
        best = np.argmax(np.where(allowed, q, -np.inf), axis=-1)
        if isinstance(randomness, float):
            return best, None
        if self._weights.shape[1] != self._policy.actions:
            shares = np.ones(q.shape)
        elif self._temperature > 0:
            shares = np.exp((q - q.max(axis=-1, keepdims=True)) / self._temperature)
        else:
            shares = np.full(q.shape, self._epsilon / q.shape[-1])
            np.put_along_axis(
                shares, best[..., None], 1 - self._epsilon + self._epsilon / q.shape[-1], axis=-1
            )
        running = np.cumsum(shares * allowed, axis=-1)
        return (running <= randomness[..., None] * running[..., -1:]).sum(axis=-1), None
