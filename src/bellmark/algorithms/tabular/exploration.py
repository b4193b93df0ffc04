"""How a learner tries what it does not believe in: ε-greedy, softmax, upper confidence bounds.

    epsilon_greedy   with probability ε any action, otherwise the best                  Sutton & Barto, section 2.2
    softmax          π(a|s) ∝ exp(Q(s,a)/τ)                                             section 2.8
    ucb              argmax_a Q(s,a) + c √(ln N(s) / N(s,a)), untried actions first     section 2.7

Ties between best actions are broken at random; the same policies, as probabilities, are what the exact gap of the
behaviour is computed from. Optimistic initial values (section 2.6) are `initial_value`.

    constant      ε_t = ε
    linear        ε_t = ε + (ε′ − ε) · min(t/T, 1)
    exponential   ε_t = ε · (ε′/ε)^min(t/T, 1)

with ε′ = `epsilon_final` reached after T = `epsilon_share` of the run's steps. (Sutton & Barto, 2nd ed., 2018.)
"""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bellmark.algorithms.checks import fraction, positive
from bellmark.errors import BadInput

from .generator import uniform
from .kernels import called, inlined, kernel

Exploration = Literal["epsilon_greedy", "softmax", "ucb"]
EpsilonSchedule = Literal["constant", "linear", "exponential"]
CODES = {"epsilon_greedy": 0, "softmax": 1, "ucb": 2}
SCHEDULE_CODES = {"constant": 0, "linear": 1, "exponential": 2}

_ZERO, _ONE, _TWO, _THREE = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3)


def check(learner: Any) -> None:
    """Refuse ε, τ or c that mean nothing."""
    fraction("epsilon", learner.epsilon)
    fraction("epsilon_final", learner.epsilon_final)
    fraction("epsilon_share", learner.epsilon_share)
    if learner.epsilon_schedule == "exponential" and min(learner.epsilon, learner.epsilon_final) <= 0.0:
        raise BadInput(
            f"epsilon is {learner.epsilon} and epsilon_final {learner.epsilon_final}; an exponential decay goes from "
            "one number above 0 to another, and epsilon_schedule=linear can end at 0"
        )
    if learner.epsilon_schedule != "constant" and learner.epsilon_share == 0.0:
        raise BadInput("epsilon_share is 0; allowed: more than 0, at most 1, of the run's steps")
    positive(temperature=learner.temperature)
    if not (math.isfinite(learner.confidence) and learner.confidence >= 0):
        raise BadInput(f"confidence is {learner.confidence}; allowed: 0 or more, finite")


@inlined
def epsilon_at(settings: Any, clock: int) -> float:
    """ε_t at step t = `clock`."""
    if settings.epsilon_schedule == 0:
        return settings.epsilon
    share = min(clock / settings.decay_steps, 1.0)
    if settings.epsilon_schedule == 1:
        return settings.epsilon + (settings.epsilon_final - settings.epsilon) * share
    return settings.epsilon * (settings.epsilon_final / settings.epsilon) ** share


@called
def scan_any(values: Any, available: Any, s: int) -> Any:
    """`scan` for any number of actions, of which some may be missing."""
    best, choice, ties = -np.inf, _ZERO, np.int64(0)
    for a in range(values.shape[1]):
        if len(available) == 0 or available[s, np.uint64(a)]:
            value = values[s, np.uint64(a)]
            better = value > best
            ties = np.int64(1) if better else ties + np.int64(value == best)
            choice = np.uint64(a) if value >= best else choice
            best = value if better else best
    return best, choice, ties


@inlined
def scan_2(values: Any, s: int) -> Any:
    """`scan` for two actions, both available."""
    v0, v1 = values[s, _ZERO], values[s, _ONE]
    return max(v0, v1), np.uint64(v1 >= v0), np.int64(1) + np.int64(v0 == v1)


