"""Memory: a gated recurrent unit, stepped while acting and unrolled over a whole rollout while learning.

    r = σ(x W_r + h U_r + b_r)                what of the memory the candidate may see
    z = σ(x W_z + h U_z + b_z)                how much of the memory stays
    n = tanh(x W_n + b_n + r ⊙ (h U_n + c))   the candidate
    h′ = (1 − z) ⊙ n + z ⊙ h

K. Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine translation", 2014, in
the variant that applies r after the product with U_n, so that all of h U is one product.

A memory begins as zeros and is zeros again wherever an episode begins.  Time leads: `unroll` takes `[T, *B]`, computes
what does not depend on the memory in one product for all times, and scans over the rest.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bellmark.networks.convolution import Convolution
from bellmark.networks.mlp import ACTIVATIONS, HOST_ACTIVATIONS, MLP, Activation
from bellmark.networks.orthogonal import orthogonal
from bellmark.types import Key


class GRU(eqx.Module):
    """A gated recurrent unit; the columns of its matrices are r, z, n, one after another."""

    input_weight: Float[Array, "in gates"]
    memory_weight: Float[Array, "H gates"]
    bias: Float[Array, " gates"]
    candidate_bias: Float[Array, " H"]

    @staticmethod
    def start(inputs: int, size: int, key: Key) -> "GRU":
        """Every gate's matrices orthogonal (Saxe et al., 2014), all biases zero."""
        keys = jax.random.split(key, 6)
        return GRU(
            jnp.concatenate([orthogonal(k, (inputs, size)) for k in keys[:3]], axis=1),
            jnp.concatenate([orthogonal(k, (size, size)) for k in keys[3:]], axis=1),
            jnp.zeros(3 * size),
            jnp.zeros(size),
        )

    @property
    def size(self) -> int:
        return self.memory_weight.shape[0]

    def __call__(self, x: Float[Array, "*B in"], memory: Float[Array, "*B H"]) -> Float[Array, "*B H"]:
        """The memory after `x` was seen."""
        return self._advance(x @ self.input_weight + self.bias, memory)

    def _advance(self, seen: Float[Array, "*B gates"], memory: Float[Array, "*B H"]) -> Float[Array, "*B H"]:
        """One step, given x W + b."""
        size = self.size
        kept = memory @ self.memory_weight
        reset, stay = jnp.split(jax.nn.sigmoid(seen[..., : 2 * size] + kept[..., : 2 * size]), 2, axis=-1)
        candidate = jnp.tanh(seen[..., 2 * size :] + reset * (kept[..., 2 * size :] + self.candidate_bias))
        return candidate + stay * (memory - candidate)

    def unroll(
        self, x: Float[Array, "T *B in"], begins: Bool[Array, "T *B"], memory: Float[Array, "*B H"]
    ) -> Float[Array, "T *B H"]:
        """The memory after each of `T` steps; where `begins` is set, the step is the first of its episode.

        There the memory is zeros before `x` is seen, so that neither values nor gradients cross an episode's end.
        """

        def forward(memory, step):
            seen, begins = step
            memory = self._advance(seen, jnp.where(begins[..., None], 0.0, memory))
            return memory, memory

        return jax.lax.scan(forward, memory, (x @ self.input_weight + self.bias, begins))[1]

    def on_host(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """`__call__` on NumPy arrays."""
        into, within, bias, candidate_bias = (
            np.asarray(x) for x in (self.input_weight, self.memory_weight, self.bias, self.candidate_bias)
        )
        size, half = self.size, np.float32(0.5)

        def advance(x: np.ndarray, memory: np.ndarray) -> np.ndarray:
            seen, kept = x @ into + bias, memory @ within
            # σ(x) = ½ + ½ tanh(½x): no exp, which would overflow
            gates = half + half * np.tanh(half * (seen[..., : 2 * size] + kept[..., : 2 * size]))
            candidate = np.tanh(
                seen[..., 2 * size :] + gates[..., :size] * (kept[..., 2 * size :] + candidate_bias)
            )
            return candidate + gates[..., size:] * (memory - candidate)

        return advance


class Recurrent(eqx.Module):
    """An encoder of what is shown now, and the GRU that remembers: features and memory to the memory that follows.

    The memory is the output, too: heads read it.
    """

    encoder: MLP | Convolution
    gru: GRU
    activation: Activation = eqx.field(static=True)

    @property
    def size(self) -> int:
        return self.gru.size

    def encode(self, features: Float[Array, "..."]) -> Float[Array, "*B E"]:
        return ACTIVATIONS[self.activation](self.encoder(features))

    def __call__(self, features: Float[Array, "..."], memory: Float[Array, "*B H"]) -> Float[Array, "*B H"]:
        return self.gru(self.encode(features), memory)

    def unroll(
        self, features: Float[Array, "T ..."], begins: Bool[Array, "T *B"], memory: Float[Array, "*B H"]
    ) -> Float[Array, "T *B H"]:
        """The memory after each of `T` steps (see `GRU.unroll`); all steps are encoded at once."""
        return self.gru.unroll(self.encode(features), begins, memory)

    def on_host(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
        """`__call__` on NumPy arrays; None where only the compiled one exists (images)."""
        if not isinstance(self.encoder, MLP):
            return None
        encode, activate = self.encoder.on_host(), HOST_ACTIVATIONS[self.activation]
        advance = self.gru.on_host()
        return lambda features, memory: advance(activate(encode(features)), memory)


def episode_begins(unbroken: Float[Array, "T *B"]) -> Bool[Array, "T *B"]:
    """Which steps of a rollout are the first of an episode that began within it: those after a broken one.

    The first row is never set: what is remembered there is the memory that the rollout began with, and that is zeros
    already where an episode had just ended.
    """
    ended = unbroken[:-1] == 0
    return jnp.concatenate([jnp.zeros((1, *unbroken.shape[1:]), bool), ended])
