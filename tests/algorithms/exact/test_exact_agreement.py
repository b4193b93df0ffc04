"""Every method finds what linear programming and a dense policy iteration find, on models of every shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from random_models import METHODS, random_model, scale, solve_by
from reference import dense, policy_iteration
from scipy.optimize import linprog

import bellmark as bm
from bellmark.algorithms.exact import value_iteration
from bellmark.algorithms.exact.problem import Differences
from bellmark.mdp import bellman

DISCOUNTS = [0.0, 0.1, 0.5, 0.9, 0.99, 0.999]


def by_linear_program(mdp, discount):
    """V* by a program written here, so that two linear programs are compared and not one with itself."""
    table, rewards, available = dense(mdp)
    rows, limits = [], []
    for state, action in np.argwhere(available):
        row = discount * table[state, action]
        row[state] -= 1
        rows.append(row)
        limits.append(-rewards[state, action])
    bounds = [(None, None) if live else (0, 0) for live in available.any(axis=1)]
    if not rows:
        return np.zeros(mdp.num_states)
    return linprog(np.ones(mdp.num_states), A_ub=np.array(rows), b_ub=limits, bounds=bounds).x


def check(mdp, discount, method, expected):
    size = scale(mdp, discount)
    tolerance = 1e-8 * size
    solution = solve_by(method, mdp, discount, tolerance=tolerance)
    assert solution.converged, (method, solution)
    assert_allclose(solution.values, expected, atol=2 * tolerance, rtol=0)
    slack = 1e-11 * size  # the oracle's own rounding
    assert (solution.lower <= expected + slack).all(), method
    assert (solution.upper >= expected - slack).all(), method
    assert (solution.lower <= solution.upper).all()
    live = ~mdp.terminal
    assert mdp.available[np.flatnonzero(live), solution.policy[live]].all()
    assert (solution.policy[~live] == 0).all()
    attained = bm.evaluate_policy(mdp, solution.policy, discount)
    # Greedy for values that are off by ε loses 2γε/(1 − γ) at most.
    assert (attained >= expected - 4 * tolerance / max(1 - discount, 1e-3)).all(), method
    q = np.where(mdp.available, solution.action_values, -np.inf)
    assert_allclose(q.max(axis=1)[live], expected[live], atol=3 * tolerance, rtol=0)
    assert (solution.values[~live] == 0).all()


@pytest.mark.parametrize("seed", range(240))
def test_all_methods_agree_with_the_oracle(seed):
    mdp = random_model(seed)
    discount = DISCOUNTS[seed % len(DISCOUNTS)]
    expected = policy_iteration(mdp, discount)
    for method in METHODS:
        check(mdp, discount, method, expected)


@pytest.mark.parametrize("seed", range(1000, 1060))
def test_all_methods_agree_with_linear_programming(seed):
    mdp = random_model(seed)
    discount = [0.3, 0.9, 0.98][seed % 3]
    expected = by_linear_program(mdp, discount)
    for method in METHODS:
        values = solve_by(method, mdp, discount, tolerance=1e-8 * scale(mdp, discount)).values
        # HiGHS keeps its constraints to 1e-7, which 1/(1 − γ) enlarges.
        assert_allclose(values, expected, atol=1e-6 * scale(mdp, discount), rtol=0, err_msg=method)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.999), st.sampled_from(sorted(METHODS)))
def test_any_model_any_discount_any_method(seed, discount, method):
    mdp = random_model(seed)
    check(mdp, discount, method, policy_iteration(mdp, discount))


@pytest.mark.parametrize("seed", range(2000, 2060))
def test_all_methods_agree_without_a_discount_where_every_policy_ends(seed):
    mdp = random_model(seed, proper=True)
    expected = policy_iteration(mdp, 1.0)
    size = 1.0 + np.abs(expected).max()
    for method in METHODS:
        solution = solve_by(method, mdp, 1.0, tolerance=1e-8 * size)
        assert solution.converged, method
        assert_allclose(solution.values, expected, atol=2e-8 * size, rtol=0, err_msg=method)
        assert (solution.lower <= expected + 1e-11 * size).all(), method
        assert (solution.upper >= expected - 1e-11 * size).all(), method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("discount", [0.9, 0.99])
def test_large_models_on_two_threads_as_on_one(method, discount):
    if method in ("linear_programming", "policy_iteration", "prioritised", "q_value_iteration"):
        mdp = bm.examples.garnet(600, 3, 4, seed=3)
    else:
        mdp = bm.examples.garnet(25_000, 3, 4, seed=3)  # above the threshold from which slices go to threads
    one = solve_by(method, mdp, discount, threads=1)
    two = solve_by(method, mdp, discount, threads=2)
    assert one.converged
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(one.policy, two.policy)
    np.testing.assert_array_equal(one.lower, two.lower)
    reference = solve_by("jacobi", mdp, discount, tolerance=1e-9)
    assert (one.lower <= reference.upper).all()
    assert (one.upper >= reference.lower).all()


def test_auto_says_what_it_chose_and_why():
    mixing = bm.solve(bm.examples.garnet(2000, 4, 10, seed=0), 0.99)
    assert mixing.method == "value_iteration"
    assert "Jacobi" in mixing.reason
    # Values must travel through these: Jacobi sweeps would need thousands.
    for slow, discount in ((bm.examples.river_swim(), 0.999), (bm.examples.random_walk(4000), 0.9999)):
        solution = bm.solve(slow, discount)
        assert solution.converged
        assert solution.method != "value_iteration"
        assert "Jacobi sweeps foretold" in solution.reason


def test_ties_are_reported():
    mdp = bm.FiniteMDP.from_arrays(
        [[[0], [0], [0]], [[1], [1], [1]]], np.ones((2, 3, 1)), [[1, 1, 0], [0, 2, 1]]
    )
    assert bm.solve(mdp, 0.5).ties == {0: (0, 1)}
    assert bm.solve(bm.examples.grid_world(noise=0.2), 0.9).ties.keys() == {
        bm.examples.grid_world().index(exit) for exit in ((0, 3), (1, 3))
    }


def test_a_record_keeps_every_sweep_with_its_bounds():
    mdp = bm.examples.grid_world(noise=0.2)
    best = bm.solve(mdp, 0.9, tolerance=1e-12, method="policy_iteration").values
    for method in METHODS:
        solution = solve_by(method, mdp, 0.9, record=True)
        record = solution.record
        assert len(record.values) == len(record.lower) == len(record.upper) > 0
        for lower, upper in zip(record.lower, record.upper, strict=True):
            assert (lower <= best + 1e-12).all()
            assert (upper >= best - 1e-12).all()
        assert len(solution.residuals) == solution.iterations
    assert bm.solve(mdp, 0.9).record is None


def test_probabilities_in_fixed_point_cost_no_digit_that_was_asked_for():
    """A model large enough for kernels of its own row length; Gauss–Seidel sweeps know neither."""
    generator = np.random.default_rng(3)
    probabilities = generator.random((30_000, 4, 9))
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    mdp = bm.FiniteMDP.from_arrays(
        generator.integers(0, 30_000, probabilities.shape), probabilities, generator.random((30_000, 4))
    )
    assert mdp.num_transitions >= bellman.OWN_LENGTH_THRESHOLD
    quick = bm.solve(mdp, 0.95, "value_iteration", tolerance=1e-10)
    plain = bm.solve(mdp, 0.95, "modified_policy_iteration", tolerance=1e-8)
    assert quick.converged
    assert plain.converged
    assert quick.iterations < 60
    assert (quick.lower <= plain.upper).all()
    assert (quick.upper >= plain.lower).all()


def test_an_action_dropped_on_a_wrong_guess_is_taken_back(monkeypatch):
    """State 0 may take 0.6 now or walk to where every step pays 1: what that is worth arrives only after the walk
    has been dropped on a guess, and is 0.731.
    """
    monkeypatch.setattr(value_iteration, "WORTH_GUESSING", 0)
    dropped = []
    monkeypatch.setattr(
        value_iteration,
        "Differences",
        lambda few, *rest: dropped.append(few.counts[0]) or Differences(few, *rest),
    )
    discount, end, poor = 0.69, 4, 5
    successors = np.array([[poor, 1], [2, 2], [3, 3], [end, end], [end, end], [poor, poor]])[:, :, None]
    rewards = np.zeros((6, 2))
    rewards[0, 0], rewards[end] = 0.6, 1.0
    mdp = bm.FiniteMDP.from_arrays(successors, np.ones(successors.shape), rewards)
    # The walk's rows stay twice each, so that nothing is packed unless more rows may be.
    monkeypatch.setattr(value_iteration, "FEW", 1.0)
    solution = bm.solve(mdp, discount, "value_iteration", tolerance=1e-9)
    assert dropped
    assert dropped[0] == 1
    assert solution.converged
    assert solution.policy[0] == 1
    truth = discount**4 / (1 - discount)
    assert solution.lower[0] <= truth <= solution.upper[0]


@pytest.mark.parametrize("terminal", [0, 30])
def test_large_models_agree_with_small_steps(monkeypatch, terminal):
    """Guessing, packed rows and improvement in place on two slices, against Jacobi sweeps that do none of these."""
    generator = np.random.default_rng(terminal)
    states, discount = 21_000, 0.9
    probabilities = generator.random((states, 3, 4))
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    available = np.ones((states, 3), dtype=bool)
    rewards = generator.random((states, 3))
    available[:terminal], probabilities[:terminal], rewards[:terminal] = False, 0.0, 0.0
    successors = generator.integers(0, states, (states, 3, 4), dtype=np.int32)
    mdp = bm.FiniteMDP.from_arrays(successors, probabilities, rewards, available=available)
    solutions = [bm.solve(mdp, discount, method, 1e-6) for method in ("auto", "modified_policy_iteration")]
    alone = bm.solve(mdp, discount, "modified_policy_iteration", 1e-6, threads=1)
    np.testing.assert_array_equal(alone.lower, solutions[1].lower)
    monkeypatch.setattr(value_iteration, "WORTH_GUESSING", states * 3 + 1)
    plain = bm.solve(mdp, discount, "value_iteration", 1e-6)
    for solution in solutions:
        assert solution.converged
        assert np.all(solution.lower <= plain.upper)
        assert np.all(plain.lower <= solution.upper)
