"""Averages, kept apart from the losses so that one loss serves a batch of steps and a mask of tokens alike."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def mean(x: Float[Array, "*N"], mask: Bool[Array, "*N"] | None = None) -> Float[Array, ""]:
    """The mean over all entries, or over those where `mask` is set (0 if there are none)."""
    if mask is None:
        return jnp.mean(x)
    # where, not multiplication: a NaN outside the mask must not reach the sum
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def variance(x: Float[Array, "*N"], mask: Bool[Array, "*N"] | None = None) -> Float[Array, ""]:
    """The population variance (1/N Σ (x − x̄)²)."""
    # the entries outside the mask are replaced before the square: there a NaN would reach the gradient
    return mean(jnp.square(_inside(x, mask) - mean(x, mask)), mask)


def standardise(
    x: Float[Array, "*N"], mask: Bool[Array, "*N"] | None = None, epsilon: float = 1e-8
) -> Float[Array, "*N"]:
    """(x − x̄) / (σ + ε).  A single entry has no spread and is returned as it is."""
    entries = x.size
    if mask is None:
        return x if entries <= 1 else (x - mean(x)) / (jnp.sqrt(variance(x)) + epsilon)
    x = _inside(x, mask)
    scaled = (x - mean(x, mask)) / (jnp.sqrt(variance(x, mask)) + epsilon)
    return jnp.where(mask, jnp.where(jnp.sum(mask) <= 1, x, scaled), 0.0)


def _inside(x: Float[Array, "*N"], mask: Bool[Array, "*N"] | None) -> Float[Array, "*N"]:
    return x if mask is None else jnp.where(mask, x, 0.0)


def explained_variance(prediction: Float[Array, "*N"], target: Float[Array, "*N"]) -> Float[Array, ""]:
    """1 − Var(target − prediction) / Var(target): 1 is a perfect critic, 0 no better than a constant.

    0 where the target does not vary.
    """
    spread = variance(target)
    unexplained = variance(target - prediction) / jnp.where(spread > 0, spread, 1.0)
    return jnp.where(spread > 0, 1.0 - unexplained, 0.0)
