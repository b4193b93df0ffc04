"""Kronecker factors against Fisher blocks written out, where the two are provably equal; and where they are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.algorithms.policy_gradient.acktr import as_matrices, as_network, curvature
from bellmark.maths.distributions import Categorical
from bellmark.maths.kronecker import Factors, inverse, natural_direction, preconditioned
from bellmark.networks.mlp import MLP

KEY = jax.random.key(0)
FEATURES = jax.random.normal(jax.random.key(1), (7, 3))


def factors_of(network, features, scores, decay=0.9):
    return Factors.start(network.sizes).seen(*curvature(network, features, scores), decay)


def explicit_gaussian(features, deviation):
    """E[∇log π ∇log πᵀ] of y = [x, 1] M, a ~ N(y, σ²): with vec(M) row by row, E[x̄x̄ᵀ] ⊗ diag(1/σ²)."""
    size, outputs = features.shape[1] + 1, len(deviation)
    total = np.zeros((size * outputs, size * outputs))
    for x in np.asarray(features, float):
        x = np.append(x, 1.0)
        for i, s in enumerate(deviation):  # the score is z/σ with E[z²] = 1, component by component
            slope = np.zeros((size, outputs))
            slope[:, i] = x / s
            total += np.outer(slope.ravel(), slope.ravel())
    return total / len(features)


def test_one_linear_layer_with_gaussian_outputs_is_exact():
    """The spread of ∂log π/∂y is the same in every state, so the expectation of the product is the product."""
    network, deviation = MLP.start(3, (), 2, KEY), np.array([0.5, 2.0])
    # both signs of z, one component at a time, times √2: the expectation over the policy's own actions, in four rows
    rows = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]) * np.sqrt(2.0) / deviation
    features = jnp.repeat(FEATURES, 4, axis=0)
    scores = jnp.tile(jnp.float32(rows), (7, 1))
    factors = factors_of(network, features, lambda _: scores)
    product = np.kron(factors.inputs[0], factors.slopes[0])
    np.testing.assert_allclose(product, explicit_gaussian(FEATURES, deviation), rtol=1e-5, atol=1e-6)


def explicit_categorical(network, features):
    total = 0.0
    for x in features:
        flat = as_matrices(network)[0]
        log_probs = lambda m, x=x: Categorical(jnp.append(x, 1.0) @ m).log_probs  # noqa: E731
        slopes = np.asarray(jax.jacobian(log_probs)(flat), float).reshape(-1, flat.size)
        total = total + slopes.T @ np.diag(np.exp(log_probs(flat))) @ slopes
    return total / len(features)


def categorical_factors(network, features):
    """With √(A π(a)) (e_a − π) for every action: the expectation over the policy's own actions."""
    probability = np.asarray(jnp.exp(Categorical(network(features)).log_probs), float)
    actions = probability.shape[1]
    scores = np.sqrt(actions * probability)[:, :, None] * (np.eye(actions) - probability[:, None])
    scores = jnp.float32(scores.reshape(-1, actions))
    return factors_of(network, jnp.repeat(features, actions, axis=0), lambda _: scores)


def test_one_linear_layer_with_the_same_choice_everywhere_is_exact_and_otherwise_is_not():
    same = MLP.start(3, (), 3, KEY, last_scale=0.0)
    factors = categorical_factors(same, FEATURES)
    exact = explicit_categorical(same, FEATURES)
    np.testing.assert_allclose(np.kron(factors.inputs[0], factors.slopes[0]), exact, rtol=1e-4, atol=1e-6)
    different = MLP.start(3, (), 3, KEY, last_scale=2.0)
    factors = categorical_factors(different, FEATURES)
    exact = explicit_categorical(different, FEATURES)
    off = np.abs(np.kron(factors.inputs[0], factors.slopes[0]) - exact).max()
    assert off > 0.05 * np.abs(exact).max()  # an approximation: this comparison can fail


