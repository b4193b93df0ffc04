"""Published answers, by every method that can give them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from random_models import METHODS, solve_by

import bellmark as bm

every_method = pytest.mark.parametrize("method", METHODS)


def on_grid(mdp, values):
    """Values as a picture, NaN for walls."""
    picture = np.full(mdp.layout.shape, np.nan)
    picture[mdp.layout.rows, mdp.layout.columns] = values
    return picture


def proved(method, mdp, discount, **arguments):
    """The values, after seeing that they lie between bounds that met."""
    solution = solve_by(method, mdp, discount, **arguments)
    assert solution.converged
    assert solution.gap <= solution.tolerance
    assert (solution.lower <= solution.values).all()
    assert (solution.values <= solution.upper).all()
    return solution.values


@every_method
def test_grid_world_with_discount(method):
    mdp = bm.examples.grid_world(noise=0.2)
    expected = [
        [0.644969, 0.744380, 0.847766, 1],
        [0.566314, np.nan, 0.571859, -1],
        [0.490684, 0.430844, 0.475471, 0.277296],
    ]
    assert_allclose(on_grid(mdp, proved(method, mdp, 0.9)), expected, atol=1.5e-6)


@every_method
def test_grid_world_with_a_living_reward_and_no_discount(method):
    mdp = bm.examples.grid_world(noise=0.2, living_reward=-0.04)
    expected = [
        [0.811558, 0.867808, 0.917808, 1],
        [0.761558, np.nan, 0.660274, -1],
        [0.705308, 0.655308, 0.611416, 0.387925],
    ]
    assert_allclose(on_grid(mdp, proved(method, mdp, 1.0)), expected, atol=1.5e-6)


@every_method
def test_grid_world_without_noise(method):
    mdp = bm.examples.grid_world(noise=0.0)
    moves = np.array([[3, 2, 1, 0], [4, np.nan, 2, np.nan], [5, 4, 3, 4]])
    expected = 0.9**moves
    expected[1, 3] = -1
    assert_allclose(on_grid(mdp, proved(method, mdp, 0.9)), expected, atol=1e-6)
    # Nothing is lost by walking about for free: γ = 1 has end components that pay nothing.
    undiscounted = on_grid(mdp, proved(method, mdp, 1.0))
    assert_allclose(undiscounted, np.where(expected < 0, -1.0, expected / expected), atol=1e-6)


@every_method
def test_jump_grid(method):
    mdp = bm.examples.jump_grid()
    assert_allclose(on_grid(mdp, proved(method, mdp, 0.9))[0, 1], 24.419428, atol=1.5e-6)


@every_method
@pytest.mark.parametrize(
    "name, discount, worth",
    [("cliff_walking", 1.0, -13.0), ("windy_gridworld", 1.0, -15.0), ("dyna_maze", 0.95, 0.95**13)],
)
def test_path_lengths(method, name, discount, worth):
    mdp = getattr(bm.examples, name)()
    assert mdp.initial_distribution @ proved(method, mdp, discount) == pytest.approx(worth, abs=1e-6)


@every_method
def test_windy_gridworld_with_kings_moves(method):
    mdp = bm.examples.windy_gridworld(kings_moves=True)
    assert mdp.initial_distribution @ proved(method, mdp, 1.0) == pytest.approx(-7, abs=1e-6)


@every_method
def test_forest_management(method):
    assert_allclose(proved(method, bm.examples.forest_management(), 0.9), [26.244, 29.484, 33.484], atol=1e-6)


@every_method
def test_two_states(method):
    values = proved(method, bm.examples.two_states(), 0.95)
    assert_allclose(values, [-8.5714, -20], atol=5e-5)


def uniform(mdp):
    return mdp.available / np.maximum(mdp.available.sum(axis=1, keepdims=True), 1)


@pytest.mark.parametrize("method", ["solve", "iterative"])
def test_values_of_random_policies(method):
    grid = bm.examples.jump_grid()
    values = on_grid(grid, bm.evaluate_policy(grid, uniform(grid), 0.9, method=method))
    assert_allclose(values[0], [3.308996, 8.789292, 4.427619, 5.322368, 1.492179], atol=5e-7)
    small = bm.examples.small_grid()
    values = on_grid(small, bm.evaluate_policy(small, uniform(small), 1.0, method=method))
    assert_allclose(values[0], [0, -14, -20, -22], atol=1e-9)
    five, nineteen = bm.examples.random_walk(), bm.examples.random_walk(19, left=-1.0)
    assert_allclose(
        bm.evaluate_policy(five, uniform(five), 1.0, method=method), np.arange(1, 6) / 6, atol=1e-9
    )
    values = bm.evaluate_policy(nineteen, uniform(nineteen), 1.0, method=method)
    assert_allclose(values, (np.arange(1, 20) - 10) / 10, atol=1e-9)


@pytest.mark.parametrize(
    "right, worth", [(2 - 2**0.5, -(6 + 4 * 2**0.5)), (0.95, -44.21), (0.05, -82.11), (0.5, -12.0)]
)
def test_aliased_corridor(right, worth):
    mdp = bm.examples.short_corridor()
    policy = uniform(mdp)
    policy[:3] = [1 - right, right]
    assert bm.evaluate_policy(mdp, policy, 1.0)[0] == pytest.approx(worth, abs=5e-3)
