"""Value iteration on action values: Q(s, a) ← r(s, a) + γ Σ_s' p(s' | s, a) max_a' Q(s', a').

The same sequence as Jacobi value iteration (max_a Q_k = v_k), keeping the whole table [S, A]; it is the
expected form of the Q-learning update (Watkins 1989), which is why it is here.
"""

import numpy as np

from .problem import Problem, Progress, Sweep
from .value_iteration import at_rounding_floor


def q_value_iteration(problem: Problem, progress: Progress, tolerance: float, limit: int) -> None:
    """Sweep until proved. One iteration is one sweep over all pairs; the residual is the largest |change| of
    a Q.
    """
    live = ~problem.terminal
    q = np.where(problem.available, problem.rewards, -np.inf)
    values = problem.first_values
    while len(progress.residuals) < limit:
        backed_up = problem.action_values(values)
        policy = np.where(live, backed_up.argmax(axis=1), -1).astype(np.int32)
        out = np.where(live, backed_up.max(axis=1), 0.0)
        change = (out - values)[live]
        size = float(max(np.max(np.abs(out)), np.max(np.abs(values))))
        sweep = Sweep(float(change.min()), float(change.max()), size) if live.any() else Sweep(0.0, 0.0, 0.0)
        residual = float(np.max(np.abs(backed_up[problem.available] - q[problem.available]), initial=0.0))
        progress.note(residual, out, problem, sweep, policy)
        progress.certificate = problem.finish(out, policy, sweep, tolerance)
        if progress.certificate is not None or at_rounding_floor(problem, sweep, progress, tolerance):
            return
        q, values = backed_up, out
