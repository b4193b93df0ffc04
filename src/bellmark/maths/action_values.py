"""Action values: what to make of Q(s, ·), for one state or any number of them.

Masks mark valid actions; an invalid one is never the best, whatever its value.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bellmark.maths.distributions import mask_logits
from bellmark.types import Scalar


def centred(advantage: Any) -> Any:
    """A − mean_a A: what makes V and A of a dueling network tell each other apart (Wang et al., 2016, eq. 9)."""
    return advantage - advantage.mean(-1, keepdims=True)


def value_of(q: Float[Array, "*N A"], action: Int[Array, "*N"]) -> Float[Array, "*N"]:
    """Q(s, a) of one action each."""
    return jnp.take_along_axis(q, action[..., None], axis=-1)[..., 0]


def row_of(rows: Float[Array, "*N A Z"], action: Int[Array, "*N"]) -> Float[Array, "*N Z"]:
    """The Z numbers that belong to one action each."""
    return jnp.take_along_axis(rows, action[..., None, None], axis=-2)[..., 0, :]


def best_action(q: Float[Array, "*N A"], mask: Bool[Array, "*N A"] | None = None) -> Int[Array, "*N"]:
    """argmax_a Q(s, a) over the valid actions."""
    return jnp.argmax(mask_logits(q, mask), axis=-1)


def best_value(q: Float[Array, "*N A"], mask: Bool[Array, "*N A"] | None = None) -> Float[Array, "*N"]:
    """max_a Q(s, a) over the valid actions."""
    return jnp.max(mask_logits(q, mask), axis=-1)


def double_value(
    online: Float[Array, "*N A"], target: Float[Array, "*N A"], mask: Bool[Array, "*N A"] | None = None
) -> Float[Array, "*N"]:
    """Q̂(s, argmax_a Q(s, a)): one network picks, the other values (van Hasselt et al., 2016, eq. 4)."""
    return value_of(target, best_action(online, mask))


def expected_value(
    q: Float[Array, "*N A"], epsilon: Scalar, mask: Bool[Array, "*N A"] | None = None
) -> Float[Array, "*N"]:
    """Σ_a π(a|s) Q(s, a) of the ε-greedy policy (Sutton & Barto, 2018, section 6.6)."""
    valid = jnp.ones_like(q) if mask is None else mask.astype(q.dtype)
    # where nothing is valid, at a terminal state, the mean is 0 and not 0/0: what multiplies it is 0, too
    mean = jnp.sum(q * valid, axis=-1) / jnp.maximum(jnp.sum(valid, axis=-1), 1.0)
    return (1.0 - epsilon) * best_value(q, mask) + epsilon * mean
