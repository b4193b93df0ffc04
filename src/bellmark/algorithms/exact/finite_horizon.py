"""Backward induction for a fixed number of steps (Bellman 1957; Puterman 1994, chapter 4): exact, any
horizon, any γ.

    V_0 = 0,    V_k(s) = max_a [ r(s, a) + γ Σ_s' p(s' | s, a) V_{k−1}(s') ],    k = steps still to go

The optimal policy depends on the steps that are left, so there is one per step. H sweeps, no more and no
less.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bellmark.errors import BadInput
from bellmark.mdp.model import FiniteMDP

from .problem import Problem, check_discount, open_problem

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FiniteHorizonSolution:
    """Values and policies by time; time 0 is the beginning, H steps remain there.

    - `values`, `lower`, `upper`: float64 [H + 1, S], row t when t steps have been taken; row H is 0.
    - `policy`: int64 [H, S], what to do at time t (0 in terminal states).
    - `interrupted`: whether Ctrl-C ended the search. Times not reached then have bounds that are true but wide.
    """

    values: Float
    lower: Float
    upper: Float
    policy: NDArray[np.int64]
    horizon: int
    discount: float
    seconds: float
    interrupted: bool = False


def finite_horizon(mdp: FiniteMDP, horizon: int, discount: float = 1.0) -> FiniteHorizonSolution:
    """The optimal non-stationary policy for `horizon` steps.

    **Raises** `BadInput` for a horizon that is not a whole number >= 0 or a discount outside [0, 1].
    """
    if not isinstance(horizon, int | np.integer) or isinstance(horizon, bool) or horizon < 0:
        raise BadInput(f"horizon must be a whole number of steps, 0 or more, not {horizon!r}")
    begin = time.perf_counter()
    problem = open_problem(mdp, check_discount(discount))
    values = np.zeros((horizon + 1, mdp.num_states))
    policy = np.full((horizon, mdp.num_states), -1, dtype=np.int32)
    errors = np.zeros(horizon + 1)
    interrupted, reached = False, horizon
    try:
        for t in range(horizon - 1, -1, -1):
            sweep, _ = problem.sweep(values[t + 1], values[t], policy[t])
            # Errors of later steps arrive multiplied by at most γ σ_max; each step adds its own rounding.
            carried = problem.discount * problem.high_mass * errors[t + 1]
            errors[t] = (carried + problem.rounding(sweep.size)) * (1 + 1e-12)
            reached = t
    except KeyboardInterrupt:
        interrupted = True
    slack = np.where(problem.terminal, 0.0, errors[:, None])
    lower, upper = values - slack, values + slack
    if interrupted:
        policy[:reached] = problem.first_policy
        _fill(problem, lower, upper, reached)
        values[:reached] = 0.5 * (lower[:reached] + upper[:reached])
    return FiniteHorizonSolution(
        values,
        lower,
        upper,
        np.maximum(policy, 0).astype(np.int64),
        int(horizon),
        float(discount),
        time.perf_counter() - begin,
        interrupted,
    )


def _fill(problem: Problem, lower: Float, upper: Float, reached: int) -> None:
    """Bounds for the times before `reached`, from the best rewards of one step: no sweep is needed for them.

    min r + γ σ min V_{k−1}  ≤  V_k  ≤  max r + γ σ max V_{k−1},    σ the mass on the safe side of the sign
    """
    live = ~problem.terminal
    most, least = problem.discount * problem.high_mass, problem.discount * problem.low_mass
    for t in range(reached - 1, -1, -1):
        low, high = np.min(lower[t + 1, live], initial=np.inf), np.max(upper[t + 1, live], initial=-np.inf)
        down = problem.first_sweep.low + (most if low < 0 else least) * low
        up = problem.first_sweep.high + (most if high > 0 else least) * high
        error = 2 * problem.rounding(max(abs(low), abs(high)))
        lower[t], upper[t] = np.where(live, down - error, 0.0), np.where(live, up + error, 0.0)
