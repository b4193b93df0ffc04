"""Dyna: learning a model of the world, and planning with it between steps.

    take A, observe R, S′
    Q(S, A) ← Q(S, A) + α [R + γ max_a Q(S′, a) − Q(S, A)]
    Model(S, A) ← R, S′
    n times: S, A a pair that was tried before; R, S′ ← Model(S, A); the same update        Dyna-Q, section 8.2

    in planning R + κ √τ in the place of R, where (S, A) was last tried τ steps ago, and actions that were never tried
    count as leading back to where they start, for nothing                                Dyna-Q+, section 8.3

    p ← |R + γ max_a Q(S′, a) − Q(S, A)|;   if p > θ: put (S, A) into the queue with p      prioritised sweeping,
    n times, while the queue is not empty: take the first pair, update it from the model,   section 8.4
        and put into the queue every pair that the model says leads to its state, likewise

The model remembers what happened last. In a world without chance it is exact, and Q converges to Q*; in a world with
chance it replays samples one at a time, and with a constant α Q stays in a neighbourhood of the answer.

R. S. Sutton, "Integrated architectures for learning, planning, and reacting based on approximating dynamic
programming", 1990; A. W. Moore, C. G. Atkeson, "Prioritized sweeping", 1993; Sutton & Barto, 2nd ed., chapter 8.
"""

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import AbstractControl
from .exploration import choose, scan
from .generator import below
from .kernels import inlined, learner_kernel
from .loop import loop_around
from .problem import TableProblem
from .step_sizes import step_size


@learner_kernel
def act(settings, q, visits, available, generator, clock, s, *memory):
    return choose(settings, q, visits, available, generator, clock, s)


@inlined
def best_value(q, available, code):
    """max_a Q(S′, a), S′ as the model writes it: −1 − s′ where the episode ended, which is worth nothing."""
    if code < 0:
        return 0.0
    best, _, _ = scan(q, available, np.uint64(code))
    return best


@inlined
def update(settings, q, visits, available, s, a, reward, code):
    target = reward + settings.discount * best_value(q, available, code)
    q[s, a] += step_size(settings, max(visits[s, a], np.uint32(1))) * (target - q[s, a])


@learner_kernel
def dyna_q(
    settings,
    q,
    visits,
    available,
    generator,
    clock,
    s,
    a,
    reward,
    following,
    terminated,
    truncated,
    rewards,
    codes,
    known,
    last,
    pairs,
    count,
):
    width = np.uint64(q.shape[1])
    if not known[s, a]:
        # with a bonus the untried actions of a state are known from its first visit on, to lead nowhere
        for other in range(q.shape[1]):
            b = np.uint64(other)
            tried = b == a or (settings.bonus > 0.0 and (len(available) == 0 or available[s, b]))
            if tried and not known[s, b]:
                known[s, b] = True
                codes[s, b] = np.int64(s)
                pairs[count[0]] = np.int64(s * width + b)
                count[0] += 1
    rewards[s, a], codes[s, a], last[s, a] = reward, np.int64(following), clock
    if terminated:
        codes[s, a] = -1 - np.int64(following)
    visits[s, a] += np.uint32(1)
    update(settings, q, visits, available, s, a, reward, codes[s, a])
    for _ in range(settings.planning_steps):
        pair = np.uint64(pairs[below(generator, count[0])])
        state, action = pair // width, pair % width
        imagined = rewards[state, action]
        if settings.bonus > 0.0:
            imagined += settings.bonus * math.sqrt(clock - last[state, action])
        update(settings, q, visits, available, state, action, imagined, codes[state, action])
    return choose(settings, q, visits, available, generator, clock, following)


class DynaQ(AbstractControl):
    """Dyna-Q: Q-learning that replays a learnt model between steps."""

    name: ClassVar[str] = "dyna_q"
    begin: ClassVar[Any] = act
    learn: ClassVar[Any] = dyna_q
    loop: ClassVar[Any] = loop_around(act, dyna_q)

    planning_steps: int = 10

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        return _last_seen(problem)


class DynaQPlus(AbstractControl):
    """Dyna-Q+: Dyna-Q that pays itself for trying what it has not tried for long; for worlds that change."""

    name: ClassVar[str] = "dyna_q_plus"
    begin: ClassVar[Any] = act
    learn: ClassVar[Any] = dyna_q
    loop: ClassVar[Any] = DynaQ.loop

    planning_steps: int = 10
    bonus: float = 1e-3

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        return _last_seen(problem)


