"""A finite model made ready for sweeping, and the proof that turns any vector into bounds on V*.

**The proof** (MacQueen 1966; Porteus 1971). T is monotone, and adding a constant k to v at every
non-terminal state adds between γ σ_min k and γ σ_max k to T v, where σ is the probability of going on. So if
m ≤ T v − v ≤ M, then

    T v + γ σ m / (1 − γ σ)  ≤  V*  ≤  T v + γ σ M / (1 − γ σ)

with σ = σ_max or σ_min, whichever is the safe side for the sign of m or M. Only the *spread* of T v − v
matters, which on a model that mixes well shrinks much faster than γ.

**In floating point.** A backup of K transitions errs by at most (K + 1) u (R + γ‖v‖), u the unit roundoff.
We charge every backup η = 2 (K + 8) u (R + ‖v‖), which also pays for the subtractions here and for
probabilities, rewards and discount that are themselves one rounding away from the numbers meant (1/3, 0.9).
The bounds are then true, not almost true; no rounding mode is changed. Below 2 η / (1 − γ) they cannot
shrink, and the solver says so instead of sweeping for ever.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bellmark.errors import BadInput
from bellmark.mdp import bellman
from bellmark.mdp.model import FiniteMDP

from .solution import Record

if TYPE_CHECKING:
    from .undiscounted import Weights

Float = NDArray[np.float64]
EPSILON = float(np.finfo(np.float64).eps)


class Sweep(NamedTuple):
    """What a Jacobi sweep saw: the extremes of T v − v over non-terminal states, and max(|v|, |T v|)."""

    low: float
    high: float
    size: float

    @property
    def residual(self) -> float:
        return max(abs(self.low), abs(self.high))

    @property
    def span(self) -> float:
        return self.high - self.low


class Certificate(NamedTuple):
    """Bounds that hold, the values between them, and the policy that is greedy for those."""

    values: Float
    lower: Float
    upper: Float
    policy: NDArray[np.int32]


@dataclass
class Problem:
    """Raw arrays, the lists of actions still considered, and the constants of the proof.

    `weights` is the extra part of the proof for γ = 1, made by `undiscounted`.
    """

    successors: NDArray[np.int32]
    continuation: Float
    offsets: NDArray[np.int64]
    rewards: Float
    available: NDArray[np.bool_]
    discount: float
    threads: int
    branching: int
    terminal: NDArray[np.bool_]
    actions: NDArray[np.int8] | NDArray[np.int32]
    counts: NDArray[np.int8] | NDArray[np.int32]
    first_policy: NDArray[np.int32]
    first_sweep: Sweep
    low_mass: float
    high_mass: float
    longest_row: int
    largest_reward: float
    weights: "Weights | None" = field(default=None)
    proper_policy: NDArray[np.int32] | None = None

    @cached_property
    def first_values(self) -> Float:
        """float64 [S]: the backup of v = 0, max_a r(s, a). Who needs room may delete it; it is made again when asked
        for.
        """
        paid = np.where(self.available, self.rewards, -np.inf).max(axis=1)
        return np.where(self.terminal, 0.0, paid)

    @property
    def num_states(self) -> int:
        return self.rewards.shape[0]

    @property
    def row_length(self) -> int:
        """The length of rows that kernels are compiled for, 0 for any."""
        return bellman.own_length(self.branching, len(self.successors))

    @property
    def num_actions(self) -> int:
        return self.rewards.shape[1]

    # ------------------------------------------------------------------------------------------------- sweeps

    def sweep(
        self, values: Float, out: Float, policy: NDArray[np.int32], margin: float = np.inf
    ) -> tuple[Sweep, int]:
        """out = T values over the actions still considered; drops those worse than the best by more than
        `margin`.
        """
        backup, _ = bellman.backups_for(self.row_length)
        parts = bellman.run(
            lambda start, stop: backup(
                self.successors,
                self.continuation,
                self.offsets,
                self.branching,
                self.rewards,
                self.actions,
                self.counts,
                self.discount,
                values,
                out,
                policy,
                margin,
                start,
                stop,
            ),
            self.num_states,
            self.threads,
        )
        # |v| <= |T v| + |T v − v|: no need to read v again.
        low, high = min(p[0] for p in parts), max(p[1] for p in parts)
        size = max(p[2] for p in parts)
        if low > high:
            return Sweep(0.0, 0.0, 0.0), 0
        return Sweep(low, high, size + max(abs(low), abs(high))), sum(p[3] for p in parts)

    def action_values(self, values: Float) -> Float:
        """float64 [S, A]: one backup of `values`, unmaximised."""
        out = np.empty((self.num_states, self.num_actions))
        bellman.run(
            lambda start, stop: bellman.action_values(
                self.successors,
                self.continuation,
                self.offsets,
                self.rewards,
                self.available,
                self.discount,
                values,
                out,
                start,
                stop,
            ),
            self.num_states,
            self.threads,
        )
        return out

    # -------------------------------------------------------------------------------------------------- proof

    def rounding(self, size: float) -> float:
        """η: how far a computed backup of values no larger than `size` can be from the true one."""
        return (self.longest_row + 8) * EPSILON * (self.largest_reward + size)

    def shifts(self, sweep: Sweep, extra: float = 0.0) -> tuple[float, float]:
        """(c, C) such that T v + c <= V* <= T v + C at every non-terminal state; ±inf where nothing follows.

        `extra` is a further error of every backup, for operators that are not plain sums.
        """
        error = self.rounding(sweep.size) + extra
        low, high = sweep.low - 2 * error, sweep.high + 2 * error
        relative = (self.longest_row + 8) * EPSILON
        most = self.discount * self.high_mass * (1 + relative)
        least = max(0.0, self.discount * self.low_mass * (1 - relative))
        down = _series(low, most if low < 0 else least)
        up = -_series(-high, most if high > 0 else least)
        return (
            down - error - 4 * EPSILON * (sweep.size + abs(down)),
            up + error + 4 * EPSILON * (sweep.size + abs(up)),
        )

    def extrapolation(self, sweep: Sweep) -> float:
        """What to add to T v before going on: the middle of its bounds where T v − v is nearly constant,
        else 0.

        This is the slow mode that every sweep on a model without an end shrinks by γ only.
        """
        if self.weights is not None or sweep.span > 0.5 * sweep.residual:
            return 0.0
        down, up = self.shifts(sweep)
        return 0.5 * (down + up) if np.isfinite(up - down) else 0.0

    def margin(self, shifts: tuple[float, float], size: float) -> float:
        """How much worse than the best an action must look, in a backup of v, to be provably not optimal.

        `shifts` bound V* − v. (MacQueen's test: Q* <= q + γ σ C while V* >= T v + γ σ c.)
        """
        down, up = shifts
        if not np.isfinite(up - down):
            return np.inf
        most, least = self.discount * self.high_mass, self.discount * self.low_mass
        open_width = (most if up > 0 else least) * up - (most if down < 0 else least) * down
        return open_width * (1 + 1e-9) + 4 * self.rounding(size + max(abs(down), abs(up)))

    def finish(
        self, out: Float, policy: NDArray[np.int32], sweep: Sweep, tolerance: float
    ) -> Certificate | None:
        """The certificate of out = T v if the proof reaches the tolerance, else None. Costs nothing for γ <
        1.
        """
        if self.weights is not None:
            return self.weights.finish(self, out, policy, sweep, tolerance)
        down, up = self.shifts(sweep)
        return self.bounded(out, policy, down, up) if up - down <= tolerance else None

    def bounded(self, out: Float, policy: NDArray[np.int32], down: float, up: float) -> Certificate:
        """Bounds at a constant distance from `out`; terminal states are worth exactly 0."""
        lower, upper = out + down, out + up
        middle = out + 0.5 * (down + up) if np.isfinite(up - down) else out.copy()
        if self.first_sweep.size == 0.0 and not self.counts.any():
            lower, upper, middle = out.copy(), out.copy(), out.copy()
        elif self.terminal.any():
            for vector in (lower, upper, middle):
                vector[self.terminal] = 0.0
        return Certificate(middle, lower, upper, policy)

    def certify(self, values: Float) -> Certificate:
        """Bounds from any finite vector at the price of one sweep (γ = 1: a few): what an interrupted solver
        returns.
        """
        values = np.where(self.terminal, 0.0, values)
        out = np.empty_like(values)
        policy = np.full(self.num_states, -1, dtype=np.int32)
        sweep, _ = self.sweep(values, out, policy)
        if self.weights is not None:
            return self.weights.certify(self, out, policy)
        return self.bounded(out, policy, *self.shifts(sweep))


class Differences:
    """T v − v₀ instead of T v, over the actions still considered, copied side by side, in fixed point.

        δ(s) ← max_a [ g(s, a) + γ Σ_s' p(s' | s, a) δ(s') ],    g(s, a) = r(s, a) + γ Σ_s' p v₀(s') − v₀(s) − c

    From v₀ to v₀ + δ is a step of T, but for the constant c, that a later extrapolation restores. A transition takes 8
    bytes instead of 12. Short probabilities do not sum to one; here that costs a share 2e-10 of δ, and not of v.

    Only for rows of equal length. Proves nothing: neither about rounding nor about the actions left out.
    """

    def __init__(self, problem: Problem, start: Float, shift: float):
        """δ = 0, v₀ = `start`, c = `shift`."""
        self.problem = problem
        self.first = np.concatenate([[0], np.cumsum(np.maximum(problem.counts - 1, 0))])
        others = int(self.first[-1])
        rows = problem.num_states + others
        self.successors = np.empty(rows * problem.branching, dtype=np.int32)
        self.coefficients = np.empty(rows * problem.branching, dtype=np.uint32)
        self.gains = np.empty(rows)
        self.owners = np.empty(others, dtype=np.int32)
        self.values = np.zeros(problem.num_states)
        self.spare = np.empty(problem.num_states)
        bellman.run(
            lambda begin, stop: bellman.pack(
                problem.successors,
                problem.continuation,
                problem.branching,
                problem.rewards,
                problem.actions,
                problem.counts,
                problem.discount,
                start,
                shift,
                self.first,
                self.successors,
                self.coefficients,
                self.gains,
                self.owners,
                begin,
                stop,
            ),
            problem.num_states,
            problem.threads,
        )

    def sweep(self) -> tuple[float, float]:
        """One step; the smallest and the largest change."""
        problem = self.problem
        _, backup = bellman.backups_for(problem.row_length)
        parts = bellman.run(
            lambda begin, stop: backup(
                self.successors,
                self.coefficients,
                problem.branching,
                self.gains,
                self.first,
                self.owners,
                self.values,
                self.spare,
                begin,
                stop,
            ),
            problem.num_states,
            problem.threads,
        )
        self.values, self.spare = self.spare, self.values
        return min(p[0] for p in parts), max(p[1] for p in parts)


def _series(shift: float, factor: float) -> float:
    """factor · shift / (1 − factor), rounded down: the sum of what a shift adds in all later backups."""
    if shift == 0.0 or factor == 0.0:
        return 0.0
    distance = 1.0 - factor
    if shift < 0:
        distance -= 4 * EPSILON
        return factor * shift / distance * (1 + 8 * EPSILON) if distance > 0 else -np.inf
    # A positive shift that never fades would be good news without end; claim none of it.
    return factor * shift / (distance + 4 * EPSILON) * (1 - 8 * EPSILON) if distance > 0 else 0.0


def check_discount(discount: float) -> float:
    """`discount` as a float. **Raises** `BadInput` unless 0 <= discount <= 1."""
    if not isinstance(discount, int | float | np.integer | np.floating) or isinstance(discount, bool):
        raise BadInput(f"discount must be a number between 0 and 1, not {discount!r}")
    if not 0.0 <= discount <= 1.0:
        raise BadInput(f"discount must be between 0 and 1, got {discount}")
    return float(discount)


def open_problem(mdp: FiniteMDP, discount: float, threads: int | None = None) -> Problem:
    """Make `mdp` ready for sweeping under `discount`: one pass over its probabilities."""
    if threads is None:
        threads = bellman.available_threads() if mdp.num_transitions >= bellman.PARALLEL_THRESHOLD else 1
    return problem_from_arrays(
        mdp.successors,
        mdp.continuation,
        mdp.offsets,
        mdp.rewards,
        mdp.available,
        discount,
        threads,
        mdp.branching or 0,
        mdp.going_on,
    )


def problem_from_arrays(
    successors: NDArray[np.int32],
    continuation: Float,
    offsets: NDArray[np.int64],
    rewards: Float,
    available: NDArray[np.bool_],
    discount: float,
    threads: int,
    branching: int,
    going_on: tuple[float, float, int] | None = None,
) -> Problem:
    """The same from raw arrays, for models that a method has rewritten."""
    num_states, num_actions = rewards.shape
    # on a large model of few transitions these lists are a tenth of what a solver holds
    narrow: Any = np.int8 if num_actions <= 127 else np.int32
    actions = np.empty((num_states, num_actions), dtype=narrow)
    counts = np.empty(num_states, dtype=narrow)
    values = np.empty(num_states)
    policy = np.empty(num_states, dtype=np.int32)

    opened: list[Any] = bellman.run(
        lambda start, stop: bellman.open_actions(
            available, rewards, actions, counts, values, policy, start, stop
        ),
        num_states,
        threads,
    )
    terminal = counts == 0
    least, most, longest = going_on or bellman.masses(
        successors, continuation, offsets, available, terminal, threads
    )
    low, high = min(p[0] for p in opened), max(p[1] for p in opened)
    size = max(p[2] for p in opened)
    problem = Problem(
        successors=successors,
        continuation=continuation,
        offsets=offsets,
        rewards=rewards,
        available=available,
        discount=discount,
        threads=threads,
        branching=branching,
        terminal=terminal,
        actions=actions,
        counts=counts,
        first_policy=policy,
        first_sweep=Sweep(low, high, size) if low <= high else Sweep(0.0, 0.0, 0.0),
        low_mass=max(0.0, least) if low <= high else 0.0,
        high_mass=max(0.0, most) if low <= high else 0.0,
        longest_row=longest,
        largest_reward=size,
    )
    problem.first_values = values
    return problem


@dataclass
class Progress:
    """Where a method stands, so that an interrupted one can still be certified from `values`, which are only read."""

    values: Float
    residuals: list[float] = field(default_factory=list)
    certificate: Certificate | None = None
    reason: str = ""
    method: str = ""
    record: Record | None = None

    def note(
        self,
        residual: float,
        values: Float,
        problem: Problem,
        sweep: Sweep | None = None,
        policy: NDArray[np.int32] | None = None,
    ) -> None:
        """Count a sweep and, if asked for, keep what it left behind."""
        self.residuals.append(residual)
        self.values = values
        if self.record is None:
            return
        if sweep is None or problem.weights is not None:
            self.record.add(values)
            return
        certificate = problem.bounded(
            values, problem.first_policy if policy is None else policy, *problem.shifts(sweep)
        )
        self.record.add(certificate.values, certificate.lower, certificate.upper)
