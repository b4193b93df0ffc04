"""Value iteration: apply T until the proof says stop (Bellman 1957; Puterman 1994, section 6.3).

    Jacobi          v ← T v, all states at once
    Gauss–Seidel    v(s) ← (T v)(s) in place, self-loops solved for, from both ends in turn
    Prioritised     v(s) ← (T v)(s) where |T v − v| is largest (see `prioritised`)

Jacobi sweeps stop on the spread of T v − v rather than its size, and drop actions that MacQueen's test
(1967) proves not to be optimal, so that later sweeps read only what is still in question. Its proof comes
late where γ is near 1. So on large models that mix well, actions are dropped sooner, on the guess that what
is left to change is no more than the spread of the last change (a sample of the states foretells that of the first).
The few actions left are swept in differences from there, with short probabilities (see `Differences`), until those
settle; then a full sweep in double precision over every action either proves the answer or takes the guess back. A
sweep's cost: 12 bytes per transition still considered and 8 per pair; in differences 8 and 8.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bellmark.mdp import bellman

from .problem import Differences, Problem, Progress, Sweep

Float = NDArray[np.float64]

QUICK = 0.7
"""A sweep that leaves less than this share of the spread mixes well enough for guessing."""

WORTH_GUESSING = 20_000
"""Pairs from which guessing saves something to speak of."""

FEW = 0.35
"""The share of the actions that may be left when those are copied side by side: what the solver's room allows."""

GUARD = 0.75
"""Share of the spread of a change by which an action must be worse to be dropped: where each sweep leaves 0.4 of
the spread, all later ones together move two actions apart by 0.4 / (1 − 0.4) of it at most.
"""

GUESSES = 3
"""Guesses that may be taken back before every action is swept to the end."""

SAMPLE = 400
"""States whose backup foretells how far values will spread."""

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
    worth_guessing = problem.weights is None and progress.record is None
    guesses = GUESSES if worth_guessing and problem.rewards.size >= WORTH_GUESSING else 0
    considered = problem
    foreseen, last_span = np.inf, sweep.span
    if guesses:
        foreseen = _foreseen_span(problem, values)
        if foreseen < QUICK * sweep.span:
            considered = _copied_lists(problem)
    while True:
        shifts = problem.shifts(sweep)
        proved = considered is problem
        if proved:
            progress.certificate = problem.finish(values, policy, sweep, tolerance)
            if progress.certificate is not None or len(progress.residuals) >= limit:
                return
            if at_rounding_floor(problem, sweep, progress, tolerance):
                return
        elif shifts[1] - shifts[0] <= tolerance or sweep.span <= 4 * problem.rounding(sweep.size):
            considered, guesses = problem, guesses - 1
        widths.append(shifts[1] - shifts[0])
        if (give_up is not None and give_up(widths)) or len(progress.residuals) >= limit:
            return
        mixes = len(widths) > 1 and widths[-1] < QUICK * widths[-2]
        if guesses > 0 and proved and considered is problem and mixes:
            considered, foreseen, last_span = _copied_lists(problem), sweep.span, sweep.span
        # What a sweep over fewer actions says of V* is no ground for dropping an action for good.
        margin = problem.margin(shifts, sweep.size) if considered is problem and proved else np.inf
        if considered is not problem:
            margin = GUARD * foreseen
        sweep, _ = considered.sweep(values, out, spare, margin)
        policy, spare = spare, policy
        values, out = out, values
        progress.note(sweep.residual, values, problem, sweep, policy)
        if considered is problem:
            continue
        if sweep.span > 2 * foreseen:
            considered, guesses = problem, guesses - 1
            continue
        # The next change is foreseen to spread less by as much as this one did.
        foreseen, last_span = sweep.span * min(1.0, max(0.25, sweep.span / last_span)), sweep.span
        if problem.branching and int(considered.counts.sum()) < FEW * problem.rewards.size:
            settled = _settle(considered, values, sweep, progress, tolerance, limit, widths, give_up)
            if not settled:
                return
            sweep, _ = problem.sweep(values, out, spare)
            policy, spare = spare, policy
            values, out = out, values
            progress.note(sweep.residual, values, problem, sweep, policy)
            considered, guesses = problem, guesses - 1


