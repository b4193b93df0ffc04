"""Noise in the weights instead of noise in the actions: exploration that is learned.

M. Fortunato et al., "Noisy networks for exploration", ICLR 2018 (factorised Gaussian noise).

    W = μ_W + σ_W ⊙ f(ε_in) f(ε_out)ᵀ,   b = μ_b + σ_b ⊙ f(ε_out),   f(x) = sgn(x) √|x|

A `Noisy` network is no function by itself: `sampled` draws the noise and gives a plain network, which acts for a
rollout or is learned through for one update; `mean` is the network without noise.  Only fully connected layers have
noise, as in the paper.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bellmark.networks.convolution import Convolution
from bellmark.networks.mlp import MLP, Linear
from bellmark.types import Key


class Noisy(eqx.Module):
    """μ and, for the fully connected layers, σ."""

    mean: MLP | Convolution
    deviation: tuple[Linear, ...]

    @staticmethod
    def start(mean: MLP | Convolution, initial: float = 0.5) -> "Noisy":
        """σ = `initial` / √inputs everywhere (the paper's σ_0)."""
        deviation = tuple(
            jax.tree.map(
                lambda x, layer=layer: jnp.full_like(x, initial / math.sqrt(len(layer.weight))), layer
            )
            for layer in connected(mean).layers
        )
        return Noisy(mean, deviation)

    def sampled(self, key: Key) -> MLP | Convolution:
        """A network whose weights were drawn around μ."""
        network = connected(self.mean)
        layers = []
        for layer, deviation, layer_key in zip(
            network.layers, self.deviation, jax.random.split(key, len(network.layers)), strict=True
        ):
            inputs, outputs = layer.weight.shape
            noise = rooted(jax.random.normal(layer_key, (inputs + outputs,)))
            before, after = noise[:inputs], noise[inputs:]
            layers.append(
                Linear(
                    layer.weight + deviation.weight * (before[:, None] * after),
                    layer.bias + deviation.bias * after,
                )
            )
        drawn = MLP(tuple(layers), network.activation, network.normalised)
        return drawn if isinstance(self.mean, MLP) else eqx.tree_at(lambda m: m.tail, self.mean, drawn)


def connected(network: MLP | Convolution) -> MLP:
    """The fully connected part."""
    return network if isinstance(network, MLP) else network.tail


def rooted(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """f(x) = sgn(x) √|x|."""
    return jnp.sign(x) * jnp.sqrt(jnp.abs(x))
