"""The linear equations of one policy, laid out for sweeping: x = b + C x, self-loops solved for.

    b(s) = r(s, π(s)) / (1 − γ p(s | s, π(s))),    C(s, s') = γ p(s' | s, π(s)) / (1 − γ p(s | s, π(s)))

States are renumbered in the order in which they will be visited, so that a sweep reads memory from front to
back. The matrix takes 1/A of the model's room. Sweeps run over two halves at once: within a half each state
sees the newest values (Gauss–Seidel), across the boundary those of the sweep before (Jacobi). The halves are
fixed, so the number of cores never changes a bit of the answer.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bellmark.mdp import bellman

from .problem import Problem

Float = NDArray[np.float64]
Array = NDArray[Any]


@functools.cache
def extract_for(fixed: int) -> Any:
    """`extract` for rows of `fixed` transitions, or, with 0, for rows of any length."""

    @bellman.kernel
    def extract(
        successors: Array,
        continuation: Array,
        offsets: Array,
        rewards: Array,
        discount: float,
        policy: Array,
        order: Array,
        position: Array,
        written: Array,
        starts: Array,
        columns: Array,
        coefficients: Array,
        constants: Array,
        start: int,
        stop: int,
    ) -> None:
        """Write rows `start <= t < stop` of the system; a state without action has the equation x = 0.

        `written[t]` is the action whose row stands there already (−2: none), which is not written again.
        """
        num_actions = rewards.shape[1]
        for t in range(np.uint64(start), np.uint64(stop)):
            s = order[t]
            a = policy[np.uint32(s)]
            if a == written[t]:
                continue
            written[t] = a
            if a < 0:
                constants[t] = 0.0
                continue
            pair = s * num_actions + a
            if fixed > 0:
                source = np.uint64(pair) * np.uint64(fixed)
                begin = t * np.uint64(fixed)
                length = np.uint64(fixed)
            else:
                source = np.uint64(offsets[pair])
                begin = np.uint64(starts[t])
                length = np.uint64(offsets[pair + 1]) - source
            stay = 0.0
            for i in range(length):
                j = successors[source + i]
                p = continuation[source + i]
                columns[begin + i] = position[np.uint32(j)]
                if j == s:
                    stay += p
                    p = 0.0
                coefficients[begin + i] = discount * p
            constants[t] = rewards[s, a]
            if stay > 0.0:
                if discount * stay >= 1.0:
                    # Nothing to solve for: the policy stays for ever. Leave the loop in, as the sweep would.
                    for i in range(begin, begin + length):
                        if columns[i] == t:
                            coefficients[i] = discount * stay
                            stay = 0.0
                scale = 1.0 / (1.0 - discount * stay)
                constants[t] *= scale
                for i in range(begin, begin + length):
                    coefficients[i] *= scale

    return extract


@functools.cache
def relax_for(fixed: int) -> Any:
    """`relax` for rows of `fixed` transitions, or, with 0, for rows of any length."""

    @bellman.kernel
    def relax(
        starts: Array,
        columns: Array,
        coefficients: Array,
        constants: Array,
        x: Array,
        repeats: int,
        start: int,
        stop: int,
    ) -> float:
        """`repeats` sweeps over a slice of x; returns the last sweep's largest |change|."""
        largest = 0.0
        for _ in range(repeats):
            largest = 0.0
            for t in range(np.uint64(start), np.uint64(stop)):
                if fixed > 0:
                    begin = t * np.uint64(fixed)
                    end = begin + np.uint64(fixed)
                else:
                    begin = np.uint64(starts[t])
                    end = np.uint64(starts[t + np.uint64(1)])
                total = constants[t]
                for i in range(begin, end):
                    total += coefficients[i] * x[np.uint32(columns[i])]
                change = abs(total - x[t])
                largest = change if change > largest else largest
                x[t] = total
        return largest

    return relax


@bellman.kernel
def multiply(
    starts: Array, columns: Array, coefficients: Array, x: Array, out: Array, start: int, stop: int
) -> None:
    """out = x − C x on a slice."""
    for t in range(start, stop):
        total = x[t]
        for i in range(np.uint64(starts[t]), np.uint64(starts[t + 1])):
            total -= coefficients[i] * x[np.uint32(columns[i])]
        out[t] = total


@bellman.kernel
def lower_solve(
    starts: Array, columns: Array, coefficients: Array, b: Array, out: Array, start: int, stop: int
) -> None:
    """out = (I − L)⁻¹ b on a slice, L the part of C that points backwards within the slice."""
    for t in range(start, stop):
        total = b[t]
        for i in range(np.uint64(starts[t]), np.uint64(starts[t + 1])):
            j = columns[i]
            if start <= j < t:
                total += coefficients[i] * out[np.uint32(j)]
        out[t] = total


