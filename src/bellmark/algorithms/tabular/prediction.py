"""The policy that a predictor is given, and how it is followed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bellmark.errors import BadInput

from .generator import uniform
from .kernels import inlined
from .problem import TableProblem


def given_policy(
    follow: str, actions: tuple[int, ...], epsilon: float, problem: TableProblem
) -> NDArray[np.float64]:
    """π(a|s), float64 [S, A]: (1 − ε) of the policy that is meant and ε of the uniform one; 0 in terminal states.

    `actions`, one per state, if there are any; else `follow`: "uniform", or "optimal" where the model is known.
    **Raises** `BadInput` for actions that do not fit the problem.
    """
    states, width = problem.num_states, problem.num_actions
    available = problem.available if len(problem.available) else np.ones((states, width), np.bool_)
    available = available & ~problem.terminal[:, None]
    uniform_policy = available / np.maximum(available.sum(axis=1, keepdims=True), 1)
    if len(actions) > 0:
        chosen = np.asarray(actions)
        if len(chosen) != states or chosen.min() < 0 or chosen.max() >= width:
            raise BadInput(
                f"actions are {len(chosen)} numbers from {chosen.min()} to {chosen.max()}; allowed: one for each of "
                f"the {states} states, 0 to {width - 1}"
            )
    elif follow == "uniform":
        return uniform_policy
    elif problem.optimal is None:
        raise BadInput(
            "follow is 'optimal', but the model is not known here; allowed: 'uniform', or actions, one for each state"
        )
    else:
        chosen = problem.optimal
    wrong = np.flatnonzero(~problem.terminal & ~available[np.arange(states), chosen])
    if len(wrong) > 0:
        raise BadInput(f"the policy's action {chosen[wrong[0]]} is not available in state {wrong[0]}")
    greedy = np.eye(width)[chosen] * ~problem.terminal[:, None]
    return (1.0 - epsilon) * greedy + epsilon * uniform_policy


def running_sums(policy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running sums along actions, 2 from the last possible action on, so that none lies beyond."""
    sums = np.cumsum(policy, axis=1)
    last = policy.shape[1] - 1 - np.argmax(policy[:, ::-1] > 0.0, axis=1)
    sums[np.arange(policy.shape[1]) >= last[:, None]] = 2.0
    return sums


@inlined
def follow(running: Any, generator: Any, s: int) -> Any:
    """An action of the policy whose running sums are given (unsigned)."""
    u = uniform(generator)
    for a in range(running.shape[1]):
        if u < running[s, np.uint64(a)]:
            return np.uint64(a)
    return np.uint64(0)
