"""Monte Carlo: learning from complete returns, without bootstrapping.

    generate an episode S₀, A₀, R₁, …, S_{T−1}, A_{T−1}, R_T by the policy;   G ← 0
    for t = T − 1, …, 0
        G ← γG + R_{t+1}
        unless it is first-visit and the state (the pair) occurs earlier:
            V(S_t) ← V(S_t) + (G − V(S_t)) / n                             prediction, section 5.1
            Q(S_t, A_t) ← Q(S_t, A_t) + (G − Q(S_t, A_t)) / n              on-policy control, section 5.4

    for t = T − 1, …, 0,  W ← 1 at first                                   off-policy control, section 5.7
        G ← γG + R_{t+1};   C(S_t, A_t) ← C(S_t, A_t) + W
        Q(S_t, A_t) ← Q(S_t, A_t) + W/C(S_t, A_t) · (G − Q(S_t, A_t))
        W ← W π(A_t | S_t) / b(A_t | S_t), π greedy;   stop at W = 0

Where several actions are greedy, π gives them equal shares; in a state where nothing matters it costs no sample then.
Ordinary importance sampling divides by the number of visits in the place of C, and counts also those whose weight is 0
(section 5.5): unbiased, and of a variance that can be infinite.

An episode that is truncated, or longer than `longest_episode`, has no complete return: what is missing of it is
estimated by the table, the one place where Monte Carlo bootstraps here.

Sutton & Barto, 2nd ed., chapter 5; S. P. Singh, R. S. Sutton, "Reinforcement learning with replacing eligibility
traces", 1996, for first against every visit.
"""

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from .base import AbstractControl, AbstractPrediction
from .exploration import choose, expected, probability, scan
from .kernels import learner_kernel
from .loop import loop_around
from .prediction import follow
from .problem import TableProblem
from .step_sizes import StepSizeSchedule, step_size

Visit = Literal["first", "every"]
Sampling = Literal["weighted", "ordinary"]


@learner_kernel
def act(settings, q, visits, available, generator, clock, s, *memory):
    return choose(settings, q, visits, available, generator, clock, s)


@learner_kernel
def monte_carlo_control(
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
    states,
    actions,
    rewards,
    length,
    first,
):
    t = length[0]
    states[t], actions[t], rewards[t] = s, a, reward
    length[0] += 1
    if first[s, a] < 0:
        first[s, a] = t
    if terminated or truncated or length[0] == len(states):
        total = 0.0 if terminated else expected(settings, q, visits, available, clock, following)
        for t in range(length[0] - 1, -1, -1):
            total = rewards[t] + settings.discount * total
            state, action = np.uint64(states[t]), np.uint64(actions[t])
            if settings.mode == 1 or first[state, action] == t:
                visits[state, action] += np.uint32(1)
                q[state, action] += step_size(settings, visits[state, action]) * (total - q[state, action])
                first[state, action] = -1
        length[0] = 0
    return choose(settings, q, visits, available, generator, clock, following)


class MonteCarloControl(AbstractControl):
    """On-policy Monte Carlo control: averages complete returns of the exploring policy, and improves that."""

    name: ClassVar[str] = "monte_carlo_control"
    in_flight: ClassVar[int] = 5
    needs_ends: ClassVar[bool] = True
    begin: ClassVar[Any] = act
    learn: ClassVar[Any] = monte_carlo_control
    loop: ClassVar[Any] = loop_around(act, monte_carlo_control)

    step_size: float = 1.0
    step_size_schedule: StepSizeSchedule = "harmonic"
    visit: Visit = "first"
    longest_episode: int = 10_000

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        pairs = (problem.num_states, problem.num_actions)
        return *_episode(self.longest_episode), np.full(pairs, -1, np.int64)


@learner_kernel
def act_and_remember(
    settings,
    q,
    visits,
    available,
    generator,
    clock,
    s,
    states,
    actions,
    rewards,
    length,
    chances,
    chance,
    weights,
):
    action = choose(settings, q, visits, available, generator, clock, s)
    chance[0] = probability(settings, q, visits, available, clock, s, action)
    return action


