"""Conjugate gradients against NumPy's solver, where they stop, and what they do when something is not sound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmark.maths.conjugate_gradient import conjugate_gradient

SIZE = 12


def matrix_and_target(seed, spread=1.5):
    """A symmetric positive definite matrix whose eigenvalues span `spread` powers of ten."""
    rng = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))
    matrix = vectors @ np.diag(10 ** rng.uniform(0, spread, SIZE)) @ vectors.T
    return (matrix + matrix.T) / 2, rng.normal(size=SIZE)


solve = jax.jit(
    lambda matrix, target, iterations=3 * SIZE, tolerance=1e-12: conjugate_gradient(
        lambda v: matrix @ v, target, iterations, tolerance
    ),
    static_argnums=(2, 3),
)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_solves_what_numpy_solves(seed):
    matrix, target = matrix_and_target(seed)
    solved = solve(jnp.float32(matrix), jnp.float32(target))
    exact = np.linalg.solve(matrix, target)
    # float32 loses digits to the condition, which is at most 30
    np.testing.assert_allclose(solved.x, exact, rtol=1e-3, atol=1e-4 * np.abs(exact).max())
    np.testing.assert_allclose(solved.residual, target - matrix @ np.asarray(solved.x, float), atol=2e-4)
    assert bool(solved.sound)


def test_the_error_falls_with_every_iteration():
    """In the norm that A defines, which conjugate gradients minimise over a growing space."""
    matrix, target = matrix_and_target(0, spread=2.0)
    exact = np.linalg.solve(matrix, target)
    errors = []
    for iterations in range(1, SIZE):
        error = np.asarray(solve(jnp.float32(matrix), jnp.float32(target), iterations).x, float) - exact
        errors.append(error @ matrix @ error)
    assert np.all(np.diff(errors) < 0)
    assert errors[-1] < 1e-3 * errors[0]


def test_as_many_iterations_as_there_are_eigenvalues():
    """Two different ones: solved after two, and no third is begun."""
    matrix = np.diag([2.0] * 6 + [5.0] * 6)
    solved = solve(jnp.float32(matrix), jnp.arange(1.0, 13.0))
    assert int(solved.iterations) == 2
    np.testing.assert_allclose(solved.x, np.arange(1, 13) / np.diag(matrix), rtol=1e-5)


def test_stops_at_the_tolerance_and_at_the_limit():
    matrix, target = (jnp.float32(x) for x in matrix_and_target(1))
    rough, fine = solve(matrix, target, 36, 1e-2), solve(matrix, target, 36, 1e-8)
    assert 0 < int(rough.iterations) < int(fine.iterations)
    for solved, tolerance in ((rough, 1e-2), (fine, 1e-8)):
        assert float(jnp.vdot(solved.residual, solved.residual) / jnp.vdot(target, target)) <= tolerance
    assert int(solve(matrix, target, 3, 0.0).iterations) == 3
    nothing = solve(matrix, jnp.zeros(SIZE))
    assert int(nothing.iterations) == 0
    assert bool(nothing.sound)


@pytest.mark.parametrize("broken", [np.nan, np.inf], ids=str)
def test_a_number_that_is_not_finite_is_reported_and_goes_no_further(broken):
    matrix, target = (np.float32(x) for x in matrix_and_target(2))
    bad = target.copy()
    bad[3] = broken
    solved = solve(jnp.asarray(matrix), jnp.asarray(bad))
    assert not bool(solved.sound)
    np.testing.assert_array_equal(solved.x, 0.0)
    matrix[4, 4] = broken
    solved = solve(jnp.asarray(matrix), jnp.asarray(target))
    assert not bool(solved.sound)
    assert np.isfinite(solved.x).all()
    assert np.isfinite(solved.residual).all()


def test_a_direction_of_negative_curvature_is_reported():
    matrix = np.diag([1.0] * 11 + [-2.0])
    solved = solve(jnp.float32(matrix), jnp.eye(12)[11])
    assert not bool(solved.sound)
    np.testing.assert_array_equal(solved.x, 0.0)
