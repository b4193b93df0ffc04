"""Action values as heads: how a network's outputs become Q(s, a), and how Q is acted on.

    values(outputs)        Q [*B, A], of single values or of distributions of returns
    EpsilonGreedyHead      the best action, with probability ε any
    BoltzmannHead          π(a|s) ∝ exp(Q(s,a)/τ)

One uniform number per action is all the randomness there is.  ε and τ are arrays, so that a schedule can move them, and
belong to the policy that is saved; evaluation takes the best action.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bellmark.maths.action_values import centred
from bellmark.maths.distributional import atoms, log_softmax
from bellmark.maths.distributions import MASKED, Categorical, mask_logits
from bellmark.networks.heads import HostAct
from bellmark.types import Key


class ActionValues(eqx.Module):
    """One output per action; dueling, one more for V(s) in front: Q = V + A − mean A (Wang et al., 2016, eq. 9)."""

    actions: int = eqx.field(static=True)
    dueling: bool = eqx.field(static=True, default=False)

    @property
    def outputs(self) -> int:
        return self.actions + self.dueling

    def __call__(self, outputs):
        return outputs[..., :1] + centred(outputs[..., 1:]) if self.dueling else outputs


class CategoricalValues(eqx.Module):
    """Per action the probabilities of `count` returns from `low` to `high`; Q is their mean (Bellemare et al., 2017).

    Dueling, logits are V + A − mean A, atom by atom (Hessel et al., 2018).
    """

    actions: int = eqx.field(static=True)
    count: int = eqx.field(static=True)
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)
    dueling: bool = eqx.field(static=True, default=False)

    @property
    def outputs(self) -> int:
        return (self.actions + self.dueling) * self.count

    def log_probs(self, outputs):
        """Log-probabilities [*B, A, Z] of the returns `atoms(low, high, Z)`."""
        return log_softmax(per_action(outputs, self.count, self.dueling))

    def __call__(self, outputs):
        log_probs = self.log_probs(outputs)
        exp = np.exp if isinstance(log_probs, np.ndarray) else jnp.exp
        return (exp(log_probs) * atoms(self.low, self.high, self.count)).sum(-1)


class QuantileValues(eqx.Module):
    """Per action `count` quantiles of the return, in no enforced order; Q is their mean (Dabney et al., 2018)."""

    actions: int = eqx.field(static=True)
    count: int = eqx.field(static=True)
    dueling: bool = eqx.field(static=True, default=False)

    @property
    def outputs(self) -> int:
        return (self.actions + self.dueling) * self.count

    def quantiles(self, outputs):
        """Quantiles [*B, A, K]."""
        return per_action(outputs, self.count, self.dueling)

    def __call__(self, outputs):
        return self.quantiles(outputs).mean(-1)


Values = ActionValues | CategoricalValues | QuantileValues
"""How outputs are read: `outputs` of them, `__call__` giving Q [*B, A] of JAX and of NumPy arrays alike."""


def per_action(outputs: Any, count: int, dueling: bool) -> Any:
    """`count` numbers for every action [*B, A, count]; dueling, a row for the state comes first and is shared."""
    rows = outputs.reshape(*outputs.shape[:-1], -1, count)
    if not dueling:
        return rows
    advantage = rows[..., 1:, :]
    return rows[..., :1, :] + advantage - advantage.mean(-2, keepdims=True)


class EpsilonGreedyHead(eqx.Module):
    """The best action by `values`, with probability ε any valid one."""

    values: Any
    epsilon: Float[Array, ""]

    @property
    def outputs(self) -> int:
        return self.values.outputs

    def distribution(
        self, outputs: Float[Array, "*B K"], mask: Bool[Array, "*B A"] | None = None
    ) -> Categorical:
        q = mask_logits(self.values(outputs), mask)
        valid = jnp.ones_like(q) if mask is None else mask.astype(q.dtype)
        any_action = valid / jnp.sum(valid, axis=-1, keepdims=True)
        best = jax.nn.one_hot(jnp.argmax(q, axis=-1), q.shape[-1])
        chance = self.epsilon * any_action + (1.0 - self.epsilon) * best
        return Categorical(jnp.where(chance > 0, jnp.log(jnp.where(chance > 0, chance, 1.0)), MASKED))

    def noise(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*B"]:
        return jax.random.uniform(key, shape)

    def act(self, outputs, noise, mask=None):
        """Explores where the number falls into the upper ε of [0, 1), which says with which action as well."""
        q = mask_logits(self.values(outputs), mask)
        spare = jnp.maximum(noise - (1.0 - self.epsilon), 0.0) / jnp.maximum(self.epsilon, 1e-9)
        return jnp.where(noise > 1.0 - self.epsilon, pick(spare, q.shape[-1], mask, jnp), jnp.argmax(q, -1))

    def on_host(self) -> HostAct:
        values, epsilon = self.values, np.asarray(self.epsilon)
        greedy_below, least = np.float32(1.0) - epsilon, np.maximum(epsilon, np.float32(1e-9))

        def act(outputs, noise, mask):
            q = values(outputs)
            q = q if mask is None else np.where(mask, q, np.float32(MASKED))
            best = q.argmax(-1)
            exploring = noise > greedy_below
            if not np.any(exploring):  # also where the noise is 0: the best action is wanted
                return best
            spare = np.maximum(noise - greedy_below, np.float32(0.0)) / least
            return np.where(exploring, pick(spare, q.shape[-1], mask, np), best)

        return act


class BoltzmannHead(eqx.Module):
    """An action drawn with probability ∝ exp(Q/τ)."""

    values: Any
    temperature: Float[Array, ""]

    @property
    def outputs(self) -> int:
        return self.values.outputs

    def distribution(
        self, outputs: Float[Array, "*B K"], mask: Bool[Array, "*B A"] | None = None
    ) -> Categorical:
        return Categorical(mask_logits(self.values(outputs) / self.temperature, mask))

    def noise(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*B"]:
        return jax.random.uniform(key, shape)

    def act(self, outputs, noise, mask=None):
        """By inversion of the cumulative probabilities."""
        running = jnp.cumsum(jnp.exp(self.distribution(outputs, mask).log_probs), axis=-1)
        return jnp.argmax(running > noise[..., None] * running[..., -1:], axis=-1)

    def on_host(self) -> HostAct:
        values, temperature = self.values, np.asarray(self.temperature)

        def act(outputs, noise, mask):
            q = values(outputs)
            q = q if mask is None else np.where(mask, q, np.float32(MASKED))
            if np.ndim(noise) == 0:  # the most probable action is wanted
                return q.argmax(-1)
            running = np.cumsum(np.exp((q - q.max(-1, keepdims=True)) / temperature), axis=-1)
            return (running > noise[..., None] * running[..., -1:]).argmax(-1)

        return act


ValueHead = EpsilonGreedyHead | BoltzmannHead


def pick(share: Any, actions: int, mask: Any, xp: Any) -> Any:
    """The action at `share` in [0, 1) of the valid ones, in their order: uniform where the share is."""
    if mask is None:
        return xp.minimum((share * actions).astype(np.int32), actions - 1)
    valid = mask.sum(-1)
    wanted = xp.minimum((share * valid).astype(np.int32), valid - 1)
    return (xp.cumsum(mask, axis=-1) > wanted[..., None]).argmax(-1)
