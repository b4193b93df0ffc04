"""Temporal-difference prediction: the values of a given policy, learnt while following it.

    for each step of an episode
        take A by the policy; observe R, S′
        V(S) ← V(S) + α [R + γ V(S′) − V(S)]                                      TD(0), equation 6.2
        S ← S′

    G ← Σ_{i<n} γ^i R_{t+1+i} + γⁿ V(S_{t+n});   V(S_t) ← V(S_t) + α [G − V(S_t)]   n-step TD, equations 7.1 and 7.2

    δ ← R + γ V(S′) − V(S);   E(S) marked;   V ← V + αδE;   E ← γλE                 TD(λ), section 12.2

V converges to V^π with probability 1 under Robbins and Monro's conditions if every state is visited for ever (P. Dayan,
T. J. Sejnowski, 1994). At termination nothing is bootstrapped; at truncation everything that waits is, and traces end.

R. S. Sutton, "Learning to predict by the methods of temporal differences", 1988; Sutton & Barto, 2nd ed., sections 6.1,
7.1 and 12.2.
"""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import AbstractPrediction
from .kernels import inlined, learner_kernel
from .loop import loop_around
from .prediction import follow
from .problem import TableProblem
from .step_sizes import step_size
from .traces import Traces, mark, no_traces, sweep


@learner_kernel
def act_as_given(settings, v, visits, available, generator, clock, s, policy, *memory):
    return follow(policy, generator, s)


@learner_kernel
def td(
    settings, v, visits, available, generator, clock, s, a, reward, following, terminated, truncated, policy
):
    target = reward if terminated else reward + settings.discount * v[following, 0]
    visits[s, 0] += np.uint32(1)
    v[s, 0] += step_size(settings, visits[s, 0]) * (target - v[s, 0])
    return follow(policy, generator, following)


class TD(AbstractPrediction):
    """TD(0): moves each state's value towards the reward and the value of the next state."""

    name: ClassVar[str] = "td"
    begin: ClassVar[Any] = act_as_given
    learn: ClassVar[Any] = td
    loop: ClassVar[Any] = loop_around(act_as_given, td)

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        return (self.running(problem),)


@inlined
def update_oldest_state(settings, v, visits, states, rewards, ring, beyond):
    """Move the oldest state that waits towards its return, of which `beyond` follows the last reward."""
    size, count, oldest = len(states), ring[0], ring[1]
    target = beyond
    for back in range(count - 1, -1, -1):
        target = rewards[(oldest + back) % size] + settings.discount * target
    s = np.uint64(states[oldest])
    visits[s, 0] += np.uint32(1)
    v[s, 0] += step_size(settings, visits[s, 0]) * (target - v[s, 0])
    ring[0], ring[1] = count - 1, (oldest + 1) % size


@learner_kernel
def n_step_td(
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
    rewards,
    ring,
):
    newest = (ring[1] + ring[0]) % len(states)
    states[newest], rewards[newest] = s, reward
    ring[0] += 1
    beyond = 0.0 if terminated else v[following, 0]
    if terminated or truncated:
        while ring[0] > 0:
            update_oldest_state(settings, v, visits, states, rewards, ring, beyond)
    elif ring[0] == len(states):
        update_oldest_state(settings, v, visits, states, rewards, ring, beyond)
    return follow(policy, generator, following)


class NStepTD(AbstractPrediction):
    """n-step TD: n rewards before the bootstrap; n = 1 is TD(0), n = ∞ Monte Carlo."""

    name: ClassVar[str] = "n_step_td"
    in_flight: ClassVar[int] = 4
    begin: ClassVar[Any] = act_as_given
    learn: ClassVar[Any] = n_step_td
    loop: ClassVar[Any] = loop_around(act_as_given, n_step_td)

    n: int = 4

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        waiting = np.zeros(self.n, np.int64), np.zeros(self.n), np.zeros(2, np.int64)
        return self.running(problem), *waiting


@learner_kernel
def td_lambda(
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
    traces,
    listed,
    count,
):
    target = reward if terminated else reward + settings.discount * v[following, 0]
    visits[s, 0] += np.uint32(1)
    step = step_size(settings, visits[s, 0])
    error = target - v[s, 0]
    mark(settings, traces, listed, count, s, step)
    over = terminated or truncated
    sweep(v, traces, listed, count, step * error, 0.0 if over else settings.discount * settings.trace_decay)
    return follow(policy, generator, following)


class TDLambda(AbstractPrediction):
    """TD(λ): TD with eligibility traces; λ = 0 is TD(0), λ = 1 close to Monte Carlo."""

    name: ClassVar[str] = "td_lambda"
    in_flight: ClassVar[int] = 4
    begin: ClassVar[Any] = act_as_given
    learn: ClassVar[Any] = td_lambda
    loop: ClassVar[Any] = loop_around(act_as_given, td_lambda)

    trace_decay: float = 0.9
    traces: Traces = "accumulating"

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        return self.running(problem), *no_traces(problem.num_states)
