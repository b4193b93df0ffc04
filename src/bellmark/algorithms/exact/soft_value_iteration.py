"""Maximum-entropy value iteration (Ziebart 2010; Haarnoja et al. 2017): max E[ Σ γ^t (r_t + β H(π(· | s_t)))
].

    V(s) = β log Σ_a exp(Q(s, a) / β),    Q(s, a) = r(s, a) + γ Σ_s' p(s' | s, a) V(s'),    π(a | s) ∝
    exp(Q(s, a) / β)

β is the temperature: more of it, more entropy; β = 0 is the hard maximum exactly (the same backup as value
iteration). The logarithm is taken after the largest Q is subtracted, so nothing overflows however small β
is. The soft backup is monotone and moves by γ σ k under a shift by k just as the hard one, so the same
bounds hold, with the error of exp and log charged too.
"""

import numpy as np
from numpy.typing import NDArray

from .problem import EPSILON, Certificate, Problem, Progress, Sweep
from .value_iteration import at_rounding_floor, jacobi

Float = NDArray[np.float64]


def soft_value_iteration(
    problem: Problem, progress: Progress, tolerance: float, limit: int, temperature: float
) -> None:
    """Sweep until proved; `temperature` >= 0."""
    if temperature == 0.0:
        jacobi(problem, progress, tolerance, limit)
        return
    live = ~problem.terminal
    values = np.zeros(problem.num_states)
    # Kept from the beginning and at every sweep: an interrupt must not fall back on a proof of the hard problem.
    progress.certificate = problem.bounded(values, problem.first_policy, -np.inf, np.inf)
    while len(progress.residuals) < limit:
        q = problem.action_values(values)
        out, policy = soft_maximum(q, temperature), np.where(live, q.argmax(axis=1), -1).astype(np.int32)
        change = (out - values)[live]
        if len(change) == 0:
            progress.certificate = Certificate(values, values.copy(), values.copy(), policy)
            return
        size = float(max(np.max(np.abs(out)), np.max(np.abs(values)), np.max(np.abs(q[problem.available]))))
        sweep = Sweep(float(change.min()), float(change.max()), size)
        extra = soft_error(problem, temperature, size)
        shifts = problem.shifts(sweep, extra)
        progress.note(sweep.residual, out, problem)
        if progress.record is not None:
            bounds = problem.bounded(out, policy, *shifts)
            progress.record.lower[-1], progress.record.upper[-1] = bounds.lower, bounds.upper
        progress.certificate = problem.bounded(out, policy, *shifts)
        if shifts[1] - shifts[0] <= tolerance or at_rounding_floor(problem, sweep, progress):
            return
        values = out


def soft_maximum(q: Float, temperature: float) -> Float:
    """β log Σ_a exp(q / β) over the last axis, 0 where every entry is −inf. Shape [S, A] -> [S]."""
    best = q.max(axis=1)
    finite = np.isfinite(best)
    shifted = np.where(finite[:, None], q, 0.0) - np.where(finite, best, 0.0)[:, None]
    return np.where(finite, best + temperature * np.log(np.exp(shifted / temperature).sum(axis=1)), 0.0)


def soft_policy(q: Float, temperature: float) -> Float:
    """π(a | s) ∝ exp(q(s, a) / β); shares the probability among the best where β = 0. Rows of terminal
    states are 0.
    """
    best = q.max(axis=1, keepdims=True)
    finite = np.isfinite(best)
    shifted = np.where(finite, q, 0.0) - np.where(finite, best, 0.0)
    weights = np.where(shifted == 0.0, 1.0, 0.0) if temperature == 0.0 else np.exp(shifted / temperature)
    weights = np.where(finite, weights, 0.0)
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)


def soft_error(problem: Problem, temperature: float, size: float) -> float:
    """A bound on the rounding of the logarithm of a sum of A exponentials, each good to 4 units in the last
    place.
    """
    terms = problem.num_actions
    return EPSILON * (4 * size + temperature * (terms + 16) * (1 + np.log(terms + 1)))
