"""Losses, per sample: to be averaged by `bellmark.maths.means` and minimised.

Every function takes and returns `[*N]`: `[N]` environment steps or `[B, T]` tokens, it makes no difference.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from bellmark.types import Scalar


def squared_error(prediction: Float[Array, "*N"], target: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """½ (prediction − target)², whose derivative is the plain error."""
    return 0.5 * jnp.square(prediction - target)


def huber(
    prediction: Float[Array, "*N"], target: Float[Array, "*N"], threshold: Scalar = 1.0
) -> Float[Array, "*N"]:
    """½e² for |e| ≤ κ, κ(|e| − ½κ) beyond (Huber, 1964)."""
    error = jnp.abs(prediction - target)
    inside = jnp.minimum(error, threshold)
    return 0.5 * jnp.square(inside) + threshold * (error - inside)


def score_function(log_prob: Float[Array, "*N"], advantage: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """−Â log π(a|s): its gradient is minus the policy gradient's sample, ∇log π · Â (Williams, 1992)."""
    return -log_prob * advantage


def expected_action_value(
    log_probs: Float[Array, "*N A"], action_value: Float[Array, "*N A"]
) -> Float[Array, "*N"]:
    """−Σ_a π(a|s) Q(s, a): its gradient, Q held fixed, is minus the policy gradient summed over all actions.

    In expectation it is that of `score_function` with Q(s, a), without the noise of drawing a (Sutton et al., 1999).
    """
    return -jnp.sum(jnp.exp(log_probs) * action_value, axis=-1)


def clipped_surrogate(
    log_prob: Float[Array, "*N"],
    old_log_prob: Float[Array, "*N"],
    advantage: Float[Array, "*N"],
    clip: Scalar,
    clip_high: Scalar | None = None,
) -> Float[Array, "*N"]:
    """−min(ρÂ, clip(ρ, 1 − ε, 1 + ε)Â) with ρ = π(a|s)/π_old(a|s) (Schulman et al., 2017, eq. 7).

    `clip_high` is an upper ε of its own: a larger one lets rare actions grow (Q. Yu et al., "DAPO", 2025).
    """
    ratio = jnp.exp(log_prob - old_log_prob)
    high = clip if clip_high is None else clip_high
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + high) * advantage)


def clipped_squared_error(
    prediction: Float[Array, "*N"],
    old_prediction: Float[Array, "*N"],
    target: Float[Array, "*N"],
    clip: Scalar,
) -> Float[Array, "*N"]:
    """The larger of the squared errors of V and of V held within ±ε of its old value: PPO's value clipping."""
    held = old_prediction + jnp.clip(prediction - old_prediction, -clip, clip)
    return jnp.maximum(squared_error(prediction, target), squared_error(held, target))