def _copied_lists(problem: Problem) -> Problem:
    return replace(problem, actions=problem.actions.copy(), counts=problem.counts.copy())


def _foreseen_span(problem: Problem, values: Float) -> float:
    """The spread of T v − v over states drawn at random; inf where they are too few to say."""
    drawn = np.random.default_rng(0).integers(0, problem.num_states, SAMPLE)
    drawn = drawn[problem.counts[drawn] == problem.num_actions]
    if len(drawn) < SAMPLE // 2 or not problem.branching:
        return np.inf
    pairs = drawn[:, None] * problem.num_actions + np.arange(problem.num_actions)
    entries = pairs[:, :, None] * problem.branching + np.arange(problem.branching)
    following = (problem.continuation[entries] * values[problem.successors[entries]]).sum(axis=2)
    changes = (problem.rewards[drawn] + problem.discount * following).max(axis=1) - values[drawn]
    return float(np.ptp(changes))


def _settle(
    considered: Problem,
    values: Float,
    sweep: Sweep,
    progress: Progress,
    tolerance: float,
    limit: int,
    widths: list[float],
    give_up: Callable[[list[float]], bool] | None,
) -> bool:
    """Sweep the actions considered, in differences from `values` and then added to these, until that would prove the
    answer or gains no more. False if `limit` or `give_up` ended it.
    """
    even = considered.low_mass >= considered.high_mass * (1 - 1e-12)
    shift = considered.discount * 0.5 * (sweep.low + sweep.high) if even else 0.0
    differences = Differences(considered, values, shift)
    spans: list[float] = []
    ended = False
    while True:
        low, high = differences.sweep()
        change = Sweep(low + shift, high + shift, sweep.size)
        progress.note(change.residual, values, considered)
        down, up = considered.shifts(change)
        widths.append(up - down)
        spans.append(high - low)
        ended = (give_up is not None and give_up(widths)) or len(progress.residuals) >= limit
        # The full sweep that follows gains too: seven tenths of what these gain are counted on.
        gain = max(1.0, 0.7 * spans[-2] / spans[-1]) if len(spans) > 1 and spans[-1] > 0.0 else 1.0
        if ended or up - down <= gain * tolerance or (len(spans) > 3 and spans[-1] > 0.98 * spans[-4]):
            values += differences.values
            progress.values = values
            return not ended


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
        if progress.certificate is not None or at_rounding_floor(problem, sweep, progress, tolerance):
            return
        values += np.where(problem.terminal, 0.0, problem.extrapolation(sweep))
        # Look again when the changes are small enough for the proof to succeed, but never at every sweep.
        target = change / 4


def at_rounding_floor(problem: Problem, sweep: Sweep, progress: Progress, tolerance: float = 0.0) -> bool:
    """Whether what is left of T v − v is rounding: further sweeps would prove nothing more.

    Where `tolerance` is wide enough to be proved at all, sweeps go on for as long as they still gain.
    """
    rounding = problem.rounding(sweep.size)
    down, up = problem.shifts(Sweep(0.0, 0.0, sweep.size))
    provable = up - down
    within_reach = problem.weights is None and np.isfinite(provable) and provable < tolerance
    floor = rounding if within_reach else 4 * rounding
    # Equal changes everywhere prove something only where every row goes on with the same mass (but for rounding).
    uneven = problem.low_mass < problem.high_mass * (1 - 1e-12)
    if uneven and within_reach:
        fell = len(progress.residuals) > 1 and progress.residuals[-1] < progress.residuals[-2]
        if sweep.residual > 4 * rounding or fell:
            return False
    elif sweep.residual > floor and (sweep.span > floor or uneven):
        return False
    limit = ""
    if problem.weights is None and np.isfinite(provable):
        limit = f": with values as large as these no error below {provable:.1e} can be proved"
    progress.reason = (progress.reason + "; " if progress.reason else "") + (
        f"stopped where float64 rounding hides any further progress{limit}"
    )
    return True
