"""Rescaled values: a network that learns h(G) instead of G need not tell rewards of very different sizes apart.

T. Pohlen et al., "Observe and look further: Achieving consistent performance on Atari", 2018.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

SLOPE = 1e-3
"""What keeps h's slope above 0, so that it has an inverse that is as smooth."""


def squeezed(value: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """h(x) = sign(x) (√(|x| + 1) − 1) + εx: half of x near 0, a root far away."""
    # √(|x| + 1) − 1 with the difference rationalised: as it stands, it cancels near 0
    return value / (jnp.sqrt(jnp.abs(value) + 1.0) + 1.0) + SLOPE * value


def unsqueezed(value: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """h⁻¹: with |x| + 1 = u², h is u − 1 + ε (u² − 1), and u the positive root of εu² + u = 1 + ε + |h|.

    u − 1 is taken as (root − 1 − 2ε) / 2ε with the difference rationalised: as it stands, it cancels.
    """
    size = jnp.abs(value)
    root = jnp.sqrt(1.0 + 4.0 * SLOPE * (size + 1.0 + SLOPE))
    # root² − (1 + 2ε)² = 4ε|h|
    above = 2.0 * size / (root + 1.0 + 2.0 * SLOPE)
    return jnp.sign(value) * above * (above + 2.0)
