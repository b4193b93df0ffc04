"""Fully connected networks, acting on the last axis and leaving all axes before it alone."""

import math
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bellmark.networks.orthogonal import orthogonal
from bellmark.types import Key

Activation = Literal["tanh", "relu", "silu"]

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "silu": jax.nn.silu}
HOST_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * (0.5 + 0.5 * np.tanh(0.5 * x)),  # no exp, which would overflow
}


NARROW = 4
"""Outputs up to which a layer's weight gradient is taken column by column."""


@jax.custom_jvp
def narrow_product(x: Float[Array, "N in"], weight: Float[Array, "in out"]) -> Float[Array, "N out"]:
    """xW for few outputs (the heads), with ∂/∂W as one vector-matrix product per column.

    XLA's CPU product xᵀg costs as much for one or two columns as for sixty-four (18 µs at 64 × 256 × 2, where two
    vector-matrix products take 3): a tenth of PPO's gradient.  Forward and reverse mode, to any order: the tangent is
    taken column by column, and transposing that gives the gradient column by column.
    """
    return x @ weight


@narrow_product.defjvp
def _narrow_tangent(at, towards):
    (x, weight), (x_tangent, weight_tangent) = at, towards
    columns = [x @ weight_tangent[:, j] for j in range(weight.shape[1])]
    return narrow_product(x, weight), x_tangent @ weight + jnp.stack(columns, axis=1)


class Linear(eqx.Module):
    """x ↦ xW + b, with W orthogonal times `scale` (Saxe et al., 2014) and b zero at the start.

    W is stored (in, out): for narrow layers XLA's CPU gradient was 7 % faster than with (out, in).
    """

    weight: Float[Array, "in out"]
    bias: Float[Array, " out"]

    @staticmethod
    def start(inputs: int, outputs: int, key: Key, scale: float) -> "Linear":
        return Linear(orthogonal(key, (inputs, outputs), scale), jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        outputs = self.weight.shape[1]
        if outputs > NARROW:
            return x @ self.weight + self.bias
        flat = narrow_product(x.reshape(-1, x.shape[-1]), self.weight)
        return flat.reshape(*x.shape[:-1], outputs) + self.bias


def layer_norm(x: Any) -> Any:
    """(x − mean) / √(variance + 10⁻⁵) over the last axis, of JAX and of NumPy arrays alike (Ba et al., 2016).

    No gain and no bias: the next layer's weights and its own bias do for them.
    """
    centre = x - x.mean(-1, keepdims=True)
    return centre / ((centre * centre).mean(-1, keepdims=True) + np.float32(1e-5)) ** 0.5


class MLP(eqx.Module):
    """Linear layers with an activation between them; the last is linear, with its own initial scale.

    `eqx.nn.MLP` cannot be carried through `lax.scan`, because its activation is a leaf; here it is static.
    `normalised`, every hidden layer is normalised before its activation (`layer_norm`).
    """

    layers: tuple[Linear, ...]
    activation: Activation = eqx.field(static=True)
    normalised: bool = eqx.field(static=True, default=False)

    @staticmethod
    def start(
        inputs: int,
        hidden: tuple[int, ...],
        outputs: int,
        key: Key,
        *,
        activation: Activation = "tanh",
        last_scale: float = 1.0,
        normalised: bool = False,
    ) -> "MLP":
        """Orthogonal weights, √2 in the hidden layers and `last_scale` in the last, zero biases."""
        sizes = (inputs, *hidden, outputs)
        keys = jax.random.split(key, len(sizes) - 1)
        scales = (*(math.sqrt(2.0) for _ in hidden), last_scale)
        layers = [Linear.start(*layer) for layer in zip(sizes[:-1], sizes[1:], keys, scales, strict=True)]
        return MLP(tuple(layers), activation, normalised)

    def __call__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        activate = ACTIVATIONS[self.activation]
        for layer in self.layers[:-1]:
            x = layer(x)
            x = activate(layer_norm(x) if self.normalised else x)
        return self.layers[-1](x)

    def first(self, count: int) -> "MLP":
        """The network of the first `count` outputs: where policy and value share one, this is the policy's."""
        *hidden, last = self.layers
        last = Linear(last.weight[:, :count], last.bias[:count])
        return MLP((*hidden, last), self.activation, self.normalised)

    def scaled(self, count: int, factor: float) -> "MLP":
        """The first `count` outputs times `factor`, the others as they are."""
        *hidden, last = self.layers
        factors = jnp.where(jnp.arange(last.bias.shape[0]) < count, factor, 1.0)
        last = Linear(last.weight * factors, last.bias * factors)
        return MLP((*hidden, last), self.activation, self.normalised)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of every layer."""
        return tuple((layer.weight.shape[0], layer.weight.shape[1]) for layer in self.layers)

    def layer_by_layer(
        self, x: Float[Array, "*B in"], shifts: tuple[Float[Array, "*B _out"], ...]
    ) -> tuple[Float[Array, "*B outputs"], tuple[Float[Array, "*B _in"], ...]]:
        """The outputs with `shifts` added to each layer's own, and each layer's inputs.

        The derivative in the shifts, at 0, is that in the layers' outputs before the activation: what curvature that
        is told apart by layers is made of.
        """
        assert not self.normalised
        activate, inputs = ACTIVATIONS[self.activation], []
        for place, (layer, shift) in enumerate(zip(self.layers, shifts, strict=True)):
            x = activate(x) if place else x
            inputs.append(x)
            x = layer(x) + shift
        return x, tuple(inputs)

    def on_host(self) -> Callable[[np.ndarray], np.ndarray]:
        """The same function of NumPy arrays, free of everything but the arithmetic: it is called once per step."""
        *hidden, (last_weight, last_bias) = [
            (np.asarray(layer.weight), np.asarray(layer.bias)) for layer in self.layers
        ]
        activate, normalised = HOST_ACTIVATIONS[self.activation], self.normalised

        def forward(x: np.ndarray) -> np.ndarray:
            for weight, bias in hidden:
                x = x @ weight + bias
                x = activate(layer_norm(x) if normalised else x)
            return x @ last_weight + last_bias

        return forward
