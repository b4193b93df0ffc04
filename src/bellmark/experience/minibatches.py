"""Random minibatches of a batch that fits in memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from bellmark.types import Key


def permutation(key: Key, size: int) -> Int[Array, " size"]:
    """A random order of 0 … size − 1.

    Random high bits with the index in the low bits, sorted as plain integers: one sort of one array is six times
    cheaper on a CPU than sorting pairs.  Where two samples draw equal high bits (about size²/2^(33 − log₂ size) pairs)
    the lower index comes first, a bias of no consequence below a million samples; above, JAX's own permutation is used.
    """
    bits = max((size - 1).bit_length(), 1)
    if bits > 20:
        return jax.random.permutation(key, size)
    low = jnp.uint32((1 << bits) - 1)
    high = jax.random.bits(key, (size,), jnp.uint32) & ~low
    return (jnp.sort(high | jnp.arange(size, dtype=jnp.uint32)) & low).astype(jnp.int32)


def minibatch_indices(key: Key, size: int, minibatches: int, epochs: int) -> Int[Array, "updates batch"]:
    """Row `e·minibatches + m` holds the samples of minibatch `m` in epoch `e`: every sample once per epoch."""
    orders = jax.vmap(lambda k: permutation(k, size))(jax.random.split(key, epochs))
    return orders.reshape(epochs * minibatches, size // minibatches)


def take(samples: Any, index: Int[Array, " batch"]) -> Any:
    """The rows `index` of every array."""
    return jax.tree.map(lambda x: x[index], samples)


def flatten(tree: Any) -> Any:
    """[T, B, …] to [T·B, …] in every array."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
