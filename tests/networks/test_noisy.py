"""Noisy weights: their distribution, that they are new each time, and that gradients reach μ and σ."""

import jax
import jax.numpy as jnp
import numpy as np

from bellmark.networks.convolution import Convolution
from bellmark.networks.mlp import MLP
from bellmark.networks.noisy import Noisy

NETWORK = MLP.start(4, (8,), 3, jax.random.key(0))


def test_weights_are_drawn_around_the_mean_with_the_stated_deviation():
    """Var f(x) f(y) = (E|x|)² = 2/π for standard normal x, y, and of the bias E|x|."""
    noisy = Noisy.start(NETWORK, 0.5)
    drawn = jax.vmap(noisy.sampled)(jax.random.split(jax.random.key(1), 4000))
    weight, bias = np.asarray(drawn.layers[0].weight), np.asarray(drawn.layers[0].bias)
    sigma = 0.5 / np.sqrt(4)
    mean = np.asarray(NETWORK.layers[0].weight)
    # 4,000 draws: five standard errors
    np.testing.assert_allclose(weight.mean(0), mean, atol=5 * sigma * np.sqrt(2 / np.pi) / np.sqrt(4000))
    np.testing.assert_allclose(weight.std(0), sigma * np.sqrt(2 / np.pi), rtol=0.1)
    np.testing.assert_allclose(bias.std(0), sigma * (2 / np.pi) ** 0.25, rtol=0.1)
    assert len(np.unique(weight[:, 0, 0])) == 4000


def test_noise_is_factorised():
    """W − μ has rank one in every layer."""
    drawn = Noisy.start(NETWORK).sampled(jax.random.key(2))
    for before, after in zip(NETWORK.layers, drawn.layers, strict=True):
        assert np.linalg.matrix_rank(np.asarray(after.weight - before.weight), tol=1e-5) == 1


def test_gradients_reach_means_and_deviations():
    noisy, x = Noisy.start(NETWORK), jnp.ones((5, 4))
    gradient = jax.grad(lambda n: jnp.sum(jnp.square(n.sampled(jax.random.key(3))(x))))(noisy)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))


def test_only_the_connected_layers_of_a_convolution_are_noisy():
    network = Convolution.start((6, 6, 2), (8,), 3, jax.random.key(4))
    drawn = Noisy.start(network).sampled(jax.random.key(5))
    assert all(np.array_equal(a, b) for a, b in zip(network.kernels, drawn.kernels, strict=True))
    assert not np.array_equal(network.tail.layers[0].weight, drawn.tail.layers[0].weight)


def test_normalised_layers_are_normalised_also_on_the_host():
    network = MLP.start(4, (8, 8), 3, jax.random.key(6), activation="relu", normalised=True)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(network(jnp.asarray(x)), network.on_host()(x), rtol=1e-5, atol=1e-6)
    # what is multiplied by a thousand and moved comes out the same
    first = network.layers[0]
    scaled = MLP((type(first)(1000 * first.weight, 1000 * first.bias), *network.layers[1:]), "relu", True)
    np.testing.assert_allclose(network(jnp.asarray(x)), scaled(jnp.asarray(x)), rtol=1e-3, atol=1e-4)
    plain = MLP(network.layers, "relu")
    assert not np.allclose(network(jnp.asarray(x)), plain(jnp.asarray(x)), rtol=1e-2)
    hidden = np.asarray(x @ first.weight + first.bias)
    by_hand = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(hidden.var(-1, keepdims=True) + 1e-5)
    one = MLP((first, type(first)(jnp.eye(8), jnp.zeros(8))), "relu", True)
    np.testing.assert_allclose(one(jnp.asarray(x)), np.maximum(by_hand, 0), atol=1e-5)