@dataclass
class PolicySystem:
    """`order[t]` is the state at position t; the other arrays are the system in that numbering."""

    order: NDArray[np.int32]
    position: NDArray[np.int32]
    written: NDArray[np.int32]
    starts: NDArray[np.int32] | NDArray[np.int64]
    columns: NDArray[np.int32]
    coefficients: Float
    constants: Float
    spare: Float
    row_length: int
    threads: int

    def relax(self, x: Float, repeats: int = 1) -> float:
        """Gauss–Seidel sweeps, in place; returns the largest |change| in the last of them."""
        relax = relax_for(self.row_length)
        return max(
            in_halves(
                lambda half, start, stop: relax(
                    self.starts,
                    self.columns,
                    self.coefficients,
                    self.constants,
                    half,
                    repeats,
                    start,
                    stop,
                ),
                x,
                self.spare,
                self.threads,
            )
        )

    def multiply(self, x: Float) -> Float:
        """(I − C) x."""
        out = np.empty_like(x)
        self._over_slices(
            lambda start, stop: multiply(self.starts, self.columns, self.coefficients, x, out, start, stop)
        )
        return out

    def precondition(self, b: Float) -> Float:
        """(I − L)⁻¹ b: a Gauss–Seidel sweep from 0."""
        out = np.empty_like(b)
        self._over_slices(
            lambda start, stop: lower_solve(self.starts, self.columns, self.coefficients, b, out, start, stop)
        )
        return out

    def _over_slices(self, task: Callable[[int, int], Any]) -> list[Any]:
        return over_slices(task, len(self.order), self.threads)


def slices_for(size: int) -> int:
    """Into how many slices sweeps over so many states are cut, however many cores there are."""
    return 2 if size >= 20_000 else 1


def over_slices(task: Callable[[int, int], Any], size: int, threads: int) -> list[Any]:
    """`task(start, stop)` on each slice, on threads where there are enough; the same bits either way."""
    slices = slices_for(size)
    if threads >= slices:
        return bellman.run(task, size, slices)
    edges = [size * i // slices for i in range(slices + 1)]
    return [task(edges[i], edges[i + 1]) for i in range(slices)]


def in_halves(task: Callable[[Float, int, int], float], x: Float, spare: Float, threads: int) -> list[float]:
    """`task(half, start, stop)` writes `half[start:stop]` in place, x once it has returned.

    Small vectors are one slice. Of larger ones the second half is worked on in a copy, `spare` (float64 [S], written
    over): so each sees its own newest values and the other's from before, on one core or two, and no row has to ask
    on which side of the border a successor lies.
    """
    size = len(x)
    if slices_for(size) > 1:
        np.copyto(spare, x)
    results = over_slices(lambda start, stop: task(spare if start else x, start, stop), size, threads)
    if slices_for(size) > 1:
        x[size // 2 :] = spare[size // 2 :]
    return results


def policy_system(
    problem: Problem,
    policy: NDArray[np.int32],
    order: NDArray[np.int32],
    position: NDArray[np.int32],
    room: PolicySystem | None = None,
) -> PolicySystem:
    """The equations of `policy` (int32 [S], negative where nothing is done), in `order`; reuses the arrays
    of `room`.
    """
    if room is None or not problem.branching:
        room = _room(problem, policy, order, position)
    system = room
    extract = extract_for(problem.row_length)
    system._over_slices(
        lambda start, stop: extract(
            problem.successors,
            problem.continuation,
            problem.offsets,
            problem.rewards,
            problem.discount,
            policy,
            order,
            position,
            system.written,
            system.starts,
            system.columns,
            system.coefficients,
            system.constants,
            start,
            stop,
        )
    )
    return system


def _room(
    problem: Problem, policy: NDArray[np.int32], order: NDArray[np.int32], position: NDArray[np.int32]
) -> PolicySystem:
    """An unwritten system with room for the rows of `policy` (of any policy, where all rows have the same
    length).
    """
    size = problem.num_states
    if problem.branching:
        starts = _narrow(np.arange(size + 1) * problem.branching)
    else:
        pairs = np.arange(size) * problem.num_actions + np.maximum(policy, 0)
        lengths = np.where(policy >= 0, problem.offsets[pairs + 1] - problem.offsets[pairs], 0)[order]
        starts = _narrow(np.concatenate([[0], np.cumsum(lengths)]))
    return PolicySystem(
        order,
        position,
        np.full(size, -2, dtype=np.int32),
        starts,
        np.zeros(int(starts[-1]), dtype=np.int32),
        np.zeros(int(starts[-1])),
        np.empty(size),
        np.empty(size if slices_for(size) > 1 else 0),
        problem.row_length,
        problem.threads,
    )


def _narrow(starts: NDArray[np.int64]) -> NDArray[np.int32] | NDArray[np.int64]:
    return starts.astype(np.int32) if starts[-1] < 2**31 else starts


def backward_order(problem: Problem, sweeps: int = 12) -> NDArray[np.int32]:
    """States by their distance to where episodes end, or to the best-paid states where none does: int32 [S].

    Swept in this order, a state's successors on the way have just been visited, and values travel the length
    of the model in one sweep.
    """
    if problem.terminal.any():
        sources = problem.terminal
    else:
        best = np.max(problem.first_values)
        sources = problem.first_values >= best - 1e-9 * max(1.0, abs(float(best)))
    steps = np.where(sources, 0, np.iinfo(np.int32).max - 1).astype(np.int32)
    for sweep in range(sweeps):
        nearer = bellman.distances(
            problem.successors,
            problem.continuation,
            problem.offsets,
            problem.num_actions,
            steps,
            sweep % 2 == 0,
        )
        if nearer == 0:
            break
    return np.argsort(steps, kind="stable").astype(np.int32)


def inverse(order: NDArray[np.int32]) -> NDArray[np.int32]:
    """position such that position[order[t]] = t."""
    position = np.empty_like(order)
    position[order] = np.arange(len(order), dtype=np.int32)
    return position
