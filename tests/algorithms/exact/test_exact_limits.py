"""Soft values, finite horizons, averages and γ = 1: each against brute force and against its limit."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from random_models import random_model, scale
from reference import policy_iteration, policy_values

import bellmark as bm
from bellmark.algorithms.exact import finite_horizon
from bellmark.errors import BadInput
from bellmark.mdp import FiniteMDP

# ------------------------------------------------------------------------------------------------------- soft


def soft(mdp, discount, temperature, tolerance=1e-10):
    return bm.solve(mdp, discount, "soft_value_iteration", tolerance, temperature=temperature)


def soft_by_hand(mdp, discount, temperature):
    """A plain loop, state by state, with the sum of exponentials written out."""
    values = np.zeros(mdp.num_states)
    for _ in range(2000):
        new = np.zeros(mdp.num_states)
        for state in range(mdp.num_states):
            total = 0.0
            for action in np.flatnonzero(mdp.available[state]):
                q = mdp.rewards[state, action] + discount * sum(
                    p * values[successor]
                    for p, successor, _, ended in mdp.transitions(state, int(action))
                    if not ended
                )
                total += np.exp(q / temperature)
            if total > 0:
                new[state] = temperature * np.log(total)
        if np.abs(new - values).max() < 1e-13:
            break
        values = new
    return values


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_soft_values_are_the_written_out_recursion(temperature):
    mdp = bm.examples.grid_world(noise=0.2)
    solution = soft(mdp, 0.8, temperature)
    expected = soft_by_hand(mdp, 0.8, temperature)
    assert solution.converged
    assert_allclose(solution.values, expected, atol=1e-9)
    assert (solution.lower <= expected + 1e-11).all()
    assert (solution.upper >= expected - 1e-11).all()


@pytest.mark.parametrize("seed", range(12))
def test_temperature_zero_is_hard_and_small_is_nearly(seed):
    mdp = random_model(seed + 300)
    hard = bm.solve(mdp, 0.9, "value_iteration")
    zero = bm.solve(mdp, 0.9, "soft_value_iteration")
    assert_array_equal(zero.values, hard.values)
    assert_array_equal(zero.policy, hard.policy)
    best = policy_iteration(mdp, 0.9)
    size = scale(mdp, 0.9)
    before = np.inf
    for temperature in (1.0, 1e-2, 1e-4, 1e-8):
        solution = soft(mdp, 0.9, temperature * size, 1e-8 * size)
        # Each step adds between nothing and β log A of entropy.
        excess = float(np.max(solution.values - best))
        assert np.min(solution.values - best) >= -1e-8 * size
        assert excess <= temperature * size * np.log(mdp.num_actions) * 10 + 1e-8 * size
        assert excess <= before + 1e-8 * size
        before = excess


def test_one_step_is_the_exponential_of_the_reward_and_hotter_is_more_random():
    rewards = np.array([[1.0, 2.0, -0.5]])
    mdp = FiniteMDP.from_arrays(
        np.zeros((1, 3, 1), int), np.ones((1, 3, 1)), rewards, terminations=np.ones((1, 3, 1), bool)
    )
    entropies = []
    for temperature in (0.3, 1.0, 4.0):
        solution = soft(mdp, 0.9, temperature)
        expected = np.exp(rewards / temperature)
        assert_allclose(solution.values, temperature * np.log(expected.sum()), rtol=1e-12)
        expected /= expected.sum()
        assert_allclose(solution.action_probabilities, expected, rtol=1e-12)
        entropies.append(-float((expected * np.log(solution.action_probabilities)).sum()))
    assert entropies == sorted(entropies)


def test_soft_policies_are_probabilities_over_what_is_available():
    for seed in range(20):
        mdp = random_model(seed + 400)
        for temperature in (0.0, 1e-12, 0.7, 1e6):
            chances = soft(mdp, 0.9, temperature, 1e-6 * scale(mdp, 0.9)).action_probabilities
            assert (chances[~mdp.available] == 0).all()
            assert_allclose(chances[~mdp.terminal].sum(axis=1), 1.0, rtol=1e-12)


# --------------------------------------------------------------------------------------------- finite horizon


def best_by_enumeration(mdp, horizon, discount):
    """V_0 by trying every non-stationary deterministic policy."""
    choices = list(itertools.product(*[np.flatnonzero(row) if row.any() else [0] for row in mdp.available]))
    best = np.full(mdp.num_states, -np.inf)
    for plan in itertools.product(choices, repeat=horizon):
        values = np.zeros(mdp.num_states)
        for choice in reversed(plan):
            values = np.array(
                [
                    0.0
                    if mdp.terminal[state]
                    else mdp.rewards[state, action]
                    + discount
                    * sum(
                        p * values[t] for p, t, _, ended in mdp.transitions(state, int(action)) if not ended
                    )
                    for state, action in enumerate(choice)
                ]
            )
        best = np.maximum(best, values)
    return best


@pytest.mark.parametrize("discount", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("seed", range(4))
def test_finite_horizon_is_the_best_of_all_plans(seed, discount):
    generator = np.random.default_rng(seed)
    mdp = FiniteMDP.from_arrays(
        generator.integers(0, 3, (3, 2, 2)),
        generator.dirichlet([1, 1], (3, 2)),
        generator.standard_normal((3, 2)),
        terminations=generator.random((3, 2, 2)) < 0.2,
    )
    for horizon in (0, 1, 3):
        solution = finite_horizon(mdp, horizon, discount)
        assert solution.policy.shape == (horizon, 3)
        assert_allclose(solution.values[0], best_by_enumeration(mdp, horizon, discount), atol=1e-12)
        assert_array_equal(solution.values[horizon], 0.0)
        front = bm.solve(mdp, discount, "finite_horizon", horizon=horizon)
        assert_array_equal(front.values, solution.values[0])
        assert front.converged
        if horizon:
            assert_allclose(front.action_values.max(axis=1), front.values, atol=1e-12)


def test_the_plan_depends_on_what_is_left_and_tends_to_the_stationary_one():
    mdp = bm.examples.river_swim()
    endless = bm.solve(mdp, 0.99)
    # One step from the end nobody swims upstream from the middle.
    short, long = finite_horizon(mdp, 1, 0.99), finite_horizon(mdp, 2500, 0.99)
    assert short.policy[0, 0] != endless.policy[0]
    assert_array_equal(long.policy[0], endless.policy)
    assert_allclose(long.values[0], endless.values, atol=1e-6)
    errors = [np.abs(long.values[2500 - k] - endless.values).max() for k in range(0, 2500, 100)]
    assert errors == sorted(errors, reverse=True)


# ------------------------------------------------------------------------------------------------ the average


def test_average_of_a_chain_worked_by_hand():
    # From 0 to 1 with 0.3, back with 0.6: two thirds of the time in 0, which pays 3, one third in 1, paying 9.
    mdp = FiniteMDP.from_dense([[[0.7, 0.3]], [[0.6, 0.4]]], [[3.0], [9.0]])
    solution = bm.solve(mdp, method="average_reward", tolerance=1e-10)
    assert solution.gain == pytest.approx(5.0, abs=1e-10)
    assert (solution.lower <= 5.0).all()
    assert (solution.upper >= 5.0).all()
    assert solution.values[1] - solution.values[0] == pytest.approx((9 - 3) / 0.9, abs=1e-8)


def test_average_of_a_periodic_chain():
    mdp = FiniteMDP.from_dense([[[0.0, 1.0]], [[1.0, 0.0]]], [[0.0], [1.0]])
    solution = bm.solve(mdp, method="average_reward", tolerance=1e-9, max_iterations=1000)
    assert solution.converged
    assert solution.gain == pytest.approx(0.5, abs=1e-9)
    assert solution.action_values.max(axis=1) == pytest.approx(solution.values, abs=1e-8)


def test_average_of_the_river():
    solution = bm.solve(bm.examples.river_swim(), method="average_reward", tolerance=1e-9)
    assert solution.gain == pytest.approx(0.42865, abs=5e-5)
    assert set(solution.policy) == {1}
    assert solution.converged


@pytest.mark.parametrize("seed", range(30))
def test_average_is_the_best_of_all_policies(seed):
    generator = np.random.default_rng(seed)
    table = generator.dirichlet(np.ones(4), (4, 3))
    mdp = FiniteMDP.from_dense(table, generator.standard_normal((4, 3)))
    gains = []
    for policy in itertools.product(range(3), repeat=4):
        chain = table[np.arange(4), policy]
        system = np.vstack([chain.T - np.eye(4), np.ones(4)])
        share = np.linalg.lstsq(system, np.array([0, 0, 0, 0, 1.0]), rcond=None)[0]
        gains.append(share @ mdp.rewards[np.arange(4), policy])
    solution = bm.solve(mdp, method="average_reward", tolerance=1e-9)
    assert solution.gain == pytest.approx(max(gains), abs=1e-9)
    assert (solution.lower <= max(gains) + 1e-12).all()
    assert (solution.upper >= max(gains) - 1e-12).all()
    # The discounted limit: (1 − γ) V → gain.
    patient = bm.solve(mdp, 1 - 1e-6, "policy_iteration")
    assert_allclose(patient.values * 1e-6, max(gains), atol=1e-5)


# -------------------------------------------------------------------------------------------------- γ = 1


def model(rows, **arguments):
    """From {state: {action: [(probability, successor, reward, terminated)]}}."""
    return FiniteMDP.from_function(
        list(rows), lambda s: list(rows[s]), lambda s, a: rows[s][a], progress=False, **arguments
    )


def test_walking_about_for_free_is_not_an_answer():
    # In a ⇄ b one may walk for ever, for nothing; leaving from b pays 2 and from a 1.
    rows = {
        "a": {"b": [(1.0, "b", 0.0, False)], "out": [(1.0, "end", 1.0, True)]},
        "b": {"a": [(1.0, "a", 0.0, False)], "out": [(1.0, "end", 2.0, True)]},
    }
    for method in ("value_iteration", "policy_iteration", "modified_policy_iteration", "krylov", "auto"):
        solution = bm.solve(model(rows), 1.0, method)
        assert_allclose(solution.values[:2], 2.0)
        # a's policy must really get to b's exit.
        assert_allclose(bm.evaluate_policy(model(rows), solution.policy, 1.0)[:2], 2.0)


def test_staying_for_ever_is_worth_nothing_and_may_be_best():
    rows = {
        "a": {"b": [(1.0, "b", 0.0, False)], "out": [(1.0, "end", -1.0, True)]},
        "b": {"a": [(1.0, "a", 0.0, False)]},
    }
    solution = bm.solve(model(rows), 1.0)
    assert_allclose(solution.values, 0.0)
    assert_allclose(bm.evaluate_policy(model(rows), solution.policy, 1.0), 0.0)


def test_costly_circles_are_left():
    rows = {
        "a": {"b": [(1.0, "b", -1.0, False)], "out": [(1.0, "end", -10.0, True)]},
        "b": {"a": [(1.0, "a", -1.0, False)], "out": [(0.5, "end", -4.0, True), (0.5, "b", -4.0, False)]},
    }
    solution = bm.solve(model(rows), 1.0)
    assert_allclose(solution.values[:2], [-9.0, -8.0], atol=1e-6)


@pytest.mark.parametrize(
    "rows, says",
    [
        (
            {"rich": {"more": [(1.0, "rich", 1.0, False)], "out": [(1.0, "end", 0.0, True)]}},
            "'rich'.*positive",
        ),
        (
            {
                "ok": {"out": [(1.0, "end", 0.0, True)]},
                "trap": {"stay": [(1.0, "trap", -1.0, False)]},
            },
            "'trap' no policy is certain to end",
        ),
        (
            {
                "up": {"go": [(1.0, "down", 1.0, False)], "out": [(1.0, "end", 0.0, True)]},
                "down": {"go": [(1.0, "up", -2.0, False)]},
            },
            "'up'.*both signs",
        ),
    ],
)
def test_where_no_value_is_finite_a_state_is_named(rows, says):
    for method in ("auto", "value_iteration", "policy_iteration", "linear_programming"):
        with pytest.raises(BadInput, match=says) as caught:
            bm.solve(model(rows), 1.0, method)
        assert "\n" not in str(caught.value)
        assert "allowed" in str(caught.value)
    assert bm.solve(model(rows), 0.99).converged


@pytest.mark.parametrize("seed", range(40))
def test_costs_without_a_discount_agree_with_the_limit_of_discounts(seed):
    # Every action costs, 0 can be reached from everywhere: well posed although most policies never end.
    generator = np.random.default_rng(seed)
    size = 6
    successors = generator.integers(0, size, (size, 3, 2))
    successors[1:, 0, 0] = np.arange(size - 1)
    probabilities = generator.dirichlet([1, 1], (size, 3))
    available = np.ones((size, 3), bool)
    available[0] = False
    probabilities[0] = 0.0
    rewards = -generator.exponential(size=(size, 3)) * available
    mdp = FiniteMDP.from_arrays(successors, probabilities, rewards, available=available)
    expected = policy_iteration(mdp, 1 - 1e-9)
    for method in ("auto", "value_iteration", "modified_policy_iteration", "krylov", "policy_iteration"):
        solution = bm.solve(mdp, 1.0, method)
        assert solution.converged
        assert_allclose(solution.values, expected, rtol=1e-5, atol=1e-5)
    chosen = np.zeros((size, 3))
    chosen[np.arange(1, size), solution.policy[1:]] = 1.0
    assert_allclose(policy_values(mdp, chosen, 1.0), solution.values, atol=1e-5)


# --------------------------------------------------------------------------------------------------- rounding


def large_values_and_few_ends(states=2000):
    """Steps worth up to 1, and one terminal state in 2000: values near 900 at γ = 0.999."""
    generator = np.random.default_rng(5)
    probabilities = generator.random((states, 3, 4))
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    available = np.ones((states, 3), dtype=bool)
    available[0], probabilities[0] = False, 0.0
    successors = generator.integers(0, states, probabilities.shape)
    rewards = generator.random((states, 3)) * available
    return FiniteMDP.from_arrays(successors, probabilities, rewards, available=available)


@pytest.mark.parametrize("method", ["modified_policy_iteration", "krylov"])
def test_whoever_asks_for_more_than_float64_can_prove_is_told_how_much_it_can(method):
    mdp = large_values_and_few_ends()
    beyond = bm.solve(mdp, 0.999, method, tolerance=1e-13)
    assert not beyond.converged
    assert "no error below" in beyond.reason
    provable = float(beyond.reason.split("no error below ")[1].split()[0])
    assert 1e-10 < provable <= beyond.gap < 4 * provable
    # An error a little above that is proved: sweeps go on while they still gain.
    within = bm.solve(mdp, 0.999, method, tolerance=1.3 * provable)
    assert within.converged
    assert "no error below" not in within.reason
    assert (within.lower <= beyond.upper).all()
    assert (within.upper >= beyond.lower).all()
