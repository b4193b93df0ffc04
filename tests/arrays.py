"""Arrays as the tests like them: NumPy's in, where the library's types ask for JAX's."""

import jax.numpy as jnp
import numpy as np


def on_numpy(function):
    """`function`, its NumPy arguments made JAX arrays."""

    def converted(*arguments, **named):
        return function(*map(_to_jax, arguments), **{name: _to_jax(value) for name, value in named.items()})

    return converted


def _to_jax(value):
    return jnp.asarray(value) if isinstance(value, np.ndarray | np.generic) else value
