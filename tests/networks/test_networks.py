"""Networks: their scales at the start, their shapes, and that NumPy computes what the compiler does."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.networks.convolution import Convolution, convolved
from bellmark.networks.mlp import MLP, Linear
from bellmark.networks.recurrent import GRU

KEY = jax.random.key(0)


def orthogonal_up_to(scale, weight):
    """Whether the shorter side's rows (or columns) are orthogonal, each of length `scale`."""
    matrix = np.asarray(weight, np.float64).reshape(-1, weight.shape[-1])
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(gram, scale**2 * np.eye(len(gram)), atol=1e-5)
    return True


def test_initial_scales():
    network = MLP.start(4, (64, 32), 2, KEY, last_scale=0.01)
    first, second, last = network.layers
    assert orthogonal_up_to(2**0.5, first.weight)
    assert orthogonal_up_to(2**0.5, second.weight)
    assert orthogonal_up_to(0.01, last.weight)
    assert all((np.asarray(layer.bias) == 0).all() for layer in network.layers)
    assert [layer.weight.shape for layer in network.layers] == [(4, 64), (64, 32), (32, 2)]
    same_shape = MLP.start(8, (8, 8), 8, KEY).layers
    assert not np.array_equal(same_shape[0].weight, same_shape[1].weight)  # a key of its own for every layer


def test_initial_scales_of_convolutions():
    network = Convolution.start((40, 50, 3), (16,), 5, KEY, last_scale=0.01)
    assert all(orthogonal_up_to(2**0.5, kernel) for kernel in network.kernels)
    assert orthogonal_up_to(0.01, network.tail.layers[-1].weight)


@pytest.mark.parametrize(
    "network",
    [MLP.start(3, (8,), 2, KEY), Convolution.start((6, 5, 1), (8,), 2, KEY)],
    ids=["mlp", "convolution"],
)
def test_every_leaf_is_an_array(network):
    """So that states can be scanned, vmapped and saved as they stand."""
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(network))
    jax.lax.scan(lambda carry, _: (carry, None), network, length=2)


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu"])
def test_numpy_computes_what_the_compiler_does(activation):
    network = MLP.start(3, (16, 16), 2, KEY, activation=activation)
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    x[0] = 1e3  # silu must not overflow
    x[1] = -1e3
    compiled = jax.jit(lambda network, x: network(x))(network, jnp.asarray(x))
    host = network.on_host()(x)
    assert host.dtype == np.float32
    # a few units of float32 rounding, of sums of 16 products
    np.testing.assert_allclose(host, compiled, rtol=1e-4, atol=1e-5)


def test_activation_is_applied_between_layers_and_not_after_the_last():
    layers = tuple(Linear(jnp.eye(2), jnp.zeros(2)) for _ in range(2))
    x = jnp.array([2.0, -3.0])
    np.testing.assert_allclose(MLP(layers, "relu")(x), [2.0, 0.0])
    np.testing.assert_allclose(MLP(layers, "tanh")(x), np.tanh([2.0, -3.0]), rtol=1e-6)
    np.testing.assert_allclose(MLP(layers[:1], "tanh")(x), x)


def test_leading_axes_are_left_alone():
    network = MLP.start(3, (8,), 2, KEY)
    x = jax.random.normal(KEY, (4, 5, 3))
    np.testing.assert_allclose(network(x)[2, 3], network(x[2, 3]), rtol=1e-5, atol=1e-6)
    picture = jax.random.uniform(KEY, (4, 5, 6, 7, 2))
    convolution = Convolution.start((6, 7, 2), (8,), 3, KEY)
    assert convolution(picture).shape == (4, 5, 3)
    np.testing.assert_allclose(convolution(picture)[2, 3], convolution(picture[2, 3]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("outputs", [1, 2, 3, 8, 64])
def test_gradient_of_a_narrow_layer_is_that_of_a_product(outputs):
    layer = Linear.start(8, outputs, KEY, 1.0)
    x, weights = jax.random.normal(KEY, (5, 7, 8)), jax.random.normal(KEY, (5, 7, outputs))

    def through(layer, x):
        return jnp.sum(weights * layer(x))

    def plain(layer, x):
        return jnp.sum(weights * (x @ layer.weight + layer.bias))

    got, want = (jax.grad(function, argnums=(0, 1))(layer, x) for function in (through, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        ((84, 84, 4), 3),
        ((36, 36, 3), 3),
        ((210, 160, 3), 3),
        ((35, 35, 1), 2),
        ((10, 10, 4), 2),
        ((3, 3, 1), 2),
        ((1, 1, 2), 2),
    ],
)
def test_images_of_any_size(shape, layers):
    network = Convolution.start(shape, (8,), 2, KEY)
    assert len(network.kernels) == layers
    picture = jnp.ones((2, *shape))
    out = jax.eval_shape(network, picture)
    assert out.shape == (2, 2)


def test_convolution_by_hand():
    """One 1 × 1 picture: a product per layer, ReLU after each, then the tail."""
    network = Convolution(
        (jnp.full((1, 1, 1, 1), 2.0), jnp.full((1, 1, 1, 1), -3.0)),
        (jnp.array([1.0]), jnp.array([20.0])),
        (1, 1),
        MLP((Linear(jnp.array([[1.0]]), jnp.zeros(1)),), "relu"),
    )
    # 2·4 + 1 = 9; −3·9 + 20 = −7, which ReLU makes 0
    np.testing.assert_array_equal(network(jnp.full((1, 1, 1), 4.0)), [0.0])
    # 2·2 + 1 = 5; −3·5 + 20 = 5
    np.testing.assert_array_equal(network(jnp.full((1, 1, 1), 2.0)), [5.0])


@pytest.mark.parametrize("size, stride", [(3, 1), (4, 2), (8, 4), (5, 3)])
def test_a_convolution_is_xlas(size, stride):
    first, second = jax.random.split(jax.random.key(3))
    x, kernel = jax.random.normal(first, (2, 13, 11, 3)), jax.random.normal(second, (size, size, 3, 4))
    numbers = ("NHWC", "HWIO", "NHWC")
    want = jax.lax.conv_general_dilated(x, kernel, (stride, stride), "VALID", dimension_numbers=numbers)
    np.testing.assert_allclose(convolved(x, kernel, stride), want, atol=1e-4)


@pytest.mark.parametrize("start", [lambda key: MLP.start(4, (8,), 2, key), lambda key: GRU.start(3, 4, key)])
def test_starts_side_by_side_are_those_of_each_and_factorise_no_batch(start):
    """On two cores two batches of factorisations under way at a time wait for each other's threads, for ever."""
    keys = jax.random.split(KEY, 3)
    many, alone = jax.vmap(start)(keys), [start(key) for key in keys]
    for together, *each in zip(*(jax.tree.leaves(tree) for tree in (many, *alone)), strict=True):
        assert np.array_equal(together, np.stack(each))
    factorised = [line for line in str(jax.make_jaxpr(jax.vmap(start))(keys)).split("\n") if "= qr[" in line]
    assert factorised
    assert not [line for line in factorised if re.search(r"\[\d+,\d+,\d+\]", line)]
