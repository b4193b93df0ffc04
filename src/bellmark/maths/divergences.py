"""Sample estimators of KL(old ‖ new) from log-probabilities of actions drawn from the old policy.

With ρ = new/old, each is per sample: k1 = −log ρ (unbiased, high variance), k2 = ½(log ρ)² (biased, low variance),
k3 = ρ − 1 − log ρ (unbiased and never negative).  Source: J. Schulman, "Approximating KL divergence", 2020.
Exact divergences belong to the distributions themselves (`bellmark.maths.distributions`).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def k1(log_prob: Float[Array, "*N"], old_log_prob: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """−log ρ."""
    return old_log_prob - log_prob


def k2(log_prob: Float[Array, "*N"], old_log_prob: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """½(log ρ)²."""
    return 0.5 * jnp.square(log_prob - old_log_prob)


def k3(log_prob: Float[Array, "*N"], old_log_prob: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """ρ − 1 − log ρ, computed without cancellation near ρ = 1."""
    log_ratio = log_prob - old_log_prob
    return jnp.expm1(log_ratio) - log_ratio
