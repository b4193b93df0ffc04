"""Bellman backups over a finite model's raw arrays: the inner loops of every exact method.

    (T v)(s) = max_a [ r(s, a) + γ Σ_s' p(s' | s, a) v(s') ]

Each kernel works on the states `start <= s < stop`, releases the interpreter's lock and touches nothing
outside its slice, so that `run` can give slices to threads. Threads rather than Numba's own parallel loops:
they compile three times faster, survive being called from several Python threads, and give the same bits for
every number of cores.

Kernels are compiled at their first call and kept on disk. Arrays are a `FiniteMDP`'s (see
`bellmark.mdp.model`), plus

- `continuation`: float64 [nnz], probabilities with flagged terminations set to 0;
- `branching`: K where every pair has K transitions, else 0 (then `offsets` is read, 8 bytes more per pair);
- `actions`, `counts`: int8 (int32 above 127 actions) [S, W] and [S]; the actions still considered in state s
  are `actions[s, :counts[s]]`. A state without any is terminal and keeps the value 0.
"""

import functools
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

PARALLEL_THRESHOLD = 200_000
"""Transitions below which handing slices to threads costs more than it saves."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile lazily, without the interpreter's lock, and keep the machine code for the next process.

    Numba keeps it beside the source or, where that folder is read-only, in the user's cache; where neither
    can be written we name a folder of our own, and as the last resort compile anew in each process.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:
        pass
    vars(numba.config)["CACHE_DIR"] = os.path.join(tempfile.gettempdir(), f"bellmark-numba-{os.getuid()}")
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:
        return numba.njit(function, **options)


# ---------------------------------------------------------------------------------------------------- threads

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def available_threads() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def run(task: Callable[[int, int], Any], size: int, threads: int) -> list[Any]:
    """Call `task(start, stop)` on slices of `range(size)`, one after another or on threads; results in order.

    An interrupt (Ctrl-C) is raised only when no slice is being written any more.
    """
    if threads <= 1 or size < threads:
        return [task(0, size)]
    # A forked child inherits the dictionary but not the threads, hence the process id in the key.
    key = (os.getpid(), threads)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads - 1, thread_name_prefix="bellmark")
    edges = [size * i // threads for i in range(threads + 1)]
    futures = [_pools[key].submit(task, edges[i], edges[i + 1]) for i in range(1, threads)]
    try:
        first = task(edges[0], edges[1])
        return [first] + [future.result() for future in futures]
    finally:
        wait(futures)


# ---------------------------------------------------------------------------------------------------- kernels


ONE, TWO = np.uint64(1), np.uint64(2)


# The loops over transitions count with unsigned indices, because signed ones are tested for being negative, and the
# Jacobi sweep keeps two sums, because with one every addition waits for the last. Together these halve a sweep's
# time. (A shared function for the inner sum would be prettier, and three times slower: it is not inlined.)


@kernel
def open_actions(
    available: Array,
    rewards: Array,
    actions: Array,
    counts: Array,
    values: Array,
    policy: Array,
    start: int,
    stop: int,
) -> tuple[float, float, float]:
    """List every state's actions, and do the backup of v = 0, which needs no transition: max_a r(s, a).

    Returns the smallest and the largest new value over non-terminal states, and the largest |r|.
    """
    low, high, size = np.inf, -np.inf, 0.0
    for s in range(start, stop):
        n = 0
        best = -np.inf
        choice = -1
        for a in range(available.shape[1]):
            if available[s, a]:
                actions[s, n] = a
                n += 1
                size = max(size, abs(rewards[s, a]))
                if rewards[s, a] > best:
                    best = rewards[s, a]
                    choice = a
        counts[s] = n
        policy[s] = choice
        if n == 0:
            values[s] = 0.0
        else:
            values[s] = best
            low = min(low, best)
            high = max(high, best)
    return low, high, size


@kernel
def row_mass(
    successors: Array,
    continuation: Array,
    offsets: Array,
    available: Array,
    terminal: Array,
    any_terminal: bool,
    start: int,
    stop: int,
) -> tuple[float, float, int]:
    """The smallest and largest probability, over available pairs, of going on to a non-terminal state; the
    longest row.
    """
    low, high, longest = np.inf, -np.inf, 0
    num_actions = available.shape[1]
    for s in range(start, stop):
        for a in range(num_actions):
            if not available[s, a]:
                continue
            pair = s * num_actions + a
            mass = 0.0
            if any_terminal:
                for i in range(offsets[pair], offsets[pair + 1]):
                    if not terminal[np.uint32(successors[i])]:
                        mass += continuation[i]
            else:
                for i in range(offsets[pair], offsets[pair + 1]):
                    mass += continuation[i]
            low = min(low, mass)
            high = max(high, mass)
            longest = max(longest, offsets[pair + 1] - offsets[pair])
    return low, high, longest


def masses(
    successors: Array, continuation: Array, offsets: Array, available: Array, terminal: Array, threads: int
) -> tuple[float, float, int]:
    """`row_mass` of a whole model."""
    any_terminal = bool(terminal.any())
    parts = run(
        lambda start, stop: row_mass(
            successors, continuation, offsets, available, terminal, any_terminal, start, stop
        ),
        len(available),
        threads,
    )
    return min(p[0] for p in parts), max(p[1] for p in parts), max(p[2] for p in parts)


def _backup(fixed: int) -> Any:
    """`backup` for rows of `fixed` transitions, or, with 0, for rows of any length."""

    @kernel
    def backup(
        successors: Array,
        continuation: Array,
        offsets: Array,
        branching: int,
        rewards: Array,
        actions: Array,
        counts: Array,
        discount: float,
        values: Array,
        out: Array,
        policy: Array,
        margin: float,
        start: int,
        stop: int,
    ) -> tuple[float, float, float, int]:
        """One Jacobi sweep: out = T values, and the greedy policy.

        `policy` comes in as the actions taken before (negative: none): among equals, but for rounding, those
        stay, else the first is taken. A policy that does not flicker saves work to whoever follows it.

        With a finite `margin`, actions worse than the best by more than that leave the lists.
        Returns the smallest and largest out − values over non-terminal states, the largest |out|, and how many
        actions left.
        """
        num_actions = rewards.shape[1]
        length = fixed if fixed > 0 else branching
        low, high, size, gone = np.inf, -np.inf, 0.0, 0
        q = np.empty(actions.shape[1])
        for s in range(start, stop):
            n = counts[s]
            if n == 0:
                out[s] = 0.0
                policy[s] = -1
                continue
            best = -np.inf
            choice = -1
            before = policy[s]
            worth = -np.inf
            for k in range(n):
                a = actions[s, k]
                pair = s * num_actions + a
                if length > 0:
                    begin = pair * length
                    end = begin + length
                else:
                    begin = offsets[pair]
                    end = offsets[pair + 1]
                i = np.uint64(begin)
                last = np.uint64(end)
                even = i + ((last - i) // TWO) * TWO
                total = 0.0
                second = 0.0
                for k_even in range(i, even, TWO):
                    k_odd = k_even + ONE
                    total += continuation[k_even] * values[np.uint32(successors[k_even])]
                    second += continuation[k_odd] * values[np.uint32(successors[k_odd])]
                if even < last:
                    total += continuation[even] * values[np.uint32(successors[even])]
                total = rewards[s, a] + discount * (total + second)
                q[k] = total
                if a == before:
                    worth = total
                if total > best:
                    best = total
                    choice = a
            if worth >= best - 1e-14 * abs(best):
                choice = before
            if n > 1 and margin < np.inf:
                kept = 0
                for k in range(n):
                    if q[k] >= best - margin:
                        actions[s, kept] = actions[s, k]
                        kept += 1
                counts[s] = kept
                gone += n - kept
            out[s] = best
            policy[s] = choice
            change = best - values[s]
            low = min(low, change)
            high = max(high, change)
            size = max(size, abs(best))
        return low, high, size, gone

    return backup


FIXED_POINT = float(2**31)
"""γ p as a whole number of parts of 1: half the room of float64, and 250 times as exact as single precision."""


@kernel
def pack(
    successors: Array,
    continuation: Array,
    branching: int,
    rewards: Array,
    actions: Array,
    counts: Array,
    discount: float,
    values: Array,
    shift: float,
    first: Array,
    packed_successors: Array,
    coefficients: Array,
    gains: Array,
    owners: Array,
    start: int,
    stop: int,
) -> None:
    """Copy the rows of the actions still considered to where they lie side by side: successors, γ p in fixed point, and
    the gains r + γ Σ p values − values − shift.

    Row s is the first action of state s (nothing, where it has none); any others follow behind the last state's first
    row, those of state s from first[s] on, and `owners` says whose they are.
    """
    num_states, num_actions = rewards.shape
    for s in range(start, stop):
        if counts[s] == 0:
            gains[s] = 0.0
            for i in range(np.uint64(s * branching), np.uint64((s + 1) * branching)):
                packed_successors[i] = 0
                coefficients[i] = 0
        for k in range(counts[s]):
            a = actions[s, k]
            row = s
            if k > 0:
                other = first[s] + k - 1
                owners[other] = s
                row = num_states + other
            source = np.uint64((s * num_actions + a) * branching)
            target = np.uint64(row * branching)
            total = 0.0
            for i in range(np.uint64(branching)):
                j = successors[source + i]
                p = continuation[source + i]
                total += p * values[np.uint32(j)]
                packed_successors[target + i] = j
                coefficients[target + i] = np.uint32(discount * p * FIXED_POINT + 0.5)
            gains[row] = (rewards[s, a] + discount * total) - values[s] - shift


def _backup_differences(fixed: int) -> Any:
    """`backup_differences` for rows of `fixed` transitions, or, with 0, for rows of any length."""

    @kernel
    def backup_differences(
        successors: Array,
        coefficients: Array,
        branching: int,
        gains: Array,
        first: Array,
        owners: Array,
        values: Array,
        out: Array,
        start: int,
        stop: int,
    ) -> tuple[float, float]:
        """out(s) = max [gain + Σ coefficients values] over the rows of s; returns the extremes of out − values.

        First rows first, one after another without a question asked: a processor foresees that.
        """
        length = np.uint64(fixed if fixed > 0 else branching)
        unit = 1.0 / FIXED_POINT
        num_states = len(values)
        low, high = np.inf, -np.inf
        for s in range(start, stop):
            i = np.uint64(s) * length
            last = i + length
            even = i + (length // TWO) * TWO
            total = 0.0
            second = 0.0
            for k_even in range(i, even, TWO):
                k_odd = k_even + ONE
                total += coefficients[k_even] * values[np.uint32(successors[k_even])]
                second += coefficients[k_odd] * values[np.uint32(successors[k_odd])]
            if even < last:
                total += coefficients[even] * values[np.uint32(successors[even])]
            out[s] = gains[s] + (total + second) * unit
        for other in range(first[start], first[stop]):
            row = num_states + other
            i = np.uint64(row) * length
            last = i + length
            even = i + (length // TWO) * TWO
            total = 0.0
            second = 0.0
            for k_even in range(i, even, TWO):
                k_odd = k_even + ONE
                total += coefficients[k_even] * values[np.uint32(successors[k_even])]
                second += coefficients[k_odd] * values[np.uint32(successors[k_odd])]
            if even < last:
                total += coefficients[even] * values[np.uint32(successors[even])]
            s = owners[other]
            out[s] = max(out[s], gains[row] + (total + second) * unit)
        for s in range(start, stop):
            change = out[s] - values[s]
            low = change if change < low else low
            high = change if change > high else high
        return low, high

    return backup_differences


backup, backup_differences = _backup(0), _backup_differences(0)

OWN_LENGTH_THRESHOLD = 1_000_000
"""Transitions from which a kernel compiled for just this length of rows is worth a second of compiling, once."""


def own_length(branching: int, transitions: int) -> int:
    """The length of rows to compile kernels for, 0 for any: loops of a length that is compiled in are unrolled."""
    return branching if 0 < branching <= 64 and transitions >= OWN_LENGTH_THRESHOLD else 0


@functools.cache
def backups_for(length: int) -> tuple[Any, Any]:
    """(`backup`, `backup_differences`) for rows of `length` transitions (`own_length`)."""
    return (_backup(length), _backup_differences(length)) if length else (backup, backup_differences)


@kernel
def backup_in_place(
    successors: Array,
    continuation: Array,
    offsets: Array,
    rewards: Array,
    actions: Array,
    counts: Array,
    discount: float,
    values: Array,
    policy: Array,
    order: Array,
    backward: bool,
) -> float:
    """One Gauss–Seidel sweep with self-loops eliminated; returns the largest |change|.

        v(s) ← max_a [ r(s, a) + γ Σ_{s' ≠ s} p(s' | s, a) v(s') ] / (1 − γ p(s | s, a))

    States are visited in `order` (in their own order where that is empty), or from its end where `backward`.
    """
    num_states, num_actions = rewards.shape
    largest = 0.0
    ordered = len(order) > 0
    for t in range(num_states):
        position = num_states - 1 - t if backward else t
        s = order[position] if ordered else position
        if counts[s] == 0:
            continue
        best = -np.inf
        choice = policy[s]
        for k in range(counts[s]):
            a = actions[s, k]
            pair = s * num_actions + a
            total = 0.0
            stay = 0.0
            for i in range(np.uint64(offsets[pair]), np.uint64(offsets[pair + 1])):
                if successors[i] == s:
                    stay += continuation[i]
                else:
                    total += continuation[i] * values[np.uint32(successors[i])]
            total = (rewards[s, a] + discount * total) / (1.0 - discount * stay)
            if total > best:
                best = total
                choice = a
        largest = max(largest, abs(best - values[s]))
        values[s] = best
        policy[s] = choice
    return largest


def _improve_in_place(fixed: int) -> Any:
    """`improve_in_place` for rows of `fixed` transitions, or, with 0, for rows of any length."""

    @kernel
    def improve_in_place(
        successors: Array,
        continuation: Array,
        offsets: Array,
        rewards: Array,
        actions: Array,
        counts: Array,
        discount: float,
        values: Array,
        policy: Array,
        slack: float,
        backward: bool,
        start: int,
        stop: int,
    ) -> float:
        """`backup_in_place` on a slice, in the states' own order; returns the largest |change|.

        The action taken before stays where no other is better by more than `slack`, and but for rounding, as in
        `backup`.
        """
        num_actions = rewards.shape[1]
        largest = 0.0
        for t in range(start, stop):
            s = start + stop - 1 - t if backward else t
            if counts[s] == 0:
                continue
            best = -np.inf
            choice = -1
            kept = policy[s]
            worth = -np.inf
            for k in range(counts[s]):
                a = actions[s, k]
                pair = s * num_actions + a
                if fixed > 0:
                    begin = pair * fixed
                    end = begin + fixed
                else:
                    begin = offsets[pair]
                    end = offsets[pair + 1]
                total = 0.0
                stay = 0.0
                for i in range(np.uint64(begin), np.uint64(end)):
                    j = successors[i]
                    if j == s:
                        stay += continuation[i]
                    else:
                        total += continuation[i] * values[np.uint32(j)]
                total = rewards[s, a] + discount * total
                if stay > 0.0:
                    total /= 1.0 - discount * stay
                if a == kept:
                    worth = total
                if total > best:
                    best = total
                    choice = a
            if worth >= best - slack - 1e-14 * abs(best):
                choice = kept
            change = abs(best - values[s])
            largest = change if change > largest else largest
            values[s] = best
            policy[s] = choice
        return largest

    return improve_in_place


@functools.cache
def improve_in_place_for(length: int) -> Any:
    """`improve_in_place` for rows of `length` transitions (`own_length`)."""
    return _improve_in_place(length)


@kernel
def action_values(
    successors: Array,
    continuation: Array,
    offsets: Array,
    rewards: Array,
    available: Array,
    discount: float,
    values: Array,
    out: Array,
    start: int,
    stop: int,
) -> None:
    """out(s, a) = r(s, a) + γ Σ_s' p(s' | s, a) values(s'); −∞ where the action is not available."""
    num_actions = rewards.shape[1]
    for s in range(start, stop):
        for a in range(num_actions):
            if not available[s, a]:
                out[s, a] = -np.inf
                continue
            pair = s * num_actions + a
            total = 0.0
            for i in range(np.uint64(offsets[pair]), np.uint64(offsets[pair + 1])):
                total += continuation[i] * values[np.uint32(successors[i])]
            out[s, a] = rewards[s, a] + discount * total


@kernel
def distances(
    successors: Array, continuation: Array, offsets: Array, num_actions: int, steps: Array, backward: bool
) -> int:
    """One sweep of steps(s) ← min(steps(s), 1 + min over successors); returns how many states came nearer.

    Sweeping from both ends in turn finds breadth-first distances without a table of predecessors.
    """
    num_states = len(steps)
    nearer = 0
    for t in range(num_states):
        s = num_states - 1 - t if backward else t
        best = steps[s]
        if best == 0:
            continue
        for i in range(offsets[s * num_actions], offsets[(s + 1) * num_actions]):
            j = np.uint32(successors[i])
            if continuation[i] > 0.0 and steps[j] + 1 < best:
                best = steps[j] + 1
        if best < steps[s]:
            steps[s] = best
            nearer += 1
    return nearer