def _last_seen(problem: TableProblem) -> tuple[NDArray[Any], ...]:
    """Rewards, codes of successors, what is known, when it was last tried; the known pairs and their number."""
    pairs = (problem.num_states, problem.num_actions)
    return (
        np.zeros(pairs),
        np.zeros(pairs, np.int64),
        np.zeros(pairs, np.bool_),
        np.zeros(pairs, np.int64),
        np.zeros(problem.num_states * problem.num_actions, np.int64),
        np.zeros(1, np.int64),
    )


# -- a queue of pairs by priority: a binary heap, with every pair's place in it


@inlined
def raise_up(heap, place, priority, i):
    """Move the pair at `i` up to where its priority belongs."""
    pair = heap[i]
    while i > 0 and priority[heap[(i - 1) // 2]] < priority[pair]:
        heap[i] = heap[(i - 1) // 2]
        place[heap[i]] = i
        i = (i - 1) // 2
    heap[i] = pair
    place[pair] = i


@inlined
def put(heap, place, priority, size, pair, value):
    """Put a pair into the queue, or raise its priority there; never lower it."""
    if place[pair] < 0:
        heap[size[0]] = pair
        place[pair] = size[0]
        priority[pair] = value
        size[0] += 1
        raise_up(heap, place, priority, place[pair])
    elif value > priority[pair]:
        priority[pair] = value
        raise_up(heap, place, priority, place[pair])


@inlined
def take(heap, place, priority, size):
    """The pair of the highest priority, removed."""
    first = heap[0]
    place[first] = -1
    size[0] -= 1
    if size[0] > 0:
        pair = heap[size[0]]
        i = 0
        while 2 * i + 1 < size[0]:
            child = 2 * i + 1
            if child + 1 < size[0] and priority[heap[child + 1]] > priority[heap[child]]:
                child += 1
            if priority[heap[child]] <= priority[pair]:
                break
            heap[i] = heap[child]
            place[heap[i]] = i
            i = child
        heap[i] = pair
        place[pair] = i
    return first


@learner_kernel
def prioritised_sweeping(
    settings,
    q,
    visits,
    available,
    generator,
    clock,
    s,
    a,
    reward,
    following,
    terminated,
    truncated,
    rewards,
    codes,
    known,
    first,
    after,
    before,
    heap,
    place,
    priority,
    size,
):
    width = np.uint64(q.shape[1])
    pair, code = np.int64(s * width + a), np.int64(following)
    if terminated:
        code = -1 - code
    if known[s, a] and codes[s, a] != code and codes[s, a] >= 0:
        # the pair leaves the list of those that lead to its former successor
        if before[pair] >= 0:
            after[before[pair]] = after[pair]
        else:
            first[codes[s, a]] = after[pair]
        if after[pair] >= 0:
            before[after[pair]] = before[pair]
    if code >= 0 and (not known[s, a] or codes[s, a] != code):
        before[pair], after[pair] = -1, first[code]
        if first[code] >= 0:
            before[first[code]] = pair
        first[code] = pair
    known[s, a], codes[s, a], rewards[s, a] = True, code, reward
    visits[s, a] += np.uint32(1)
    surprise = abs(reward + settings.discount * best_value(q, available, code) - q[s, a])
    if surprise > settings.priority_threshold:
        put(heap, place, priority, size, pair, surprise)
    for _ in range(settings.planning_steps):
        if size[0] == 0:
            break
        taken = np.uint64(take(heap, place, priority, size))
        state, action = taken // width, taken % width
        update(settings, q, visits, available, state, action, rewards[state, action], codes[state, action])
        best = settings.discount * best_value(q, available, np.int64(state))
        leading = first[state]
        while leading >= 0:
            there = np.uint64(leading)
            surprise = abs(rewards[there // width, there % width] + best - q[there // width, there % width])
            if surprise > settings.priority_threshold:
                put(heap, place, priority, size, leading, surprise)
            leading = after[leading]
    return choose(settings, q, visits, available, generator, clock, following)


class PrioritisedSweeping(AbstractControl):
    """Prioritised sweeping: plans backwards from where the model's surprise is greatest."""

    name: ClassVar[str] = "prioritised_sweeping"
    begin: ClassVar[Any] = act
    learn: ClassVar[Any] = prioritised_sweeping
    loop: ClassVar[Any] = loop_around(act, prioritised_sweeping)

    step_size: float = 1.0
    planning_steps: int = 10
    priority_threshold: float = 1e-4

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        pairs, size = (problem.num_states, problem.num_actions), problem.num_states * problem.num_actions
        nothing = np.full(size, -1, np.int64)
        return (
            np.zeros(pairs),
            np.zeros(pairs, np.int64),
            np.zeros(pairs, np.bool_),
            np.full(problem.num_states, -1, np.int64),
            nothing,
            nothing.copy(),
            np.zeros(size, np.int64),
            nothing.copy(),
            np.zeros(size),
            np.zeros(1, np.int64),
        )
