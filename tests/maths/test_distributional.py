"""Distributions of returns: projections worked by hand, what they keep, and what quantile losses come to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.maths.distributional import (
    atoms,
    cross_entropy,
    entropy,
    log_softmax,
    midpoints,
    project,
    quantile_huber,
)


def test_a_projection_worked_by_hand():
    # atoms 0, 1, 2, 3, 4: with r = 0.5 and γ = 0.5 the value 4 goes to 2.5, half to 2 and half to 3; 0 goes to 0.5
    probability = jnp.array([[0.2, 0.0, 0.0, 0.0, 0.8]])
    projected = project(probability, jnp.array([0.5]), jnp.array([0.5]), 0.0, 4.0)
    np.testing.assert_allclose(projected, [[0.1, 0.1, 0.4, 0.4, 0.0]], rtol=1e-6)


def test_what_falls_outside_is_put_at_the_end():
    probability = jnp.array([[0.5, 0.5]])
    np.testing.assert_allclose(
        project(probability, jnp.array([9.0]), jnp.array([1.0]), 0.0, 1.0), [[0.0, 1.0]]
    )
    np.testing.assert_allclose(
        project(probability, jnp.array([-9.0]), jnp.array([1.0]), 0.0, 1.0), [[1.0, 0.0]]
    )


def test_terminated_is_a_point_at_the_reward():
    projected = project(jnp.full((1, 5), 0.2), jnp.array([3.0]), jnp.array([0.0]), 0.0, 4.0)
    np.testing.assert_allclose(projected, [[0.0, 0.0, 0.0, 1.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize(
    "count, low, high", [(51, -10.0, 10.0), (51, -100.0, 100.0), (2, 0.0, 1.0), (101, -3.0, 7.0)]
)
def test_mass_and_mean_are_kept(count, low, high):
    key = jax.random.split(jax.random.key(count), 3)
    probability = jax.nn.softmax(3 * jax.random.normal(key[0], (200, count)))
    support = atoms(low, high, count)
    discount = jax.random.uniform(key[1], (200,))
    # rewards with which no value leaves the range
    least, most = low - discount * low, high - discount * high
    reward = least + (most - least) * jax.random.uniform(key[2], (200,))
    projected = project(probability, reward, discount, low, high)
    assert (np.asarray(projected) >= 0).all()
    np.testing.assert_allclose(projected.sum(-1), 1.0, atol=1e-5)
    wanted = reward + discount * (probability @ support)
    np.testing.assert_allclose(projected @ support, wanted, atol=1e-5 * (high - low))


def test_cross_entropy_is_least_at_the_target():
    target = jnp.array([[0.5, 0.5, 0.0]])
    gradient = jax.grad(lambda x: cross_entropy(target, log_softmax(x))[0])(jnp.zeros((1, 3)))
    np.testing.assert_allclose(gradient, 1 / 3 - target, atol=1e-6)
    assert float(entropy(target)[0]) == pytest.approx(np.log(2), rel=1e-6)


def test_log_softmax_is_the_same_on_the_host():
    x = np.random.default_rng(0).normal(size=(4, 3, 7)).astype(np.float32) * 30
    np.testing.assert_allclose(log_softmax(x), log_softmax(jnp.asarray(x)), rtol=1e-5, atol=1e-5)


def test_quantile_loss_worked_by_hand():
    # τ̂ = ¼, ¾; θ = 0, 2; y = 1.  u = 1, −1: ¼ · |1| and ¾ → |¾ − 1| · |−1| = ¼
    quantile, target = jnp.array([[0.0, 2.0]]), jnp.array([[1.0]])
    assert float(quantile_huber(quantile, target, 0.0)[0]) == pytest.approx(0.5)
    # Huber's with κ = 1: each |u| = 1 counts ½
    assert float(quantile_huber(quantile, target)[0]) == pytest.approx(0.25)
    # κ = 2: (½ u²) / 2 = ¼ each
    assert float(quantile_huber(quantile, target, 2.0)[0]) == pytest.approx(0.125)


def test_descending_the_quantile_loss_comes_to_the_quantiles():
    """Of 400 draws from an exponential distribution; without smoothing (κ = 0) the minimum is the quantile itself."""
    draws = np.random.default_rng(3).exponential(size=400).astype(np.float32)
    theta = jnp.zeros((1, 5))
    gradient = jax.jit(jax.grad(lambda x: quantile_huber(x, jnp.asarray(draws)[None], 0.0)[0]))
    for step in range(2_000):
        theta = theta - 2.0 / (1 + step) ** 0.7 * gradient(theta)
    np.testing.assert_allclose(theta[0], np.quantile(draws, midpoints(5)), atol=0.03)