@learner_kernel
def off_policy_monte_carlo(
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
    states,
    actions,
    rewards,
    length,
    chances,
    chance,
    weights,
):
    t = length[0]
    states[t], actions[t], rewards[t], chances[t] = s, a, reward, chance[0]
    length[0] += 1
    if terminated or truncated or length[0] == len(states):
        total, weight = 0.0, 1.0
        if not terminated:
            total, _, _ = scan(q, available, following)
        for t in range(length[0] - 1, -1, -1):
            total = rewards[t] + settings.discount * total
            state, action = np.uint64(states[t]), np.uint64(actions[t])
            visits[state, action] += np.uint32(1)
            if settings.mode == 0:
                weights[state, action] += weight
                q[state, action] += weight / weights[state, action] * (total - q[state, action])
            else:
                q[state, action] += (weight * total - q[state, action]) / visits[state, action]
            best, _, ties = scan(q, available, state)
            if q[state, action] == best:
                weight /= ties * chances[t]
            elif settings.mode == 0:
                break
            else:
                weight = 0.0
        length[0] = 0
    action = choose(settings, q, visits, available, generator, clock, following)
    chance[0] = probability(settings, q, visits, available, clock, following, action)
    return action


class OffPolicyMonteCarlo(AbstractControl):
    """Off-policy Monte Carlo control: the greedy policy's returns, by importance sampling from an exploring one."""

    name: ClassVar[str] = "off_policy_monte_carlo"
    in_flight: ClassVar[int] = 6
    needs_ends: ClassVar[bool] = True
    begin: ClassVar[Any] = act_and_remember
    learn: ClassVar[Any] = off_policy_monte_carlo
    loop: ClassVar[Any] = loop_around(act_and_remember, off_policy_monte_carlo)

    epsilon: float = 0.3
    sampling: Sampling = "weighted"
    longest_episode: int = 10_000

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        pairs = (problem.num_states, problem.num_actions)
        return *_episode(self.longest_episode), np.zeros(self.longest_episode), np.ones(1), np.zeros(pairs)


@learner_kernel
def monte_carlo_prediction(
    settings,
    v,
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
    policy,
    states,
    actions,
    rewards,
    length,
    first,
):
    t = length[0]
    states[t], rewards[t] = s, reward
    length[0] += 1
    if first[s, 0] < 0:
        first[s, 0] = t
    if terminated or truncated or length[0] == len(states):
        total = 0.0 if terminated else v[following, 0]
        for t in range(length[0] - 1, -1, -1):
            total = rewards[t] + settings.discount * total
            state = np.uint64(states[t])
            if settings.mode == 1 or first[state, 0] == t:
                visits[state, 0] += np.uint32(1)
                v[state, 0] += step_size(settings, visits[state, 0]) * (total - v[state, 0])
                first[state, 0] = -1
        length[0] = 0
    return follow(policy, generator, following)


@learner_kernel
def act_as_given(settings, v, visits, available, generator, clock, s, policy, *memory):
    return follow(policy, generator, s)


class MonteCarloPrediction(AbstractPrediction):
    """Monte Carlo prediction: the values of a given policy as averages of its returns."""

    name: ClassVar[str] = "monte_carlo_prediction"
    in_flight: ClassVar[int] = 6
    needs_ends: ClassVar[bool] = True
    begin: ClassVar[Any] = act_as_given
    learn: ClassVar[Any] = monte_carlo_prediction
    loop: ClassVar[Any] = loop_around(act_as_given, monte_carlo_prediction)

    step_size: float = 1.0
    step_size_schedule: StepSizeSchedule = "harmonic"
    visit: Visit = "first"
    longest_episode: int = 10_000

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        first = np.full((problem.num_states, 1), -1, np.int64)
        return self.running(problem), *_episode(self.longest_episode), first


def _episode(longest: int) -> tuple[NDArray[Any], ...]:
    """The states, actions and rewards of the episode so far, and its length."""
    return np.zeros(longest, np.int64), np.zeros(longest, np.int64), np.zeros(longest), np.zeros(1, np.int64)
