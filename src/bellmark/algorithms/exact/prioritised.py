"""Prioritised sweeping with a known model (Moore & Atkeson 1993): back up the state whose value is most
wrong.

    H(s) = |(T v)(s) − v(s)|,   take the largest,   v(s) ← (T v)(s),   raise H of the states that lead to s

A heap holds the priorities; a table of predecessors (4 bytes per transition) says whom a change concerns. It
wins where rewards are few and change comes in a narrow front. One iteration counts S single-state backups,
the work of a sweep.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bellmark.mdp import bellman

from .problem import Problem, Progress
from .value_iteration import at_rounding_floor

Array = NDArray[Any]


@bellman.kernel
def predecessors(
    successors: Array, continuation: Array, offsets: Array, num_actions: int
) -> tuple[Array, Array]:
    """Who leads to each state: starts int64 [S + 1] and states int32, one entry per transition of positive
    probability.
    """
    num_states = (len(offsets) - 1) // num_actions
    starts = np.zeros(num_states + 1, dtype=np.int64)
    for i in range(len(successors)):
        if continuation[i] > 0.0:
            starts[successors[i] + 1] += 1
    for s in range(num_states):
        starts[s + 1] += starts[s]
    states = np.empty(starts[num_states], dtype=np.int32)
    fill = starts[:-1].copy()
    for s in range(num_states):
        for i in range(offsets[s * num_actions], offsets[(s + 1) * num_actions]):
            if continuation[i] > 0.0:
                j = successors[i]
                states[fill[j]] = s
                fill[j] += 1
    return starts, states


@bellman.kernel
def sift(heap: Array, place: Array, priority: Array, size: int, k: int) -> None:
    """Move the heap's entry k to where its priority belongs."""
    s = heap[k]
    while k > 0 and priority[heap[(k - 1) // 2]] < priority[s]:
        heap[k] = heap[(k - 1) // 2]
        place[heap[k]] = k
        k = (k - 1) // 2
    while True:
        child = 2 * k + 1
        if child >= size:
            break
        if child + 1 < size and priority[heap[child + 1]] > priority[heap[child]]:
            child += 1
        if priority[heap[child]] <= priority[s]:
            break
        heap[k] = heap[child]
        place[heap[k]] = k
        k = child
    heap[k] = s
    place[s] = k


@bellman.kernel
def best_action_value(
    successors: Array,
    continuation: Array,
    offsets: Array,
    rewards: Array,
    actions: Array,
    counts: Array,
    discount: float,
    values: Array,
    s: int,
) -> float:
    best = -np.inf
    for k in range(counts[s]):
        pair = s * rewards.shape[1] + actions[s, k]
        total = 0.0
        for i in range(offsets[pair], offsets[pair + 1]):
            total += continuation[i] * values[successors[i]]
        best = max(best, rewards[s, actions[s, k]] + discount * total)
    return best


@bellman.kernel
def prioritised_backups(
    successors: Array,
    continuation: Array,
    offsets: Array,
    rewards: Array,
    actions: Array,
    counts: Array,
    discount: float,
    values: Array,
    starts: Array,
    states: Array,
    heap: Array,
    place: Array,
    priority: Array,
    target: float,
    backups: int,
) -> float:
    """At most `backups` single-state backups, largest priority first; returns the priority reached."""
    size = len(heap)
    for _ in range(backups):
        s = heap[0]
        if priority[s] <= target:
            break
        # Exact, but for states that are their own successors, whose priority is renewed just below.
        values[s] = best_action_value(
            successors, continuation, offsets, rewards, actions, counts, discount, values, s
        )
        priority[s] = 0.0
        sift(heap, place, priority, size, 0)
        for i in range(starts[s], starts[s + 1]):
            j = states[i]
            if counts[j] == 0:
                continue
            error = abs(
                best_action_value(
                    successors, continuation, offsets, rewards, actions, counts, discount, values, j
                )
                - values[j]
            )
            if error != priority[j]:
                priority[j] = error
                sift(heap, place, priority, size, place[j])
    return priority[heap[0]]


def prioritised(problem: Problem, progress: Progress, tolerance: float, limit: int) -> None:
    """Back up by priority until proved."""
    values = progress.values
    raw = (problem.successors, problem.continuation, problem.offsets)
    starts, states = predecessors(*raw, problem.num_actions)
    out, policy = np.empty_like(values), np.full(problem.num_states, -1, dtype=np.int32)
    while len(progress.residuals) < limit:
        sweep, _ = problem.sweep(values, out, policy)
        progress.note(sweep.residual, out, problem, sweep, policy)
        progress.certificate = problem.finish(out, policy, sweep, tolerance)
        if progress.certificate is not None or at_rounding_floor(problem, sweep, progress, tolerance):
            return
        # The sweep knows every priority: the heap starts from the truth each time.
        if shift := problem.extrapolation(sweep):
            values = np.where(problem.terminal, 0.0, out + shift)
            problem.sweep(values, out, policy)
        priority = np.abs(out - values)
        heap = np.argsort(-priority).astype(np.int32)
        place = np.empty_like(heap)
        place[heap] = np.arange(len(heap), dtype=np.int32)
        target = 0.1 * float(priority.max())
        while len(progress.residuals) < limit:
            left = prioritised_backups(
                *raw,
                problem.rewards,
                problem.actions,
                problem.counts,
                problem.discount,
                values,
                starts,
                states,
                heap,
                place,
                priority,
                target,
                problem.num_states,
            )
            progress.note(float(left), values, problem)
            if left <= target:
                break
