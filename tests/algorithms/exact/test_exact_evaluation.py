"""What a policy is worth, and how far that is from the optimum."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from random_models import random_model, scale
from reference import policy_iteration, policy_values

import bellmark as bm
from bellmark.algorithms.exact import evaluation, regret
from bellmark.errors import BadInput
from bellmark.mdp.occupancy import policy_matrix


def random_policy(mdp, generator):
    weights = generator.exponential(size=mdp.available.shape) * mdp.available
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)


@pytest.mark.parametrize("seed", range(60))
def test_values_of_a_policy_are_its_linear_equations(seed):
    mdp = random_model(seed + 100)
    generator = np.random.default_rng(seed)
    discount = [0.0, 0.5, 0.9, 0.99][seed % 4]
    size = scale(mdp, discount)
    chances = random_policy(mdp, generator)
    expected = policy_values(mdp, chances, discount)
    assert_allclose(bm.evaluate_policy(mdp, chances, discount), expected, atol=1e-12 * size)
    values = bm.evaluate_policy(mdp, chances, discount, method="iterative")
    assert_allclose(values, expected, atol=1e-10 * size)
    chosen = chances.argmax(axis=1)
    one_hot = np.where(mdp.terminal[:, None], 0.0, np.eye(mdp.num_actions)[chosen])
    expected = policy_values(mdp, one_hot, discount)
    assert_allclose(bm.evaluate_policy(mdp, chosen, discount), expected, atol=1e-12 * size)


@pytest.mark.parametrize("seed", range(30))
def test_values_without_a_discount(seed):
    mdp = random_model(seed + 200, proper=True)
    chances = random_policy(mdp, np.random.default_rng(seed))
    expected = policy_values(mdp, chances, 1.0)
    for method in ("solve", "iterative"):
        values = bm.evaluate_policy(mdp, chances, 1.0, method=method)
        assert_allclose(values, expected, atol=1e-9 * (1 + np.abs(expected).max()))


def test_large_models_are_iterated_to_the_same_answer(monkeypatch):
    mdp = bm.examples.garnet(3000, 3, 4, seed=0)
    policy = np.random.default_rng(0).integers(0, 3, 3000)
    direct = bm.evaluate_policy(mdp, policy, 0.99)
    monkeypatch.setattr(evaluation, "DIRECT", 10)
    assert_allclose(bm.evaluate_policy(mdp, policy, 0.99), direct, atol=1e-10)


def test_bicgstab_at_a_hundred_thousand_states():
    """Its true size: the equations hold, and the policy is worth what the proof says."""
    mdp, discount = bm.examples.garnet(100_000, 2, 4, seed=0), 0.99
    assert mdp.num_states > evaluation.DIRECT
    solution = bm.solve(mdp, discount, "krylov")
    assert solution.converged
    values = bm.evaluate_policy(mdp, solution.policy, discount)
    matrix, rewards = policy_matrix(mdp, solution.policy)
    assert_allclose(rewards + discount * (matrix @ values), values, rtol=0, atol=1e-10)
    assert (values <= solution.upper + 1e-9).all()
    # Greedy for values within ε of V*: worth at least V* − 2 γ ε / (1 − γ).
    assert (values >= solution.lower - 2 * discount * solution.gap / (1 - discount)).all()


def test_an_optimal_policy_has_no_gap_and_a_worse_one_what_it_costs():
    mdp = bm.FiniteMDP.from_dense(
        [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]],
        [[1.0, 0.0], [3.0, 0.0]],
        initial_distribution=[1.0, 0.0],
    )
    # Best from 0: move, then 3 for ever: 0.9 · 30 = 27. Staying in 0 pays 1 for ever: 10.
    assert bm.optimality_gap(mdp, [1, 0], 0.9) == 0.0
    assert bm.optimality_gap(mdp, [0, 0], 0.9) == pytest.approx(17.0, rel=1e-12)
    assert_allclose(regret(mdp, [0, 0], 0.9), [17.0, 0.0], rtol=1e-12)
    # A half of each: v = ½(1 + 0.9 v) + ½ · 27, so v = 14 / 0.55.
    assert bm.optimality_gap(mdp, [[0.5, 0.5], [1.0, 0.0]], 0.9) == pytest.approx(27 - 14 / 0.55, rel=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_regret_is_never_negative_and_is_the_difference(seed):
    mdp = random_model(seed + 900)
    chances = random_policy(mdp, np.random.default_rng(seed))
    best, size = policy_iteration(mdp, 0.95), scale(mdp, 0.95)
    lost = regret(mdp, chances, 0.95)
    assert (lost >= 0).all()
    assert_allclose(lost, best - policy_values(mdp, chances, 0.95), atol=1e-8 * size)
    assert bm.optimality_gap(mdp, chances, 0.95) == pytest.approx(mdp.initial_distribution @ lost)
    assert bm.optimality_gap(mdp, bm.solve(mdp, 0.95).policy, 0.95) <= 1e-9 * size


def test_a_policy_that_never_ends_is_refused_by_name():
    mdp = bm.examples.cliff_walking()
    up = np.zeros(mdp.num_states, int)
    with pytest.raises(BadInput, match=r"from state .* it never ends, and it earns -1"):
        bm.evaluate_policy(mdp, up, 1.0)
    assert np.isfinite(bm.evaluate_policy(mdp, up, 0.9)).all()
