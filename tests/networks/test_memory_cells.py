"""The gated recurrent unit: worked by hand, against another implementation, unrolled and step by step."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.networks.convolution import Convolution
from bellmark.networks.mlp import MLP
from bellmark.networks.recurrent import GRU, Recurrent, episode_begins

KEY = jax.random.key(0)
TIME, COUNT, INPUTS, SIZE = 7, 3, 4, 5


@pytest.fixture(scope="module")
def unit():
    """Random biases, too, which begin as zeros."""
    plain = GRU.start(INPUTS, SIZE, KEY)
    draw = jax.random.normal(KEY, (4 * SIZE,))
    return eqx.tree_at(lambda g: (g.bias, g.candidate_bias), plain, (draw[: 3 * SIZE], draw[3 * SIZE :]))


@pytest.fixture(scope="module")
def data():
    first, second = jax.random.split(KEY)
    begins = jnp.zeros((TIME, COUNT), bool).at[3, 1].set(True).at[5, 0].set(True)
    return jax.random.normal(first, (TIME, COUNT, INPUTS)), begins, jax.random.normal(second, (COUNT, SIZE))


def test_one_number_by_hand():
    """x = 1, h = ½; r = σ(0.2 + ½·0.4 + 0.1), z = σ(−0.3 + ½·0.6 + 0.2), n = tanh(0.7 + 0.3 + r(½·0.8 − 0.5))."""
    unit = GRU(
        jnp.array([[0.2, -0.3, 0.7]]),
        jnp.array([[0.4, 0.6, 0.8]]),
        jnp.array([0.1, 0.2, 0.3]),
        jnp.array([-0.5]),
    )
    r, z = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(-0.2))
    n = math.tanh(1.0 - 0.1 * r)
    assert float(unit(jnp.ones(1), jnp.array([0.5]))[0]) == pytest.approx((1 - z) * n + z * 0.5, rel=1e-6)


def test_it_is_equinoxs_unit(unit, data):
    x, _, memory = data
    other = eqx.nn.GRUCell(INPUTS, SIZE, key=KEY)
    other = eqx.tree_at(
        lambda c: (c.weight_ih, c.weight_hh, c.bias, c.bias_n),
        other,
        (unit.input_weight.T, unit.memory_weight.T, unit.bias, unit.candidate_bias),
    )
    np.testing.assert_allclose(unit(x[0], memory), jax.vmap(other)(x[0], memory), atol=1e-6)


def test_it_starts_orthogonal():
    unit = GRU.start(INPUTS, SIZE, KEY)
    for gate in np.split(np.asarray(unit.memory_weight), 3, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(SIZE), atol=1e-5)
    for gate in np.split(np.asarray(unit.input_weight), 3, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(INPUTS), atol=1e-5)


def test_unrolled_is_step_by_step(unit, data):
    x, begins, memory = data
    unrolled = unit.unroll(x, begins, memory)
    on_host = unit.on_host()
    host = np.asarray(memory)
    for t in range(TIME):
        memory = unit(x[t], jnp.where(begins[t][:, None], 0.0, memory))
        host = on_host(np.asarray(x[t]), np.where(begins[t][:, None], np.float32(0), host))
        np.testing.assert_allclose(unrolled[t], memory, atol=1e-6)
        np.testing.assert_allclose(host, memory, atol=1e-6)
        assert host.dtype == np.float32


def test_large_numbers_do_not_overflow(unit):
    x = np.full((1, INPUTS), 1e6, np.float32)
    with np.errstate(all="raise"):
        assert np.isfinite(unit.on_host()(x, np.zeros((1, SIZE), np.float32))).all()


def test_a_beginning_cuts_state_and_gradient(unit, data):
    x, begins, memory = data

    def last(x, memory):
        return jnp.sum(unit.unroll(x, begins, memory)[-1], axis=-1)

    by_input = jax.jacobian(lambda x: last(x, memory))(x)  # [COUNT, TIME, COUNT, INPUTS]
    by_memory = jax.jacobian(lambda m: last(x, m))(memory)
    reach = {0: 5, 1: 3, 2: 0}
    for index, first in reach.items():
        assert not np.any(by_input[index, :first, index])
        assert all(np.any(by_input[index, t, index]) for t in range(first, TIME))
        assert np.any(by_memory[index, index]) == (first == 0)
    other = jax.random.normal(jax.random.key(9), memory.shape)
    np.testing.assert_array_equal(last(x, memory)[:2], last(x, other)[:2])
    assert last(x, memory)[2] != last(x, other)[2]


def test_without_memory_it_is_a_feed_forward_layer(unit, data):
    """Every step the first of its episode: (1 − z) ⊙ tanh(x W_n + b_n + r ⊙ c)."""
    x, begins, memory = data
    unrolled = unit.unroll(x, jnp.ones_like(begins), memory)
    r, z, n = np.split(np.asarray(x @ unit.input_weight + unit.bias), 3, axis=-1)
    r, z = 1 / (1 + np.exp(-r)), 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(
        unrolled, (1 - z) * np.tanh(n + r * np.asarray(unit.candidate_bias)), atol=1e-6
    )


def test_pictures_are_encoded_too():
    encoder = Convolution.start((6, 6, 1), (), 8, KEY)
    core = Recurrent(encoder, GRU.start(8, SIZE, KEY), "relu")
    pictures = jax.random.uniform(KEY, (TIME, COUNT, 6, 6, 1))
    memory = jnp.zeros((COUNT, SIZE))
    unrolled = core.unroll(pictures, jnp.zeros((TIME, COUNT), bool), memory)
    np.testing.assert_allclose(unrolled[0], core(pictures[0], memory), atol=1e-6)
    assert unrolled.shape == (TIME, COUNT, SIZE)
    assert core.on_host() is None


def test_an_encoder_on_the_host(data):
    x, _, memory = data
    for activation in ("tanh", "relu", "silu"):
        core = Recurrent(MLP.start(INPUTS, (6,), 8, KEY), GRU.start(8, SIZE, KEY), activation)
        on_host = core.on_host()(np.asarray(x[0]), np.asarray(memory))
        np.testing.assert_allclose(on_host, core(x[0], memory), atol=1e-6)


def test_where_episodes_begin():
    unbroken = jnp.array([[1, 0], [0, 1], [1, 1], [1, 0]], jnp.float32)
    assert episode_begins(unbroken).tolist() == [
        [False, False],
        [False, True],
        [True, False],
        [False, False],
    ]
