"""Drawing tokens: the distribution that is really sampled from, and an inverse-CDF draw from it.

    p ← softmax(logits / temperature)
    top-k   keep the k most probable tokens                    (A. Fan et al., 2018)
    top-p   keep the fewest most probable tokens of mass ≥ p   (A. Holtzman et al., nucleus sampling, 2020)
    min-p   keep tokens at least p times as probable as the most probable one          (M. Nguyen et al., 2024)
    renormalise, and draw with one uniform number per row

Thresholds are found by bisecting the bits of the probabilities (floats that are not negative sort as their bits do): 31
passes over the vocabulary and no sort.  Tokens as probable as the last one kept are kept too.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bellmark.types import Scalar

IMPOSSIBLE = -1e9
"""The log-probability of a token that was cut off: finite, and e to it is exactly 0."""


def log_probabilities(logits: Float[Array, "*N V"], temperature: Scalar) -> Float[Array, "*N V"]:
    """log softmax(logits / temperature), temperature > 0."""
    return jax.nn.log_softmax(logits / temperature, axis=-1)


def _keep_most_probable(
    log_probs: Float[Array, "*N V"], enough: Callable[[Array, Array], Array]
) -> Bool[Array, "*N V"]:
    """The fewest most probable tokens, ties included, of which `enough(kept, probability)` [*N] holds."""
    probability = jnp.exp(log_probs)
    bits = jax.lax.bitcast_convert_type(probability, jnp.int32)
    low = jnp.zeros(log_probs.shape[:-1], jnp.int32)
    high = jnp.full(log_probs.shape[:-1], 0x3F80_0001, jnp.int32)  # just above 1.0

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        holds = enough(bits >= middle[..., None], probability)
        return jnp.where(holds, middle, low), jnp.where(holds, high, middle)

    low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
    return bits >= low[..., None]


def _only(log_probs: Float[Array, "*N V"], keep: Bool[Array, "*N V"]) -> Float[Array, "*N V"]:
    """Renormalised over the tokens that are kept."""
    rest = jnp.where(keep, log_probs, -jnp.inf)
    return jnp.where(keep, rest - jax.nn.logsumexp(rest, axis=-1, keepdims=True), IMPOSSIBLE)


def top_k(log_probs: Float[Array, "*N V"], k: int) -> Float[Array, "*N V"]:
    """Only the k most probable tokens."""
    k = min(k, log_probs.shape[-1])
    return _only(log_probs, _keep_most_probable(log_probs, lambda kept, _: jnp.sum(kept, axis=-1) >= k))


def top_p(log_probs: Float[Array, "*N V"], p: Scalar) -> Float[Array, "*N V"]:
    """Only the fewest most probable tokens whose probabilities sum to p or more."""

    def enough(kept, probability):
        # of the whole by the same summation: rounding must not ask for more than there is
        whole = jnp.sum(probability, axis=-1)
        return jnp.sum(jnp.where(kept, probability, 0.0), axis=-1) >= p * whole

    return _only(log_probs, _keep_most_probable(log_probs, enough))


def min_p(log_probs: Float[Array, "*N V"], p: Scalar) -> Float[Array, "*N V"]:
    """Only tokens whose probability is at least p times the largest."""
    return _only(log_probs, log_probs >= jnp.max(log_probs, axis=-1, keepdims=True) + jnp.log(p))


def draw(log_probs: Float[Array, "*N V"], uniform: Float[Array, "*N"]) -> Int[Array, "*N"]:
    """The token at which the cumulated probability passes `uniform`, 0 ≤ uniform < 1.

    In two levels, blocks first: one pass over the vocabulary, where Gumbel noise would take a random number per token.
    A token of probability 0 is never drawn.
    """
    vocabulary = log_probs.shape[-1]
    width = max(1, round(vocabulary**0.5))
    blocks = -(-vocabulary // width)
    probability = jnp.exp(log_probs)
    padding = [(0, 0)] * (log_probs.ndim - 1) + [(0, blocks * width - vocabulary)]
    table = jnp.pad(probability, padding).reshape(*log_probs.shape[:-1], blocks, width)
    mass = jnp.sum(table, axis=-1)
    below = jnp.cumsum(mass, axis=-1)
    target = uniform * below[..., -1]
    block = _first_above(below, mass, target)
    before = _at(below, block) - _at(mass, block)
    inner = jnp.take_along_axis(table, block[..., None, None], axis=-2)[..., 0, :]
    place = _first_above(jnp.cumsum(inner, axis=-1), inner, target - before)
    return (block * width + place).astype(jnp.int32)


def _at(x: Float[Array, "*N K"], index: Int[Array, "*N"]) -> Float[Array, "*N"]:
    return jnp.take_along_axis(x, index[..., None], axis=-1)[..., 0]


def _first_above(
    cumulated: Float[Array, "*N K"], mass: Float[Array, "*N K"], target: Float[Array, "*N"]
) -> Int[Array, "*N"]:
    """The first entry where `cumulated` exceeds `target`; where rounding leaves none, the last entry with any mass.

    The former is also never without mass: there `cumulated` does not grow.
    """
    first = jnp.sum(cumulated <= target[..., None], axis=-1)
    entries = jnp.arange(mass.shape[-1])
    last = jnp.max(jnp.where(mass > 0, entries, 0), axis=-1)
    return jnp.minimum(first, last)
