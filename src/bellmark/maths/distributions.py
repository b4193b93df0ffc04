"""Distributions over actions: sample, mode, log-probability, entropy and exact KL.

The last axis belongs to the distribution (logits or components), all axes before it are batch.  `sample` is written as
`transform(noise)`, a pure function of noise whose shape is known in advance, so that a rollout can draw the noise of
all its steps in one call and NumPy can act with exactly the numbers that JAX drew.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bellmark.types import Key

MASKED = -1e9
"""What an invalid action's logit becomes: finite, so that no gradient turns into NaN, and e^MASKED is exactly 0."""


def mask_logits(logits: Float[Array, "*B A"], mask: Bool[Array, "*B A"] | None) -> Float[Array, "*B A"]:
    """Logits with invalid actions (mask False) made impossible."""
    return logits if mask is None else jnp.where(mask, logits, MASKED)


class Categorical(eqx.Module):
    """One of A actions, π(a) = softmax(logits)_a.  Masked actions have probability and entropy exactly 0."""

    logits: Float[Array, "*B A"]

    @property
    def log_probs(self) -> Float[Array, "*B A"]:
        return jax.nn.log_softmax(self.logits, axis=-1)

    def sample(self, key: Key) -> Int[Array, "*B"]:
        """By the Gumbel-max trick: argmax(logits + G), G standard Gumbel noise."""
        return jnp.argmax(self.logits + jax.random.gumbel(key, self.logits.shape), axis=-1)

    def mode(self) -> Int[Array, "*B"]:
        return jnp.argmax(self.logits, axis=-1)

    def log_prob(self, action: Int[Array, "*B"]) -> Float[Array, "*B"]:
        return jnp.take_along_axis(self.log_probs, action[..., None], axis=-1)[..., 0]

    def entropy(self) -> Float[Array, "*B"]:
        """−Σ_a π(a) log π(a), in nats."""
        log_probs = self.log_probs
        return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)

    def kl(self, other: "Categorical") -> Float[Array, "*B"]:
        """KL(self ‖ other) = Σ_a π(a) (log π(a) − log π′(a))."""
        log_probs = self.log_probs
        return jnp.sum(jnp.exp(log_probs) * (log_probs - other.log_probs), axis=-1)


class MultiCategorical(eqx.Module):
    """Independent categoricals, one per component of a MultiDiscrete action; logits are laid end to end."""

    logits: Float[Array, "*B L"]
    sizes: tuple[int, ...] = eqx.field(static=True)

    @property
    def parts(self) -> list[Categorical]:
        ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes))]
        starts = [0, *ends[:-1]]
        return [Categorical(self.logits[..., a:b]) for a, b in zip(starts, ends, strict=True)]

    def sample(self, key: Key) -> Int[Array, "*B D"]:
        noisy = self.logits + jax.random.gumbel(key, self.logits.shape)
        return MultiCategorical(noisy, self.sizes).mode()

    def mode(self) -> Int[Array, "*B D"]:
        return jnp.stack([part.mode() for part in self.parts], axis=-1)

    def log_prob(self, action: Int[Array, "*B D"]) -> Float[Array, "*B"]:
        return sum(part.log_prob(action[..., i]) for i, part in enumerate(self.parts))  # type: ignore[return-value]

    def entropy(self) -> Float[Array, "*B"]:
        return sum(part.entropy() for part in self.parts)  # type: ignore[return-value]

    def kl(self, other: "MultiCategorical") -> Float[Array, "*B"]:
        pairs = zip(self.parts, other.parts, strict=True)
        return sum(mine.kl(theirs) for mine, theirs in pairs)  # type: ignore[return-value]


class Gaussian(eqx.Module):
    """A diagonal Gaussian N(mean, exp(log_std)²); log-probabilities and entropy are summed over the D components."""

    mean: Float[Array, "*B D"]
    log_std: Float[Array, "*B D"]

    def sample(self, key: Key) -> Float[Array, "*B D"]:
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

    def mode(self) -> Float[Array, "*B D"]:
        return self.mean

    def log_prob(self, action: Float[Array, "*B D"]) -> Float[Array, "*B"]:
        """−½ Σ [((a − μ)/σ)² + log 2π] − Σ log σ."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * (jnp.square(z) + math.log(2 * math.pi)) - self.log_std, axis=-1)

    def entropy(self) -> Float[Array, "*B"]:
        """Σ [½ log(2πe) + log σ]."""
        return jnp.sum(0.5 * math.log(2 * math.pi * math.e) + self.log_std, axis=-1)

    def kl(self, other: "Gaussian") -> Float[Array, "*B"]:
        """Σ [log σ′/σ + (σ² + (μ − μ′)²)/(2σ′²) − ½]."""
        ratio = jnp.exp(2 * (self.log_std - other.log_std))
        distance = jnp.square((self.mean - other.mean) * jnp.exp(-other.log_std))
        return jnp.sum(other.log_std - self.log_std + 0.5 * (ratio + distance - 1.0), axis=-1)


class SquashedGaussian(eqx.Module):
    """tanh of a diagonal Gaussian: actions in (−1, 1)^D.

    The density follows from the change of variables a = tanh u, log π(a) = log N(u) − Σ log(1 − tanh² u), with the
    Jacobian in the form 2(log 2 − u − softplus(−2u)) that stays finite for large |u| (Haarnoja et al., 2018, app. C).
    Pre-tanh values travel with the action where they are known: recovering u by atanh loses digits near ±1.
    """

    mean: Float[Array, "*B D"]
    log_std: Float[Array, "*B D"]

    @property
    def base(self) -> Gaussian:
        return Gaussian(self.mean, self.log_std)

    def sample(self, key: Key) -> Float[Array, "*B D"]:
        return self.transform(jax.random.normal(key, self.mean.shape))

    def transform(self, noise: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """The action that standard normal `noise` leads to: tanh(μ + σε)."""
        return jnp.tanh(self.mean + jnp.exp(self.log_std) * noise)

    def transform_with_log_prob(
        self, noise: Float[Array, "*B D"]
    ) -> tuple[Float[Array, "*B D"], Float[Array, "*B"]]:
        """The action and its log-probability, from one pre-tanh value.

        In ε, not in u: (u − μ)/σ is the noise itself, whose derivative in μ and σ is then exactly none.
        """
        pre = self.mean + jnp.exp(self.log_std) * noise
        normal = jnp.sum(-0.5 * (jnp.square(noise) + math.log(2 * math.pi)) - self.log_std, axis=-1)
        return jnp.tanh(pre), normal - self._log_jacobian(pre)

    def sample_with_log_prob(self, key: Key) -> tuple[Float[Array, "*B D"], Float[Array, "*B"]]:
        """An action and its log-probability, from one pre-tanh sample."""
        return self.transform_with_log_prob(jax.random.normal(key, self.mean.shape))

    def mode(self) -> Float[Array, "*B D"]:
        """tanh of the Gaussian's mean: the median of each component."""
        return jnp.tanh(self.mean)

    def log_prob(self, action: Float[Array, "*B D"]) -> Float[Array, "*B"]:
        edge = 1.0 - jnp.finfo(action.dtype).eps
        pre = jnp.arctanh(jnp.clip(action, -edge, edge))
        return self.base.log_prob(pre) - self._log_jacobian(pre)

    @staticmethod
    def _log_jacobian(pre: Float[Array, "*B D"]) -> Float[Array, "*B"]:
        return jnp.sum(2.0 * (math.log(2.0) - pre - jax.nn.softplus(-2.0 * pre)), axis=-1)


Distribution = Categorical | MultiCategorical | Gaussian | SquashedGaussian