def test_inputs_and_slopes_of_every_layer_make_its_gradient():
    """Σ_n a_n g_nᵀ is what differentiating the network itself gives, biases in the last row."""
    network = MLP.start(3, (5, 4), 2, KEY)
    weights = jax.random.normal(jax.random.key(3), (7, 2))
    inputs, slopes = curvature(network, FEATURES, lambda _: weights)
    gradient = as_matrices(jax.grad(lambda n: jnp.sum(weights * n(FEATURES)))(network))
    for a, g, want in zip(inputs, slopes, gradient, strict=True):
        np.testing.assert_allclose(jnp.c_[a, jnp.ones(7)].T @ g, want, rtol=1e-4, atol=1e-5)
    outputs, _ = network.layer_by_layer(FEATURES, tuple(jnp.zeros((7, o)) for _, o in network.sizes))
    np.testing.assert_allclose(outputs, network(FEATURES), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 30])
def test_inverse(size):
    rng = np.random.default_rng(size)
    root = rng.normal(size=(size, 2 * size))
    matrix = root @ root.T / size + 0.01 * np.eye(size)
    got = np.asarray(jax.jit(inverse)(jnp.float32(matrix)), float)
    np.testing.assert_allclose(got @ matrix, np.eye(size), atol=2e-3)
    np.testing.assert_allclose(got, np.linalg.inv(matrix), rtol=1e-2, atol=1e-3 * np.abs(got).max())


def test_preconditioning_is_the_damped_inverse():
    rng = np.random.default_rng(0)
    a, s = (np.float32(np.cov(rng.normal(size=(n, 20)))) for n in (4, 3))
    gradient = np.float32(rng.normal(size=(4, 3)))
    got = jax.jit(preconditioned)(*map(jnp.asarray, (gradient, a, s)), 0.01)
    ratio = np.sqrt((np.trace(a) / 4) / (np.trace(s) / 3))
    matrix = np.kron(a + ratio * 0.1 * np.eye(4), s + 0.1 / ratio * np.eye(3))
    np.testing.assert_allclose(np.ravel(got), np.linalg.solve(matrix, gradient.ravel()), rtol=1e-3, atol=1e-4)
    # with little damping it is the inverse of A ⊗ S
    got = jax.jit(preconditioned)(*map(jnp.asarray, (gradient, a, s)), 1e-8)
    np.testing.assert_allclose(
        np.ravel(got), np.linalg.solve(np.kron(a, s), gradient.ravel()), rtol=2e-2, atol=1e-2
    )


def test_dead_layers_are_moved_by_nothing_but_the_damping():
    gradient, zero = jnp.ones((2, 2)), jnp.zeros((2, 2))
    assert np.isfinite(preconditioned(gradient, jnp.eye(2), zero, 0.01)).all()
    assert np.isfinite(preconditioned(gradient, zero, zero, 0.01)).all()


def test_factors_are_plain_means_at_first_and_forget_later():
    network = MLP.start(3, (), 1, KEY)
    batches = [jax.random.normal(jax.random.key(k), (4, 3)) for k in range(5)]
    factors = Factors.start(network.sizes)
    seen = []
    for x in batches:
        factors = factors.seen((x,), (jnp.ones((4, 1)),), 0.7)
        ones = np.c_[x, np.ones(4)]
        seen.append(ones.T @ ones / 4)
        share = min(0.7, 1 - 1 / len(seen))
        want = seen[0] if len(seen) == 1 else share * want + (1 - share) * seen[-1]
        np.testing.assert_allclose(factors.inputs[0], want, rtol=1e-5, atol=1e-6)
        if len(seen) == 3:
            np.testing.assert_allclose(factors.inputs[0], np.mean(seen, axis=0), rtol=1e-5, atol=1e-6)
    assert int(factors.count) == 5
    np.testing.assert_allclose(factors.slopes[0], 1.0, rtol=1e-6)


def test_natural_direction_is_layer_by_layer_and_matrices_go_back_to_networks():
    network = MLP.start(3, (4,), 2, KEY)
    assert all(
        np.array_equal(x, y)
        for x, y in zip(
            jax.tree.leaves(as_network(as_matrices(network), network)), jax.tree.leaves(network), strict=True
        )
    )
    factors = factors_of(network, FEATURES, lambda outputs: jnp.tanh(outputs) + 0.5)
    gradients = as_matrices(jax.grad(lambda n: jnp.sum(n(FEATURES)))(network))
    for place, got in enumerate(natural_direction(factors, gradients, 0.1)):
        want = preconditioned(gradients[place], factors.inputs[place], factors.slopes[place], 0.1)
        np.testing.assert_allclose(got, want, rtol=1e-5)
