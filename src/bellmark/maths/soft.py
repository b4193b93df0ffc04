"""Maximum entropy: max E[Σ γ^t (R_t + α H(π(·|s_t)))], and the deterministic limit's smoothed targets.

B. Ziebart, "Modeling purposeful adaptive behavior with the principle of maximum causal entropy", 2010. T. Haarnoja et
al., "Soft actor-critic algorithms and applications", 2018. P. Christodoulou, "Soft actor-critic for discrete action
settings", 2019. S. Fujimoto, H. van Hoof, D. Meger, "Addressing function approximation error in actor-critic methods",
2018.

Everything is per sample.  `K` counts critics; the least of their values is believed, because an actor seeks out where
one of them is too high.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from bellmark.types import Scalar


def least(q: Float[Array, "K *N"]) -> Float[Array, "*N"]:
    """min_k Q_k(s, a)."""
    return jnp.min(q, axis=0)


def soft_value(
    q: Float[Array, "K *N"], log_prob: Float[Array, "*N"], temperature: Scalar
) -> Float[Array, "*N"]:
    """min_k Q_k(s, a) − α log π(a|s): a sample of V(s), a drawn from π (Haarnoja et al., 2018, eq. 3)."""
    return least(q) - temperature * log_prob


def expected_soft_value(
    q: Float[Array, "K *N A"], log_probs: Float[Array, "*N A"], temperature: Scalar
) -> Float[Array, "*N"]:
    """V(s) = Σ_a π(a|s) (min_k Q_k(s, a) − α log π(a|s)): no sampling (Christodoulou, 2019, eq. 10)."""
    return jnp.sum(jnp.exp(log_probs) * (least(q) - temperature * log_probs), axis=-1)


def temperature_loss(
    log_temperature: Scalar, entropy: Float[Array, "*N"], target_entropy: Scalar
) -> Float[Array, "*N"]:
    """log α · (H − H̄): descending it raises α while the entropy is below its target, and lowers it above.

    `entropy` may be a sample of it, −log π(a|s).  Of the logarithm, not of α, so that α stays positive and its steps
    are relative ones.
    """
    return log_temperature * (entropy - target_entropy)


def smoothed(
    unit: Float[Array, "*N D"], noise: Float[Array, "*N D"], deviation: Scalar, clip: Scalar
) -> Float[Array, "*N D"]:
    """clip(a + clip(σε, −c, c), −1, 1): the target policy's action, smeared (Fujimoto et al., 2018, eq. 14)."""
    return jnp.clip(unit + jnp.clip(deviation * noise, -clip, clip), -1.0, 1.0)
