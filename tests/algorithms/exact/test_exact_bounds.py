"""Bounds are proofs: the optimum in exact fractions lies between them, however a search ends."""

from fractions import Fraction

import numpy as np
import pytest
from random_models import METHODS, random_model, solve_by
from reference import exact_optimal_values, exact_policy_values

import bellmark as bm
from bellmark.algorithms.exact import finite_horizon, solve
from bellmark.mdp import bellman

DISCOUNTS = [0.0, 0.5, 0.9, 0.99, 0.9999, 0.999999]


def contains(solution, optimum):
    """`lower <= V* <= upper` without any rounding: fractions are compared with fractions."""
    for lower, value, upper in zip(solution.lower, optimum, solution.upper, strict=True):
        assert lower <= upper
        assert lower == -np.inf or Fraction(float(lower)) <= value
        assert upper == np.inf or value <= Fraction(float(upper))


@pytest.mark.parametrize("seed", range(60))
def test_the_rational_optimum_is_between_the_bounds(seed):
    discount = DISCOUNTS[seed % len(DISCOUNTS)]
    mdp = random_model(seed + 5000, most_states=5)
    optimum = exact_optimal_values(mdp, discount)
    for method in METHODS:
        # As far as float64 goes: where rounding forbids 1e-14 the solver must end by itself and say so.
        for tolerance in (1.0, 1e-6, 1e-14):
            # (near γ = 1 plain sweeps would take minutes; they are stopped, and must be right all the same)
            limit = 20_000 if discount <= 0.99 else 500
            solution = solve_by(method, mdp, discount, tolerance=tolerance, max_iterations=limit)
            contains(solution, optimum)
            assert solution.converged == bool(np.all(solution.upper - solution.lower <= tolerance))


@pytest.mark.parametrize("seed", range(24))
def test_the_rational_optimum_is_between_the_bounds_without_a_discount(seed):
    mdp = random_model(seed + 6000, proper=True, most_states=5)
    optimum = exact_optimal_values(mdp, 1.0)
    for method in METHODS:
        for limit in (1, 3, 10_000):
            contains(solve_by(method, mdp, 1.0, tolerance=1e-9, max_iterations=limit), optimum)


@pytest.mark.parametrize("seed", range(24))
def test_a_search_that_is_given_up_early_still_proves_something_true(seed):
    mdp = random_model(seed + 7000, most_states=5)
    discount = DISCOUNTS[seed % len(DISCOUNTS)]
    optimum = exact_optimal_values(mdp, discount)
    for method in METHODS:
        for limit in (1, 2, 3, 7):
            solution = solve_by(method, mdp, discount, tolerance=1e-13, max_iterations=limit)
            contains(solution, optimum)
            assert np.isfinite(solution.upper - solution.lower).all()


def interrupt_at(monkeypatch, call):
    """Raise what Ctrl-C raises, once, at the given sweep."""
    calls, run = [0], bellman.run

    def counted(*arguments):
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return run(*arguments)

    monkeypatch.setattr(bellman, "run", counted)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("call", [3, 4, 5, 8])
def test_an_interrupted_search_has_true_bounds(method, call, monkeypatch):
    mdp = bm.examples.garnet(5, 3, 3, seed=2)
    optimum = exact_optimal_values(mdp, 0.99)
    with monkeypatch.context() as patch:
        interrupt_at(patch, call)  # calls 1 and 2 open the problem
        solution = solve_by(method, mdp, 0.99, tolerance=1e-13)
    if call <= 4:
        assert solution.interrupted
        assert not solution.converged
        assert "interrupted" in repr(solution)
    contains(solution, optimum)


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_search_without_a_discount_has_true_bounds(method, monkeypatch):
    mdp = bm.examples.grid_world(noise=0.2, living_reward=-0.04)
    optimum = solve(mdp, 1.0, tolerance=1e-10)
    for call in (3, 4, 6):
        with monkeypatch.context() as patch:
            interrupt_at(patch, call)
            solution = solve_by(method, mdp, 1.0)
        assert solution.interrupted
        assert (solution.lower <= optimum.upper).all()
        assert (solution.upper >= optimum.lower).all()


