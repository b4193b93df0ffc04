"""SARSA and its relatives: on-policy temporal-difference control.

    for each step of an episode
        take A; observe R, S′; choose A′ from S′ by the policy
        Q(S, A) ← Q(S, A) + α [R + γ Q(S′, A′) − Q(S, A)]                         SARSA, equation 6.7
        Q(S, A) ← Q(S, A) + α [R + γ Σ_a π(a|S′) Q(S′, a) − Q(S, A)]              expected SARSA, equation 6.9
        S ← S′, A ← A′

    G ← Σ_{i<n} γ^i R_{t+1+i} + γⁿ Q(S_{t+n}, A_{t+n});   Q(S_t, A_t) ← Q(S_t, A_t) + α [G − Q(S_t, A_t)]
                                                                                  n-step SARSA, equations 7.4 and 7.5
    δ ← R + γ Q(S′, A′) − Q(S, A);   E(S, A) marked;   Q ← Q + αδE;   E ← γλE       SARSA(λ), section 12.7

The answer is the value of the policy that explores: safer than the optimal one where exploring is dangerous. If the
policy becomes greedy in the limit while trying everything for ever, and the step sizes satisfy Robbins and Monro's
conditions, SARSA converges to Q* (S. Singh, T. Jaakkola, M. L. Littman, C. Szepesvári, 2000).

At termination nothing is bootstrapped; at truncation everything that waits is, and then forgotten.

G. A. Rummery, M. Niranjan, 1994; Sutton & Barto, 2nd ed., sections 6.4, 6.6, 7.2 and 12.7.
"""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import AbstractControl
from .exploration import choose, expected
from .kernels import inlined, learner_kernel
from .loop import loop_around
from .problem import TableProblem
from .step_sizes import step_size
from .traces import Traces, mark, no_traces, sweep


@learner_kernel
def act(settings, q, visits, available, generator, clock, s, *memory):
    return choose(settings, q, visits, available, generator, clock, s)


@learner_kernel
def sarsa(settings, q, visits, available, generator, clock, s, a, reward, following, terminated, truncated):
    action = choose(settings, q, visits, available, generator, clock, following)
    target = reward if terminated else reward + settings.discount * q[following, action]
    visits[s, a] += np.uint32(1)
    q[s, a] += step_size(settings, visits[s, a]) * (target - q[s, a])
    return action


class Sarsa(AbstractControl):
    """SARSA: learns the value of the exploring policy that it follows, and improves that."""

    name: ClassVar[str] = "sarsa"
    begin: ClassVar[Any] = act
    learn: ClassVar[Any] = sarsa
    loop: ClassVar[Any] = loop_around(act, sarsa)

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        return ()


@learner_kernel
def expected_sarsa(
    settings, q, visits, available, generator, clock, s, a, reward, following, terminated, truncated
):
    target = reward
    if not terminated:
        target += settings.discount * expected(settings, q, visits, available, clock, following)
    visits[s, a] += np.uint32(1)
    q[s, a] += step_size(settings, visits[s, a]) * (target - q[s, a])
    return choose(settings, q, visits, available, generator, clock, following)


class ExpectedSarsa(AbstractControl):
    """Expected SARSA: the expectation over the next action in the place of the action itself."""

    name: ClassVar[str] = "expected_sarsa"
    begin: ClassVar[Any] = act
    learn: ClassVar[Any] = expected_sarsa
    loop: ClassVar[Any] = loop_around(act, expected_sarsa)

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        return ()


@inlined
def update_oldest(settings, q, visits, states, actions, rewards, ring, beyond):
    """Move the oldest pair that waits towards its return, of which `beyond` follows the last reward."""
    size, count, oldest = len(states), ring[0], ring[1]
    target = beyond
    for back in range(count - 1, -1, -1):
        target = rewards[(oldest + back) % size] + settings.discount * target
    s, a = np.uint64(states[oldest]), np.uint64(actions[oldest])
    visits[s, a] += np.uint32(1)
    q[s, a] += step_size(settings, visits[s, a]) * (target - q[s, a])
    ring[0], ring[1] = count - 1, (oldest + 1) % size


@learner_kernel
def n_step_sarsa(
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
    ring,
):
    action = choose(settings, q, visits, available, generator, clock, following)
    newest = (ring[1] + ring[0]) % len(states)
    states[newest], actions[newest], rewards[newest] = s, a, reward
    ring[0] += 1
    beyond = 0.0 if terminated else q[following, action]
    if terminated or truncated:
        while ring[0] > 0:
            update_oldest(settings, q, visits, states, actions, rewards, ring, beyond)
    elif ring[0] == len(states):
        update_oldest(settings, q, visits, states, actions, rewards, ring, beyond)
    return action


class NStepSarsa(AbstractControl):
    """n-step SARSA: n rewards before the bootstrap; n = 1 is SARSA, n = ∞ Monte Carlo."""

    name: ClassVar[str] = "n_step_sarsa"
    in_flight: ClassVar[int] = 4
    begin: ClassVar[Any] = act
    learn: ClassVar[Any] = n_step_sarsa
    loop: ClassVar[Any] = loop_around(act, n_step_sarsa)

    n: int = 4

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        n = self.n
        return np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n), np.zeros(2, np.int64)


@learner_kernel
def sarsa_lambda(
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
    action = choose(settings, q, visits, available, generator, clock, following)
    target = reward if terminated else reward + settings.discount * q[following, action]
    visits[s, a] += np.uint32(1)
    step = step_size(settings, visits[s, a])
    error = target - q[s, a]
    mark(settings, traces, listed, count, s * np.uint64(q.shape[1]) + a, step)
    over = terminated or truncated
    sweep(q, traces, listed, count, step * error, 0.0 if over else settings.discount * settings.trace_decay)
    return action


class SarsaLambda(AbstractControl):
    """SARSA(λ): SARSA with eligibility traces; λ = 0 is SARSA, λ = 1 close to Monte Carlo."""

    name: ClassVar[str] = "sarsa_lambda"
    in_flight: ClassVar[int] = 3
    begin: ClassVar[Any] = act
    learn: ClassVar[Any] = sarsa_lambda
    loop: ClassVar[Any] = loop_around(act, sarsa_lambda)

    trace_decay: float = 0.9
    traces: Traces = "replacing"

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        return no_traces(problem.num_states * problem.num_actions)
