"""Convolutional networks for images."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bellmark.networks.mlp import MLP, Activation, layer_norm
from bellmark.networks.orthogonal import orthogonal
from bellmark.types import Key

NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
SMALL = ((16, 3, 1), (32, 3, 1))


def layers_for(height: int, width: int) -> tuple[tuple[int, int, int], ...]:
    """(channels, kernel, stride) per layer: Mnih et al. (2015) for screens, two 3 × 3 layers for small boards."""
    return NATURE if min(height, width) >= 36 else SMALL


def convolved(
    x: Float[Array, "N height width in"], kernel: Float[Array, "k k in out"], stride: int
) -> Float[Array, "N below beside out"]:
    """The convolution of `x` with `kernel`, without padding, as one matrix product over all patches.

    XLA's own convolution falls back to a naive loop on the CPU wherever it stands inside another loop, and every update
    here does: the gradient of two small layers took 1,340 ms in a `lax.scan`, 54 as products (23 outside of it).
    """
    size, height, width = kernel.shape[0], x.shape[1], x.shape[2]
    below, beside = (height - size) // stride, (width - size) // stride
    patches = [
        x[:, i : i + stride * below + 1 : stride, j : j + stride * beside + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]
    flat = jnp.concatenate(patches, axis=-1).reshape(-1, size * size * x.shape[-1])
    product = flat @ kernel.reshape(-1, kernel.shape[-1])
    return product.reshape(x.shape[0], below + 1, beside + 1, -1)


class Convolution(eqx.Module):
    """Convolutions with ReLU over images [*B, height, width, channels], flattened into an MLP.

    Where that is normalised, so is every pixel's channels before its ReLU.
    """

    kernels: tuple[Float[Array, "_k _k _in _out"], ...]
    biases: tuple[Float[Array, " _out"], ...]
    strides: tuple[int, ...] = eqx.field(static=True)
    tail: MLP

    @staticmethod
    def start(
        shape: tuple[int, int, int],
        hidden: tuple[int, ...],
        outputs: int,
        key: Key,
        *,
        activation: Activation = "relu",
        last_scale: float = 1.0,
        normalised: bool = False,
    ) -> "Convolution":
        plan = layers_for(shape[0], shape[1])
        *keys, tail_key = jax.random.split(key, len(plan) + 1)
        height, width, channels = shape
        kernels, biases = [], []
        for (out, size, stride), layer_key in zip(plan, keys, strict=True):
            size = min(size, height, width)
            kernels.append(orthogonal(layer_key, (size, size, channels, out), math.sqrt(2.0)))
            biases.append(jnp.zeros(out))
            height, width = (height - size) // stride + 1, (width - size) // stride + 1
            channels = out
        tail = MLP.start(
            height * width * channels,
            hidden,
            outputs,
            tail_key,
            activation=activation,
            last_scale=last_scale,
            normalised=normalised,
        )
        return Convolution(tuple(kernels), tuple(biases), tuple(stride for _, _, stride in plan), tail)

    def __call__(self, image: Float[Array, "*B height width channels"]) -> Float[Array, "*B outputs"]:
        lead = image.shape[:-3]
        x = image.reshape(-1, *image.shape[-3:])
        for kernel, bias, stride in zip(self.kernels, self.biases, self.strides, strict=True):
            x = convolved(x, kernel, stride) + bias
            x = jax.nn.relu(layer_norm(x) if self.tail.normalised else x)
        return self.tail(x.reshape(*lead, -1))

    def first(self, count: int) -> "Convolution":
        """The network of the first `count` outputs."""
        return Convolution(self.kernels, self.biases, self.strides, self.tail.first(count))

    def scaled(self, count: int, factor: float) -> "Convolution":
        """The first `count` outputs times `factor`, the others as they are."""
        return Convolution(self.kernels, self.biases, self.strides, self.tail.scaled(count, factor))
