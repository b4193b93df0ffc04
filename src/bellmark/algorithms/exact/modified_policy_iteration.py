"""Modified policy iteration: improve the policy, evaluate it by a few cheap sweeps, repeat (Puterman & Shin
1978).

    repeat
        v ← T v with greedy policy π                  all actions: one full sweep
        v ← (T_π)^m v, Gauss–Seidel, in order         one action per state: 1/A of a sweep's cost each
    until a full Jacobi sweep proves the bounds

The evaluation visits states in the order of their distance from where episodes end, with self-loops solved
for: on models through which values must travel (grids, queues, walks), this is what makes them travel far in
a sweep. m is not fixed: evaluation goes on until what it still changes is a tenth of what the full sweep
changed. Where episodes end and γ < 1, the full sweep is itself Gauss–Seidel, from both ends of the model in
turn: news then moves the border between two actions by many states at once, where a Jacobi sweep moves it by
one (316 × 316 grid: 14 improvements instead of 35). Everywhere else the full sweep is a Jacobi sweep, which
also yields bounds each time. It starts from a proved lower bound, so that policies are drawn towards what is
known to be good rather than out into what nobody has looked at.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bellmark.mdp import bellman

from .policy_system import (
    PolicySystem,
    backward_order,
    in_halves,
    inverse,
    policy_system,
)
from .problem import Problem, Progress
from .value_iteration import at_rounding_floor

Float = NDArray[np.float64]

REPEATS = 4
"""Sweeps that each half makes before it looks at the other: handing work to a thread costs a third of a
sweep.
"""

PATIENCE = 50
"""Times `REPEATS` sweeps per evaluation at most."""

EAGERNESS = 4.0
"""How much larger than the proof would need a change in place may be when the proof is first tried."""

RELUCTANCE = 1e-6
"""Share of the last change that an action must be better by to be taken: the rest is noise, and each new action
costs a row of the system."""

LOOKING = 50
"""Improvements after which the proof is tried in any case: rounding may keep changes from becoming that small."""

LEVELLING = 4
"""Jacobi sweeps after an evaluation, on models that never end."""


def modified_policy_iteration(
    problem: Problem,
    progress: Progress,
    tolerance: float,
    limit: int,
    give_up: Callable[[list[float]], bool] | None = None,
) -> None:
    """Iterate until proved. One iteration is one full sweep with the evaluation that follows it.

    `give_up` sees the residuals so far and may end the attempt, for `auto`.
    """
    values = pessimistic(problem)
    order = backward_order(problem)
    progress.values = values
    del problem.first_values
    position = inverse(order)
    policy = np.full(problem.num_states, -1, dtype=np.int32)
    out = np.empty_like(values)
    endless = problem.low_mass > 1 - 1e-6
    in_place = not endless and problem.weights is None
    if in_place:
        for backward in (False, True):
            improve(problem, values, policy, 0.0, backward, out)
    else:
        # A policy that already leads somewhere saves many improvements.
        bellman.backup_in_place(
            problem.successors,
            problem.continuation,
            problem.offsets,
            problem.rewards,
            problem.actions,
            problem.counts,
            problem.discount,
            values,
            policy,
            order,
            False,
        )
    # Changes at which the proof may be reached, looked for not before: it costs a Jacobi sweep.
    target = tolerance * (1.0 - min(problem.discount * problem.high_mass, 1.0)) * EAGERNESS
    change = 0.0
    system = None
    while len(progress.residuals) < limit:
        if in_place:
            backward = len(progress.residuals) % 2 == 0
            change = improve(problem, values, policy, RELUCTANCE * change, backward, out)
        due = len(progress.residuals) % LOOKING == LOOKING - 1
        if not in_place or change <= target or due or progress.record is not None:
            sweep, _ = problem.sweep(values, out, policy)
            change = sweep.residual
            progress.note(change, out, problem, sweep, policy)
            down, up = problem.shifts(sweep)
            if up - down <= tolerance:
                system = None  # done: the bounds may have its room
            progress.certificate = problem.finish(out, policy, sweep, tolerance)
            if progress.certificate is not None or at_rounding_floor(problem, sweep, progress, tolerance):
                return
            target = min(target, change / 2)
            shift = problem.extrapolation(sweep) if endless else 0.0
            if shift:
                out += np.where(problem.terminal, 0.0, shift)
                change = sweep.span
            values, out = out, values
        else:
            progress.note(change, values, problem)
        if give_up is not None and give_up(progress.residuals):
            return
        system = policy_system(problem, policy, order, position, system)
        x = np.take(values, order, out=out, mode="clip")  # the default mode would make a copy first
        _evaluate(system, x, 0.1 * change, endless)
        if endless:
            # Gauss–Seidel tilts the constant error that extrapolation removes; a few Jacobi sweeps level it again.
            for _ in range(LEVELLING):
                x = system.constants + x - system.multiply(x)
        values[order] = x


def improve(
    problem: Problem, values: Float, policy: NDArray[np.int32], slack: float, backward: bool, room: Float
) -> float:
    """v ← T v in place and the greedy policy, in the states' own order or against it; the largest |change|.

    `room` [S] is written over.
    """
    kernel = bellman.improve_in_place_for(problem.row_length)
    return max(
        in_halves(
            lambda half, start, stop: kernel(
                problem.successors,
                problem.continuation,
                problem.offsets,
                problem.rewards,
                problem.actions,
                problem.counts,
                problem.discount,
                half,
                policy,
                slack,
                backward,
                start,
                stop,
            ),
            values,
            room,
            problem.threads,
        )
    )


def pessimistic(problem: Problem) -> Float:
    """A proved lower bound to start from: float64 [S]. Improving policies then lead towards what is known to
    be good.

    At γ = 1 there is none that is cheap, and the rewards themselves serve.
    """
    down, _ = problem.shifts(problem.first_sweep)
    if problem.weights is not None or not np.isfinite(down):
        return problem.first_values.copy()
    return np.where(problem.terminal, 0.0, problem.first_values + min(down, 0.0))


def _evaluate(system: PolicySystem, x: Float, target: float, endless: bool) -> None:
    """Sweep x towards the policy's values until a sweep changes it by `target` or less.

    On models that never end, also where sweeps gain too little: what is left then is the constant error that the
    full sweep extrapolates. (Where values travel, changes that do not shrink are a front on its way: let it arrive.)
    """
    changes: list[float] = []
    while len(changes) < PATIENCE:
        changes.append(system.relax(x, REPEATS))
        stuck = endless and len(changes) > 3 and changes[-1] > 0.9 * changes[-4]
        if changes[-1] <= target or stuck:
            return
