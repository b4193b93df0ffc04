"""Where a policy spends its time: sums, flows, and the same return counted from both ends."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from reference import dense, policy_values

from bellmark.errors import BadInput
from bellmark.mdp import FiniteMDP, examples
from bellmark.mdp.occupancy import action_probabilities, occupancy, policy_matrix

CASES = {
    "endless": lambda: examples.garnet(20, 3, 4, seed=1),
    "episodes": lambda: examples.frozen_lake(),
    "unavailable": lambda: examples.gamblers_problem(goal=12),
}


@pytest.fixture(params=CASES)
def mdp(request):
    return CASES[request.param]()


def random_policy(mdp):
    weights = np.random.default_rng(0).exponential(size=mdp.available.shape) * mdp.available
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99])
def test_flow_in_is_flow_out(mdp, discount):
    chances = random_policy(mdp)
    visits = occupancy(mdp, chances, discount)
    table, rewards, _ = dense(mdp)
    assert (visits >= -1e-13).all()
    assert (visits[mdp.terminal] == 0).all()
    inflow = mdp.initial_distribution + discount * np.einsum("sa,sat->t", visits, table)
    live = ~mdp.terminal
    assert_allclose(visits.sum(axis=1)[live], inflow[live], atol=1e-12)
    assert_allclose(visits, visits.sum(axis=1, keepdims=True) * chances, atol=1e-13)
    worth = mdp.initial_distribution @ policy_values(mdp, chances, discount)
    assert (visits * rewards).sum() == pytest.approx(worth, rel=1e-10, abs=1e-12)


def test_the_sum_is_the_horizon_where_nothing_ends():
    mdp = examples.garnet(20, 3, 4, seed=1)
    assert occupancy(mdp, random_policy(mdp), 0.9).sum() == pytest.approx(10.0, rel=1e-12)


def test_expected_visits_of_a_random_walk():
    # From the middle of five: 9 = 3 · (6 − 3) steps in all.
    mdp = examples.random_walk()
    visits = occupancy(mdp, np.zeros(5, int), 1.0).sum(axis=1)
    assert_allclose(visits, [1, 2, 3, 2, 1], rtol=1e-12)


def test_an_endless_policy_is_refused_without_a_discount():
    with pytest.raises(BadInput, match="it does not end"):
        occupancy(examples.cliff_walking(), np.zeros(48, int), 1.0)
    with pytest.raises(BadInput, match=r"discount must be between 0 and 1, got 1\.5"):
        occupancy(examples.cliff_walking(), np.zeros(48, int), 1.5)


def test_the_chain_of_a_policy(mdp):
    chances = random_policy(mdp)
    table, rewards, _ = dense(mdp)
    matrix, earned = policy_matrix(mdp, chances)
    assert_allclose(matrix.toarray(), np.einsum("sa,sat->st", chances, table), atol=1e-15)
    assert_allclose(earned, (chances * rewards).sum(axis=1), atol=1e-15)


def test_policies_become_probabilities():
    mdp = FiniteMDP.from_arrays([[[0], [1]], [[0], [1]]], np.ones((2, 2, 1)), np.zeros((2, 2)))
    assert action_probabilities(mdp, [1, 0]).tolist() == [[0, 1], [1, 0]]
    assert action_probabilities(mdp, [[1, 0], [0, 1]]).tolist() == [[1, 0], [0, 1]]
    lake = examples.frozen_lake()
    assert (action_probabilities(lake, np.full((16, 4), 0.25))[lake.terminal] == 0).all()