@inlined
def scan_4(values: Any, s: int) -> Any:
    """`scan` for four actions, all available: as a tree, in which no comparison waits for more than one other."""
    v0, v1, v2, v3 = values[s, _ZERO], values[s, _ONE], values[s, _TWO], values[s, _THREE]
    best = max(max(v0, v1), max(v2, v3))
    first, second = np.int64(v0 == best), np.int64(v1 == best)
    third, fourth = np.int64(v2 == best), np.int64(v3 == best)
    return best, np.uint64(second + 2 * third + 3 * fourth), first + second + (third + fourth)


@inlined
def scan(values: Any, available: Any, s: int) -> Any:
    """max_a values(s, a), the last action that reaches it, and how many do. `available` [0, 0] means all."""
    best, choice, ties = -np.inf, _ZERO, np.int64(0)
    if len(available) == 0 and values.shape[1] == 2:
        best, choice, ties = scan_2(values, s)
    elif len(available) == 0 and values.shape[1] == 4:
        best, choice, ties = scan_4(values, s)
    else:
        best, choice, ties = scan_any(values, available, s)
    return best, choice, ties


@inlined
def highest_2(values: Any, s: int) -> float:
    return max(values[s, _ZERO], values[s, _ONE])


@inlined
def highest_4(values: Any, s: int) -> float:
    return max(max(values[s, _ZERO], values[s, _ONE]), max(values[s, _TWO], values[s, _THREE]))


@inlined
def highest(values: Any, available: Any, s: int) -> Any:
    """max_a values(s, a)."""
    if len(available) == 0 and values.shape[1] == 2:
        return highest_2(values, s)
    if len(available) == 0 and values.shape[1] == 4:
        return highest_4(values, s)
    best, _, _ = scan_any(values, available, s)
    return best


@called
def among(values: Any, available: Any, s: int, best: float, ties: int, generator: Any) -> Any:
    """One of the `ties` actions whose value is `best`, at random."""
    left = np.int64(uniform(generator) * ties)
    for a in range(values.shape[1]):
        action = np.uint64(a)
        if values[s, action] == best and (len(available) == 0 or available[s, action]):
            if left == 0:
                return action
            left -= 1
    return _ZERO


@inlined
def greedy(values: Any, available: Any, generator: Any, s: int) -> Any:
    """argmax_a values(s, a), ties at random."""
    best, choice, ties = scan(values, available, s)
    return choice if ties <= 1 else among(values, available, s, best, ties, generator)


@called
def any_action(available: Any, width: int, s: int, generator: Any) -> Any:
    """Any available action, each equally likely."""
    if len(available) == 0:
        return np.uint64(np.int64(uniform(generator) * width))
    count = np.int64(0)
    for a in range(width):
        count += np.int64(available[s, np.uint64(a)])
    left = np.int64(uniform(generator) * count)
    for a in range(width):
        if available[s, np.uint64(a)]:
            if left == 0:
                return np.uint64(a)
            left -= 1
    return _ZERO


@called
def probability(settings: Any, values: Any, visits: Any, available: Any, clock: int, s: int, a: int) -> float:
    """π_t(a | s) of the behaviour, exactly as `choose` draws it."""
    width = values.shape[1]
    if settings.exploration == 1:
        best, _, _ = scan(values, available, s)
        total = 0.0
        for b in range(width):
            if len(available) == 0 or available[s, np.uint64(b)]:
                total += math.exp((values[s, np.uint64(b)] - best) / settings.temperature)
        return math.exp((values[s, a] - best) / settings.temperature) / total
    count, ties, best, mine = 0, 0, -np.inf, -np.inf
    seen = seen_in(visits, s)
    for b in range(width):
        action = np.uint64(b)
        if len(available) == 0 or available[s, action]:
            count += 1
            score = values[s, action]
            if settings.exploration == 2:
                score = bound(settings, score, visits[s, action], seen)
            if score > best:
                best, ties = score, 1
            elif score == best:
                ties += 1
            if action == a:
                mine = score
    share = 1.0 / ties if mine == best else 0.0
    if settings.exploration == 2:
        return share
    epsilon = epsilon_at(settings, clock)
    return (1.0 - epsilon) * share + epsilon / count