@pytest.mark.parametrize("call", [3, 4, 5, 8])
def test_an_interrupted_soft_search_bounds_the_soft_optimum(call, monkeypatch):
    mdp = bm.examples.garnet(5, 3, 3, seed=2)
    soft = {"method": "soft_value_iteration", "temperature": 5.0}
    optimum = solve(mdp, 0.9, tolerance=1e-9, **soft)
    with monkeypatch.context() as patch:
        interrupt_at(patch, call)
        solution = solve(mdp, 0.9, **soft)
    assert solution.interrupted
    assert (solution.lower <= optimum.upper).all()
    assert (solution.upper >= optimum.lower).all()


@pytest.mark.parametrize("call", [3, 4, 8])
def test_an_interrupted_average_bounds_the_gain(call, monkeypatch):
    mdp = bm.examples.river_swim()
    gain = solve(mdp, method="average_reward", tolerance=1e-9).gain
    with monkeypatch.context() as patch:
        interrupt_at(patch, call)
        solution = solve(mdp, method="average_reward")
    assert solution.interrupted
    assert (solution.lower <= gain).all()
    assert (solution.upper >= gain).all()


@pytest.mark.parametrize("call", [3, 4, 8])
def test_an_interrupted_finite_horizon_has_true_bounds(call, monkeypatch):
    mdp = bm.examples.garnet(6, 3, 3, seed=2)
    best = finite_horizon(mdp, 12, 0.9).values[0]
    with monkeypatch.context() as patch:
        interrupt_at(patch, call)
        solution = solve(mdp, 0.9, method="finite_horizon", horizon=12)
    assert solution.interrupted
    assert not solution.converged
    assert (solution.lower <= best).all()
    assert (solution.upper >= best).all()
    assert np.isfinite(solution.upper - solution.lower).all()


@pytest.mark.parametrize("seed", range(12))
def test_finite_horizon_bounds_contain_the_rational_values(seed):
    mdp = random_model(seed + 8000, most_states=4)
    discount = Fraction(0.9)
    solution = finite_horizon(mdp, 6, 0.9)
    values = [Fraction(0)] * mdp.num_states
    for time in range(5, -1, -1):
        new = []
        for state in range(mdp.num_states):
            options = [
                Fraction(float(mdp.rewards[state, action]))
                + sum(
                    discount * Fraction(p) * values[successor]
                    for p, successor, _, ended in mdp.transitions(state, int(action))
                    if not ended
                )
                for action in np.flatnonzero(mdp.available[state])
            ]
            new.append(max(options, default=Fraction(0)))
        values = new
        for state, value in enumerate(values):
            assert Fraction(float(solution.lower[time, state])) <= value
            assert value <= Fraction(float(solution.upper[time, state]))


def test_adversarial_scales():
    # A penny beside a million, and a discount one rounding away from 1.
    mdp = bm.FiniteMDP.from_arrays(
        [[[0, 1], [1, 0]], [[0, 1], [1, 1]]],
        [[[1 / 3, 2 / 3], [0.1, 0.9]], [[0.7, 0.3], [1.0, 0.0]]],
        [[1e6, 1e-3], [-1e6, 1e-9]],
    )
    for discount in (0.1, 1 - 1e-9):
        optimum = exact_optimal_values(mdp, discount)
        for method in ("policy_iteration", "krylov", "linear_programming", "jacobi"):
            contains(solve_by(method, mdp, discount, tolerance=1e-12, max_iterations=2000), optimum)


def test_the_bounds_are_not_trivially_wide():
    mdp = bm.examples.garnet(5, 2, 3, seed=9)
    solution = bm.solve(mdp, 0.9, method="policy_iteration", tolerance=1e-12)
    values = exact_policy_values(mdp, solution.policy, 0.9)
    contains(solution, values)
    assert solution.gap < 1e-12
