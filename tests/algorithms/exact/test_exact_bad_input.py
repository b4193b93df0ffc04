"""Every mistake is one line that says what was given and what is allowed; and nothing here needs JAX."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bellmark as bm
from bellmark.algorithms.exact import finite_horizon, solve
from bellmark.errors import BadInput
from bellmark.mdp import FiniteMDP


@pytest.fixture(scope="module")
def grid():
    return bm.examples.grid_world()


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"discount": 1.1}, "discount must be between 0 and 1, got 1.1"),
        ({"discount": -0.1}, "discount must be between 0 and 1, got -0.1"),
        ({"discount": float("nan")}, "discount must be between 0 and 1, got nan"),
        ({"discount": "0.9"}, "discount must be a number between 0 and 1, not '0.9'"),
        ({"discount": True}, "discount must be a number"),
        ({"tolerance": float("nan")}, "tolerance must be a positive number, got nan"),
        ({"tolerance": 0.0}, "tolerance must be a positive number, got 0.0"),
        ({"tolerance": -1.0}, "tolerance must be a positive number"),
        ({"tolerance": "tight"}, "tolerance must be a positive number, got 'tight'"),
        (
            {"method": "value_itaration"},
            r"unknown method 'value_itaration' \(did you mean 'value_iteration'\?\)",
        ),
        ({"method": "value_iteration", "variant": "jacoby"}, r"did you mean 'jacobi'"),
        (
            {"method": "krylov", "variant": "gauss_seidel"},
            "belongs to method 'value_iteration', not to 'krylov'",
        ),
        ({"temperature": 1.0}, "temperature belongs to method 'soft_value_iteration'"),
        ({"method": "soft_value_iteration", "temperature": -1.0}, "temperature must be 0 or more, got -1.0"),
        (
            {"method": "soft_value_iteration", "temperature": "hot"},
            "temperature must be 0 or more, got 'hot'",
        ),
        ({"method": "soft_value_iteration", "discount": 1.0}, "needs a discount below 1"),
        ({"method": "finite_horizon"}, "needs horizon="),
        ({"method": "finite_horizon", "horizon": -1}, "horizon must be a whole number of steps"),
        ({"method": "finite_horizon", "horizon": 2.5}, "horizon must be a whole number of steps"),
        ({"horizon": 3}, "horizon belongs to method 'finite_horizon'"),
        ({"method": "average_reward"}, "action 'up' in state .* can end the episode"),
        ({"max_iterations": 0}, "max_iterations must be a whole number, 1 or more, got 0"),
        ({"max_iterations": 1.5}, "max_iterations must be a whole number"),
        ({"threads": 0}, "threads must be a whole number, 1 or more, got 0"),
    ],
)
def test_arguments_of_solve(grid, arguments, says):
    with pytest.raises(BadInput, match=says) as caught:
        solve(grid, **arguments)
    assert "\n" not in str(caught.value)


def test_solve_takes_models_only():
    with pytest.raises(BadInput, match="needs a FiniteMDP, not str"):
        solve("grid_world")


def test_a_flagged_ending_has_no_average():
    mdp = FiniteMDP.from_arrays([[[0]]], [[[1.0]]], [[1.0]], terminations=[[[True]]])
    with pytest.raises(BadInput, match="can end the episode"):
        solve(mdp, method="average_reward")


@pytest.mark.parametrize(
    "policy, says",
    [
        (np.zeros(5, int), r"got int64 of shape \(5,\)"),
        (np.zeros((11, 3)), r"got float64 of shape \(11, 3\)"),
        (np.zeros(11), "got float64"),
        (np.full(11, 4), "is 4; allowed: 0 to 3"),
        (np.full(11, -1), "is -1; allowed: 0 to 3"),
        (np.full((11, 4), 0.3), r"sum to 1.2, \+0.2 away from 1"),
        (np.full((11, 4), np.nan), "is nan; allowed: 0 to 1"),
        (np.tile([1.5, -0.5, 0.0, 0.0], (11, 1)), "is -0.5; allowed: 0 to 1"),
        ("up", "a policy is 11 whole numbers"),
        ([[1], [2, 3]], "a policy is 11 whole numbers"),
    ],
)
def test_policies(grid, policy, says):
    for function in (bm.evaluate_policy, bm.optimality_gap):
        with pytest.raises(BadInput, match=says) as caught:
            function(grid, policy, 0.9)
        assert "\n" not in str(caught.value)


def test_an_action_that_is_not_available():
    mdp = FiniteMDP.from_arrays(
        [[[0], [0]]], [[[1.0], [0.0]]], [[1.0, 0.0]], available=[[True, False]], actions=("wait", "fly")
    )
    with pytest.raises(BadInput, match="'fly' in state 0, where it is not available; allowed: 'wait'"):
        bm.evaluate_policy(mdp, [1], 0.9)


def test_evaluation_arguments(grid):
    policy = np.zeros(grid.num_states, int)
    with pytest.raises(BadInput, match="discount must be between 0 and 1, got 2"):
        bm.evaluate_policy(grid, policy, 2)
    with pytest.raises(BadInput, match="'solve' or 'iterative', not 'guess'"):
        bm.evaluate_policy(grid, policy, 0.9, method="guess")
    with pytest.raises(BadInput, match="horizon must be"):
        finite_horizon(grid, True)


WORK = """
import sys, time
import bellmark as bm
begin = time.perf_counter()
mdp = bm.examples.grid_world(noise=0.2)
for method in ("auto", "policy_iteration", "modified_policy_iteration", "krylov", "q_value_iteration"):
    bm.solve(mdp, 0.9, method)
bm.evaluate_policy(mdp, bm.solve(mdp, 0.9).policy, 0.9)
print("jax" in sys.modules, time.perf_counter() - begin)
"""


def test_solving_never_imports_jax_and_the_second_process_starts_at_once(tmp_path):
    # A copy of the sources, so that the first process finds nothing compiled.
    shutil.copytree(
        Path(bm.__file__).parent, tmp_path / "bellmark", ignore=shutil.ignore_patterns("__pycache__", "*.nb*")
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    seconds = []
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", WORK],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ran.returncode == 0, ran.stderr
        jax, took = ran.stdout.split()
        assert jax == "False"
        seconds.append(float(took))
    # Compiling takes several seconds; nothing of it is left the second time.
    assert seconds[1] < seconds[0] / 3, seconds
