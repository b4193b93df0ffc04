"""Orthogonal weights to start from, however many seeds start side by side.

A. M. Saxe, J. L. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
networks", ICLR 2014.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bellmark.types import Key


def orthogonal(key: Key, shape: tuple[int, ...], scale: float = 1.0) -> Float[Array, "..."]:
    """Weights of `shape`, orthogonal over all axes but the last, times `scale`.

    Under `vmap` one after another: JAX factorises a batch on the CPU by threads of the pool that runs the program, and
    its caller, one of them, waits.  Two batches at a time on a machine of two cores, a policy's and a critic's, have
    each a thread that waits and none that works, for ever.
    """

    @jax.custom_batching.sequential_vmap
    def drawn(data):
        one = jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))
        return jax.nn.initializers.orthogonal(scale)(one, shape, jnp.float32)

    return drawn(jax.random.key_data(key))