@inlined
def expected(settings: Any, values: Any, visits: Any, available: Any, clock: int, s: int) -> float:
    """Σ_a π_t(a | s) values(s, a)."""
    total = 0.0
    if settings.exploration == 0:
        best, _, _ = scan(values, available, s)
        count = 0
        for a in range(values.shape[1]):
            if len(available) == 0 or available[s, np.uint64(a)]:
                total += values[s, np.uint64(a)]
                count += 1
        epsilon = epsilon_at(settings, clock)
        return (1.0 - epsilon) * best + epsilon * total / count
    for a in range(values.shape[1]):
        action = np.uint64(a)
        if len(available) == 0 or available[s, action]:
            total += probability(settings, values, visits, available, clock, s, action) * values[s, action]
    return total


@inlined
def seen_in(visits: Any, s: int) -> Any:
    """N(s) = Σ_a N(s, a)."""
    seen = np.int64(0)
    for a in range(visits.shape[1]):
        seen += np.int64(visits[s, np.uint64(a)])
    return seen


@inlined
def bound(settings: Any, value: float, tried: int, seen: int) -> float:
    """Q + c √(ln N(s) / N(s,a)); infinite for an action that was never tried."""
    if tried == 0:
        return np.inf
    return value + settings.confidence * math.sqrt(math.log(seen) / tried)


@called
def drawn(settings: Any, values: Any, visits: Any, available: Any, generator: Any, clock: int, s: int) -> Any:
    """An action with its probability: softmax, and the ties of upper confidence bounds."""
    left = uniform(generator)
    last = _ZERO
    for a in range(values.shape[1]):
        action = np.uint64(a)
        if len(available) == 0 or available[s, action]:
            share = probability(settings, values, visits, available, clock, s, action)
            if share > 0.0:
                last = action
                left -= share
                if left < 0.0:
                    return action
    return last


@inlined
def choose(
    settings: Any, values: Any, visits: Any, available: Any, generator: Any, clock: int, s: int
) -> Any:
    """The behaviour's action in state s (unsigned)."""
    best, choice, ties = scan(values, available, s)
    return explore(settings, values, visits, available, generator, clock, s, best, choice, ties)


@inlined
def explore(
    settings: Any,
    values: Any,
    visits: Any,
    available: Any,
    generator: Any,
    clock: int,
    s: int,
    best: float,
    choice: int,
    ties: int,
) -> Any:
    """`choose`, where `scan` has been done already."""
    if settings.exploration == 0:
        u, epsilon = uniform(generator), epsilon_at(settings, clock)
        if ties > 1:
            choice = among(values, available, s, best, ties, generator)
        if len(available) == 0:
            # where u < ε, u / ε is a uniform number, too; no branch, which would be mispredicted whenever it explores
            return np.uint64(np.int64(u / epsilon * values.shape[1])) if u < epsilon else choice
        return any_action(available, values.shape[1], s, generator) if u < epsilon else choice
    return drawn(settings, values, visits, available, generator, clock, s)


@kernel
def behaviour(
    settings: Any, values: Any, visits: Any, available: Any, terminal: Any, clock: int, out: Any
) -> None:
    """π_t as a table, float64 [S, A]; rows of terminal states are 0."""
    for s in range(values.shape[0]):
        for a in range(values.shape[1]):
            state, action = np.uint64(s), np.uint64(a)
            if terminal[state] or (len(available) > 0 and not available[state, action]):
                out[state, action] = 0.0
            else:
                out[state, action] = probability(settings, values, visits, available, clock, state, action)


def greedy_actions(values: NDArray[np.float64], available: NDArray[np.bool_]) -> NDArray[np.int32]:
    """argmax_a values(s, a) for every state, the first of equals; 0 where nothing is available."""
    masked = values if len(available) == 0 else np.where(available, values, -np.inf)
    return np.argmax(masked, axis=1).astype(np.int32)
