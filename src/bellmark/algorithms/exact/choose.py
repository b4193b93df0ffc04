"""`method="auto"`: measure how fast the model mixes, then take the method that suits it.

Jacobi sweeps are tried first, because on a model that mixes well the spread of T v − v falls so fast that
nothing beats them, and because trying is the only cheap way to find out. The proved widths of a few sweeps
then say how many more would be needed. If that is too many: modified policy iteration with ordered
Gauss–Seidel evaluation; and where that does not get there either (slow cycles, γ almost 1), policy
iteration, by direct solves where the model is small and by a Krylov method where it is not.
"""

import math

import numpy as np

from .krylov import krylov
from .modified_policy_iteration import modified_policy_iteration
from .policy_iteration import policy_iteration
from .problem import Problem, Progress
from .value_iteration import jacobi

TRIAL = 6
"""Jacobi sweeps before the rate is judged: the first ones are quicker than what follows."""

ATTEMPT = 80
"""Iterations of modified policy iteration in which it must gain a factor of ten; 20 to 100 are all it needs where
it is the right choice."""

SMALL = 10_000
"""States up to which a sparse factorisation per iteration is cheap."""


def sweeps_left(widths: list[float], tolerance: float) -> float:
    """How many more sweeps at the rate of the last three; inf where the width does not fall."""
    if len(widths) < 4 or not np.isfinite(widths[-1]) or not np.isfinite(widths[-4]) or widths[-4] <= 0:
        return math.inf
    rate = (widths[-1] / widths[-4]) ** (1 / 3)
    if rate >= 1.0:
        return math.inf
    if widths[-1] <= tolerance or rate == 0.0:
        return 0.0
    return math.log(tolerance / widths[-1]) / math.log(rate)


def auto(problem: Problem, progress: Progress, tolerance: float, limit: int) -> None:
    """Solve by whichever method suits; `progress.method` and `progress.reason` say which and why."""
    patience = 60.0
    seen: list[float] = []

    def too_slow(widths: list[float]) -> bool:
        seen[:] = widths
        return len(widths) >= TRIAL and sweeps_left(widths, tolerance) > patience

    progress.method = "value_iteration"
    jacobi(problem, progress, tolerance, limit, too_slow)
    done = len(progress.residuals)
    if progress.certificate is not None or done < TRIAL or not too_slow(seen) or done >= limit:
        progress.reason = _join(f"Jacobi sweeps mix fast enough: {done} of them sufficed", progress.reason)
        return
    left = sweeps_left(seen, tolerance)
    expected = "more sweeps than can be counted" if math.isinf(left) else f"about {left:,.0f} more sweeps"
    trial = f"{done} Jacobi sweeps foretold {expected}"
    progress.method = "modified_policy_iteration"
    progress.reason = f"{trial}, so values are carried along the model by ordered Gauss–Seidel sweeps"

    def hardly_gains(residuals: list[float]) -> bool:
        return len(residuals) >= done + ATTEMPT and residuals[-1] > 0.1 * residuals[-ATTEMPT]

    modified_policy_iteration(problem, progress, tolerance, limit, hardly_gains)
    if progress.certificate is not None or not hardly_gains(progress.residuals):
        return
    if problem.num_states <= SMALL:
        progress.method = "policy_iteration"
        progress.reason = (
            f"{trial}, modified policy iteration hardly gained, and {problem.num_states:,} states are "
            "few enough for direct solves"
        )
        policy_iteration(problem, progress, tolerance, limit, problem.proper_policy)
        return
    progress.method = "krylov"
    progress.reason = f"{trial}, modified policy iteration hardly gained: slow cycles need a Krylov solver"
    krylov(problem, progress, tolerance, limit)


def _join(first: str, second: str) -> str:
    return f"{first}; {second}" if second else first
