"""The library's own solver on every named example, against the plain oracle: what the examples are there for."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from reference import optimal_values, policy_iteration

from bellmark.algorithms.exact.solve import solve
from bellmark.mdp import examples
from bellmark.mdp.examples import EXAMPLES

SMALL = {
    "car-rental": lambda: examples.car_rental(most=5),
    "gamblers-problem": lambda: examples.gamblers_problem(goal=30),
}


@pytest.mark.parametrize("own_discount", [True, False], ids=["own discount", "0.95"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_auto_proves_the_oracle_s_answer(name, own_discount):
    mdp = SMALL.get(name, EXAMPLES[name])()
    discount = mdp.discount if own_discount else 0.95
    expected = policy_iteration(mdp, discount) if discount < 1 else optimal_values(mdp, discount)
    solution = solve(mdp, discount)
    assert solution.converged
    assert_allclose(solution.values, expected, atol=1e-6, rtol=1e-9)
    slack = 1e-9 * (1 + np.abs(expected))
    assert (solution.lower <= expected + slack).all()
    assert (solution.upper >= expected - slack).all()
