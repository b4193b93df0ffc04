"""Q-learning and its relatives: off-policy temporal-difference control.

    for each step of an episode
        take A, chosen from S by the behaviour policy; observe R, S′
        Q(S, A) ← Q(S, A) + α [R + γ max_a Q(S′, a) − Q(S, A)]                   Q-learning, equation 6.8
        S ← S′

    Q₁(S, A) ← Q₁(S, A) + α [R + γ Q₂(S′, argmax_a Q₁(S′, a)) − Q₁(S, A)]        double Q-learning, equation 6.10,
                                                                                 or the same with Q₁ and Q₂ exchanged

    δ ← R + γ max_a Q(S′, a) − Q(S, A);   E(S, A) marked;   Q ← Q + αδE           Watkins's Q(λ), section 12.10
    E ← γλE where A′ is greedy, else 0

Whatever the behaviour, Q converges to Q* with probability 1 if every pair is tried for ever and the step sizes of each
pair satisfy Robbins and Monro's conditions (C. J. C. H. Watkins, P. Dayan, "Q-learning", 1992; for double Q-learning
H. van Hasselt, 2010). The maximum over noisy estimates makes Q-learning's too large on the way; double Q-learning
chooses with one table and values with the other.

C. J. C. H. Watkins, *Learning from Delayed Rewards*, 1989; Sutton & Barto, 2nd ed., sections 6.5, 6.7 and 12.10.
"""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import AbstractControl
from .exploration import among, choose, explore, highest, scan
from .generator import uniform
from .kernels import learner_kernel
from .loop import loop_around, loop_of_two_around
from .plain import is_plain, loop_for, loop_of_two_for
from .problem import TableProblem
from .settings import Settings
from .step_sizes import step_size
from .traces import Traces, mark, no_traces, sweep


@learner_kernel
def act(settings, q, visits, available, generator, clock, s, *memory):
    return choose(settings, q, visits, available, generator, clock, s)


@learner_kernel
def q_learning(
    settings, q, visits, available, generator, clock, s, a, reward, following, terminated, truncated
):
    visits[s, a] += np.uint32(1)
    step = step_size(settings, visits[s, a])
    if terminated:
        q[s, a] += step * (reward - q[s, a])
        return s
    q[s, a] += step * (reward + settings.discount * highest(q, available, following) - q[s, a])
    # looked at once more, because the update may have moved it: a test whether it has is mispredicted too often
    return choose(settings, q, visits, available, generator, clock, following)


class QLearning(AbstractControl):
    """Q-learning: learns the optimal policy while it follows an exploring one."""

    name: ClassVar[str] = "q_learning"
    begin: ClassVar[Any] = act
    learn: ClassVar[Any] = q_learning
    loop: ClassVar[Any] = loop_around(act, q_learning)
    loop_of_two: ClassVar[Any] = loop_of_two_around(act, q_learning)

    def loop_on(self, settings: Settings, problem: TableProblem) -> Any:
        plain = is_plain(settings, problem)
        return loop_for(problem) if plain else super().loop_on(settings, problem)

    def loop_of_two_on(self, settings: Settings, problem: TableProblem) -> Any:
        plain = is_plain(settings, problem)
        return loop_of_two_for(problem) if plain else super().loop_of_two_on(settings, problem)

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        return ()


@learner_kernel
def double_q_learning(
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
    first,
    second,
    counts,
):
    heads = uniform(generator) < 0.5
    improved, other = (first, second) if heads else (second, first)
    target = reward
    if not terminated:
        best, choice, ties = scan(improved, available, following)
        if ties > 1:
            choice = among(improved, available, following, best, ties, generator)
        target += settings.discount * other[following, choice]
    visits[s, a] += np.uint32(1)
    table = np.uint64(0 if heads else 1)
    counts[table, s, a] += np.uint32(1)
    improved[s, a] += step_size(settings, counts[table, s, a]) * (target - improved[s, a])
    q[s, a] = 0.5 * (first[s, a] + second[s, a])
    return choose(settings, q, visits, available, generator, clock, following)


class DoubleQLearning(AbstractControl):
    """Double Q-learning: two tables, so that the maximum's bias cancels; acts by their mean."""

    name: ClassVar[str] = "double_q_learning"
    begin: ClassVar[Any] = act
    learn: ClassVar[Any] = double_q_learning
    loop: ClassVar[Any] = loop_around(act, double_q_learning)

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        table = np.full((problem.num_states, problem.num_actions), float(self.initial_value))
        table[problem.terminal] = 0.0
        return table, table.copy(), np.zeros((2, *table.shape), np.uint32)


@learner_kernel
def q_lambda(
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
    traces,
    listed,
    count,
):
    best, choice, ties = scan(q, available, following)
    action = explore(settings, q, visits, available, generator, clock, following, best, choice, ties)
    greedy = q[following, action] == best
    target = reward if terminated else reward + settings.discount * best
    visits[s, a] += np.uint32(1)
    step = step_size(settings, visits[s, a])
    error = target - q[s, a]
    mark(settings, traces, listed, count, s * np.uint64(q.shape[1]) + a, step)
    goes_on = greedy and not (terminated or truncated)
    sweep(
        q, traces, listed, count, step * error, settings.discount * settings.trace_decay if goes_on else 0.0
    )
    return action


class QLambda(AbstractControl):
    """Watkins's Q(λ): Q-learning with eligibility traces, cut wherever the behaviour explores."""

    name: ClassVar[str] = "q_lambda"
    in_flight: ClassVar[int] = 3
    begin: ClassVar[Any] = act
    learn: ClassVar[Any] = q_lambda
    loop: ClassVar[Any] = loop_around(act, q_lambda)

    trace_decay: float = 0.9
    traces: Traces = "replacing"

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        return no_traces(problem.num_states * problem.num_actions)
