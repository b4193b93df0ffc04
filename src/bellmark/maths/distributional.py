"""Distributions of returns: what is learned where a mean is not enough.

Two ways to hold one: probabilities on fixed values (atoms), and values at fixed probabilities (quantiles).  `Z` atoms
or quantiles are the last axis, and everything before it is left alone.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bellmark.maths.losses import huber


def atoms(low: float, high: float, count: int) -> Any:
    """The values z_1 … z_Z [Z] that have probabilities, evenly from `low` to `high` (a NumPy array)."""
    return np.linspace(low, high, count, dtype=np.float32)


def project(
    probability: Float[Array, "*N Z"],
    reward: Float[Array, "*N"],
    discount: Float[Array, "*N"],
    low: float,
    high: float,
) -> Float[Array, "*N Z"]:
    """The distribution of r + γ z on the atoms that z had: Φ of Bellemare et al. (2017, eq. 7).

    m_i = Σ_j p_j max(0, 1 − |clip(r + γ z_j) − z_i| / Δ): what falls between two atoms is shared between them, the
    nearer one getting more, so that mass is kept, and the mean, too, wherever nothing was clipped to [low, high].
    """
    count = probability.shape[-1]
    support = atoms(low, high, count)
    moved = jnp.clip(reward[..., None] + discount[..., None] * support, low, high)
    # in units of the distance between atoms, from the first one, so that rounding stays below 1e-5 of a unit
    place = (moved - low) * ((count - 1) / (high - low))
    near = jnp.maximum(1.0 - jnp.abs(place[..., None, :] - np.arange(count, dtype=np.float32)[:, None]), 0.0)
    return jnp.sum(near * probability[..., None, :], axis=-1)


def cross_entropy(target: Float[Array, "*N Z"], log_prob: Float[Array, "*N Z"]) -> Float[Array, "*N"]:
    """−Σ_i m_i log p_i, whose gradient is that of KL(m ‖ p) (Bellemare et al., 2017, algorithm 1)."""
    return -jnp.sum(target * log_prob, axis=-1)


def entropy(probability: Float[Array, "*N Z"]) -> Float[Array, "*N"]:
    """−Σ_i p_i log p_i: what a cross-entropy with p as its target is at least."""
    positive = probability > 0
    return -jnp.sum(
        jnp.where(positive, probability * jnp.log(jnp.where(positive, probability, 1.0)), 0.0), axis=-1
    )


def midpoints(count: int) -> Any:
    """τ̂_i = (2i − 1) / 2K [K]: the quantiles there are nearest to a distribution in Wasserstein's metric."""
    return ((np.arange(count) + 0.5) / count).astype(np.float32)


def quantile_huber(
    quantile: Float[Array, "*N K"], target: Float[Array, "*N J"], threshold: float = 1.0
) -> Float[Array, "*N"]:
    """Σ_i E_j |τ̂_i − 1{u < 0}| L_κ(u) / κ with u = y_j − θ_i (Dabney et al., 2018, eq. 10); with κ = 0, of |u|.

    Its minimum over θ_i is, for κ = 0, the τ̂_i-quantile of the targets y.
    """
    prediction, wanted = jnp.broadcast_arrays(quantile[..., :, None], target[..., None, :])
    weight = jnp.abs(midpoints(quantile.shape[-1])[:, None] - (wanted < prediction))
    distance = jnp.abs(wanted - prediction)
    error = huber(prediction, wanted, threshold) / threshold if threshold > 0 else distance
    return jnp.sum(jnp.mean(weight * error, axis=-1), axis=-1)


def log_softmax(logits: Any) -> Any:
    """log softmax over the last axis, of JAX and of NumPy arrays alike."""
    if not isinstance(logits, np.ndarray):
        return jax.nn.log_softmax(logits)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
