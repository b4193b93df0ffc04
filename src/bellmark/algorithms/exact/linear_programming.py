"""The linear program whose only optimum is V* (d'Epenoux 1963; Puterman 1994, section 6.9), solved by HiGHS.

    minimise Σ_s v(s)   subject to   v(s) − γ Σ_s' p(s' | s, a) v(s') ≥ r(s, a)   for every available pair

A linear program is solved to the program's own tolerance (1e-7 here), which the factor 1 / (1 − γ) can make
visible; so its policy is handed to policy iteration, which confirms it (usually in one step) and makes the
values exact. Slow beside dynamic programming; here as an independent witness, and for models to which
constraints will be added.
"""

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, eye_array, vstack

from bellmark.errors import BellmarkError

from .policy_iteration import policy_iteration
from .problem import Problem, Progress


def linear_programming(problem: Problem, progress: Progress, tolerance: float, limit: int) -> None:
    """Solve the program, then polish. One iteration is one of the simplex or interior-point method's own."""
    live = np.flatnonzero(~problem.terminal)
    if len(live) == 0:
        progress.certificate = problem.bounded(progress.values, problem.first_policy, 0.0, 0.0)
        return
    num_actions = problem.num_actions
    blocks, bounds = [], []
    transition = csr_array(
        (problem.continuation, problem.successors, problem.offsets),
        shape=(problem.num_states * num_actions, problem.num_states),
    )
    identity = csr_array(eye_array(problem.num_states, format="csr"))
    for a in range(num_actions):
        states = np.flatnonzero(problem.available[:, a])
        if len(states) == 0:
            continue
        blocks.append(problem.discount * transition[states * num_actions + a] - identity[states])
        bounds.append(-problem.rewards[states, a])
    limits = np.column_stack(
        [np.where(problem.terminal, 0.0, -np.inf), np.where(problem.terminal, 0.0, np.inf)]
    )
    result = linprog(
        np.ones(problem.num_states),
        A_ub=vstack(blocks, format="csr"),
        b_ub=np.concatenate(bounds),
        bounds=limits,
        method="highs",
    )
    if result.x is None:
        raise BellmarkError(f"the linear program was not solved: {result.message}")
    progress.note(0.0, result.x, problem)
    out, policy = np.empty_like(result.x), np.full(problem.num_states, -1, dtype=np.int32)
    problem.sweep(result.x, out, policy)
    used = max(1, int(getattr(result, "nit", 1)))
    progress.residuals[-1:] = [float("nan")] * (used - 1) + [float(np.max(np.abs(out - result.x)))]
    start = policy if problem.weights is None else _tight(problem, result.x, policy)
    policy_iteration(problem, progress, tolerance, limit + used, start)


def _tight(problem: Problem, values: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """At γ = 1 the greedy policy of nearly exact values may go round in a circle; take a proper one then."""
    return policy if problem.proper_policy is None else problem.proper_policy
