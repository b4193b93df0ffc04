"""Policy iteration: evaluate exactly, improve everywhere, until nothing improves (Howard 1960).

    solve (I − γ P_π) v = r_π                by a sparse direct solver
    π(s) ← argmax_a q(s, a)                  keeping the old action among equals, so that it ends

Few iterations (the policies improve strictly, and there are finitely many), each as dear as a sparse
factorisation: the choice for small models and for γ near 1.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, eye_array
from scipy.sparse.linalg import splu

from .problem import Problem, Progress, Sweep
from .value_iteration import at_rounding_floor

Float = NDArray[np.float64]


def policy_iteration(
    problem: Problem,
    progress: Progress,
    tolerance: float,
    limit: int,
    start: NDArray[np.int32] | None = None,
) -> None:
    """Iterate until no action improves by more than rounding. One iteration is one evaluation."""
    policy = problem.first_policy.copy() if start is None else start.copy()
    greedy = np.full_like(policy, -1)
    out = np.empty_like(progress.values)
    rows = np.arange(problem.num_states)
    while len(progress.residuals) < limit:
        values = solve_policy(problem, policy)
        sweep, _ = problem.sweep(values, out, greedy)
        progress.note(sweep.residual, values, problem)
        if progress.record is not None and problem.weights is None:
            progress.record.lower[-1], progress.record.upper[-1] = _bounds(problem, out, greedy, sweep)
        kept = problem.action_values(values)[rows, policy]
        better = (out > kept + 4 * problem.rounding(sweep.size)) & (policy >= 0)
        if not better.any():
            progress.certificate = problem.finish(out, greedy, sweep, tolerance)
            if progress.certificate is None:
                at_rounding_floor(problem, sweep, progress)
            return
        policy = np.where(better, greedy, policy)


def _bounds(problem: Problem, out: Float, policy: NDArray[np.int32], sweep: Sweep) -> tuple[Float, Float]:
    certificate = problem.bounded(out, policy, *problem.shifts(sweep))
    return certificate.lower, certificate.upper


def solve_policy(problem: Problem, policy: NDArray[np.int32]) -> Float:
    """V^π by a sparse direct solve with one step of refinement: float64 [S]. `policy` is negative where
    nothing is done.
    """
    live = policy >= 0
    pairs = np.arange(problem.num_states) * problem.num_actions + np.maximum(policy, 0)
    lengths = np.where(live, problem.offsets[pairs + 1] - problem.offsets[pairs], 0)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    entries = np.repeat(problem.offsets[pairs] - starts[:-1], lengths) + np.arange(starts[-1])
    shape = (problem.num_states, problem.num_states)
    chain = csr_array((problem.continuation[entries], problem.successors[entries], starts), shape=shape)
    rewards = np.where(live, problem.rewards.ravel()[pairs], 0.0)
    matrix = csc_array(eye_array(problem.num_states, format="csc") - problem.discount * chain)
    factors = splu(matrix)
    values = factors.solve(rewards)
    return values + factors.solve(rewards - matrix @ values)
