"""Fully connected networks.

Modules here are written for one sample, `weight @ x + bias`, and batched by `jax.vmap`.  That is not only plainer:
vmap then keeps the samples on the last axis through every layer, a layout in which XLA's CPU products of narrow
layers ran about a fifth faster than with samples first (`docs/decisions/0002-feature-major.md`).
"""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bellmark.types import Key

Activation = Literal["tanh", "relu", "silu"]
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "silu": jax.nn.silu}
HOST_ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


class Linear(eqx.Module):
    """x ↦ Wx + b, with W orthogonal times `scale` (Saxe et al., 2014) and b zero at the start."""

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"]

    @staticmethod
    def start(inputs: int, outputs: int, key: Key, scale: float) -> "Linear":
        orthogonal = jax.nn.initializers.orthogonal(scale)
        return Linear(orthogonal(key, (outputs, inputs), jnp.float32), jnp.zeros(outputs))

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.weight @ x + self.bias


class MLP(eqx.Module):
    """Linear layers with an activation between them; the last is linear, with its own initial scale.

    `eqx.nn.MLP` cannot be carried through `lax.scan`, because its activation is a leaf; here it is static.
    """

    layers: tuple[Linear, ...]
    activation: Activation = eqx.field(static=True)

    @staticmethod
    def start(
        inputs: int,
        hidden: tuple[int, ...],
        outputs: int,
        key: Key,
        *,
        activation: Activation = "tanh",
        last_scale: float = 1.0,
    ) -> "MLP":
        """Orthogonal weights, √2 in the hidden layers and `last_scale` in the last, zero biases."""
        sizes = (inputs, *hidden, outputs)
        keys = jax.random.split(key, len(sizes) - 1)
        scales = (*(math.sqrt(2.0) for _ in hidden), last_scale)
        layers = [Linear.start(*io) for io in zip(sizes[:-1], sizes[1:], keys, scales, strict=True)]
        return MLP(tuple(layers), activation)

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        activate = ACTIVATIONS[self.activation]
        for layer in self.layers[:-1]:
            x = activate(layer(x))
        return self.layers[-1](x)

    def on_host(self):
        """The same function of a NumPy batch [N, in] -> [N, out], for acting where a compiled call costs too much."""
        weights = [np.ascontiguousarray(np.asarray(layer.weight).T) for layer in self.layers]
        biases = [np.asarray(layer.bias) for layer in self.layers]
        activate = HOST_ACTIVATIONS[self.activation]

        def forward(x: np.ndarray) -> np.ndarray:
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                x = activate(x @ weight + bias)
            return x @ weights[-1] + biases[-1]

        return forward
