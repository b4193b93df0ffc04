"""Value iteration: apply T until the proof says stop (Bellman 1957; Puterman 1994, section 6.3).

    Jacobi          v ← T v, all states at once
    Gauss–Seidel    v(s) ← (T v)(s) in place, self-loops solved for, from both ends in turn
    Prioritised     v(s) ← (T v)(s) where |T v − v| is largest (see `prioritised`)

Jacobi sweeps stop on the spread of T v − v rather than its size, and drop actions that MacQueen's test
(1967) proves not to be optimal, so that later sweeps read only what is still in question. Its proof comes
late where γ is near 1. So on large models that mix well, actions are dropped sooner, on the guess that what
is left to change is no more than the spread of the last change; once those sweeps have settled, a full one
over every action either proves the answer or takes the guess back. A sweep's cost: 12 bytes per transition
still considered and 8 per pair.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bellmark.mdp import bellman

from .problem import Packed, Problem, Progress, Sweep

QUICK = 0.7
"""A sweep that leaves less than this share of the spread mixes well enough for guessing."""

WORTH_GUESSING = 20_000
"""Pairs from which guessing saves something to speak of."""

FEW = 0.35
"""The share of the actions that may be left when those are copied side by side: what the solver's room allows."""

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
    # Bounds of sweeps over fewer actions prove nothing, so who asked for every sweep's bounds gets none of those.
    may_guess = problem.weights is None and progress.record is None and problem.rewards.size >= WORTH_GUESSING
    considered, packed = problem, None
    while True:
        shifts = problem.shifts(sweep)
        proved = considered is problem
        if proved:
            progress.certificate = problem.finish(values, policy, sweep, tolerance)
            if progress.certificate is not None or len(progress.residuals) >= limit:
                return
            if at_rounding_floor(problem, sweep, progress):
                return
        elif shifts[1] - shifts[0] <= tolerance or sweep.span <= 4 * problem.rounding(sweep.size):
            considered, packed, may_guess = problem, None, False
        widths.append(shifts[1] - shifts[0])
        if (give_up is not None and give_up(widths)) or len(progress.residuals) >= limit:
            return
        if may_guess and considered is problem and len(widths) > 1 and widths[-1] < QUICK * widths[-2]:
            considered = replace(problem, actions=problem.actions.copy(), counts=problem.counts.copy())
        if packed is not None:
            sweep = packed.sweep(values, out)
        else:
            # What a sweep over fewer actions says of V* is no ground for dropping an action for good.
            margin = problem.margin(shifts, sweep.size) if proved else np.inf
            if considered is not problem:
                margin = sweep.span
            sweep, _ = considered.sweep(values, out, spare, margin)
            policy, spare = spare, policy
            if considered is not problem and problem.branching:
                few = int(considered.counts.sum()) < FEW * problem.rewards.size
                packed = Packed(considered) if few else None
        values, out = out, values
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
