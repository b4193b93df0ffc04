"""Value iteration: apply T until the proof says stop (Bellman 1957; Puterman 1994, section 6.3).

    Jacobi          v ← T v, all states at once
    Gauss–Seidel    v(s) ← (T v)(s) in place, self-loops solved for, from both ends in turn
    Prioritised     v(s) ← (T v)(s) where |T v − v| is largest (see `prioritised`)

Jacobi sweeps stop on the spread of T v − v rather than its size, and drop actions that MacQueen's test
(1967) proves not to be optimal, so that later sweeps read only what is still in question. A sweep's cost: 12
bytes per transition still considered and 8 per pair.
"""

from collections.abc import Callable

import numpy as np

from bellmark.mdp import bellman

from .problem import Problem, Progress, Sweep

NO_ORDER = np.empty(0, dtype=np.int32)


def jacobi(
    problem: Problem,
    progress: Progress,
    tolerance: float,
    limit: int,
    give_up: Callable[[list[float]], bool] | None = None,
) -> None:
    """Sweep until proved. `give_up` sees the proved widths so far and may end the attempt, for `auto`."""
    values, out = problem.first_values.copy(), np.empty(problem.num_states)
    policy = problem.first_policy.copy()
    spare = np.full_like(policy, -1)
    sweep = problem.first_sweep
    progress.note(sweep.residual, values, problem, sweep, policy)
    widths: list[float] = []
    while True:
        progress.certificate = problem.finish(values, policy, sweep, tolerance)
        if progress.certificate is not None or len(progress.residuals) >= limit:
            return
        if at_rounding_floor(problem, sweep, progress):
            return
        shifts = problem.shifts(sweep)
        widths.append(shifts[1] - shifts[0])
        if give_up is not None and give_up(widths):
            return
        sweep, _ = problem.sweep(values, out, spare, problem.margin(shifts, sweep.size))
        values, out = out, values
        policy, spare = spare, policy
        progress.note(sweep.residual, values, problem, sweep, policy)


def gauss_seidel(problem: Problem, progress: Progress, tolerance: float, limit: int) -> None:
    """In-place sweeps from both ends in turn; a Jacobi sweep now and then to see whether the proof is
    reached.
    """
    values = progress.values
    policy = problem.first_policy.copy()
    out, spare = np.empty_like(values), np.full_like(policy, -1)
    target = np.inf
    while len(progress.residuals) < limit:
        change = bellman.backup_in_place(
            problem.successors,
            problem.continuation,
            problem.offsets,
            problem.rewards,
            problem.actions,
            problem.counts,
            problem.discount,
            values,
            policy,
            NO_ORDER,
            len(progress.residuals) % 2 == 0,
        )
        progress.note(float(change), values, problem)
        if change > target:
            continue
        sweep, _ = problem.sweep(values, out, spare)
        progress.certificate = problem.finish(out, spare, sweep, tolerance)
        if progress.certificate is not None or at_rounding_floor(problem, sweep, progress):
            return
        values += np.where(problem.terminal, 0.0, problem.extrapolation(sweep))
        # Look again when the changes are small enough for the proof to succeed, but never at every sweep.
        target = change / 4


def at_rounding_floor(problem: Problem, sweep: Sweep, progress: Progress) -> bool:
    """Whether what is left of T v − v is rounding: further sweeps would prove nothing more."""
    floor = 4 * problem.rounding(sweep.size)
    # Equal changes everywhere prove something only where every row goes on with the same mass (but for rounding).
    uneven = problem.low_mass < problem.high_mass * (1 - 1e-12)
    if sweep.residual > floor and (sweep.span > floor or uneven):
        return False
    progress.reason = (progress.reason + "; " if progress.reason else "") + (
        "stopped where float64 rounding hides any further progress"
    )
    return True
