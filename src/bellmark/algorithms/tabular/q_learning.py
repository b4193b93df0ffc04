"""Q-learning: off-policy temporal-difference control.

C. J. C. H. Watkins, *Learning from Delayed Rewards*, 1989; Sutton & Barto, 2nd ed., section 6.5, equation 6.8.

    for each step of an episode
        take A, chosen from S by the behaviour policy; observe R, S′
        Q(S, A) ← Q(S, A) + α [R + γ max_a Q(S′, a) − Q(S, A)]
        S ← S′

Whatever the behaviour, Q converges to Q* with probability 1 if every pair is tried for ever and the step sizes of each
pair satisfy Robbins and Monro's conditions (C. J. C. H. Watkins, P. Dayan, "Q-learning", 1992).
"""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import AbstractTableLearner, Gap, TableState, check_control, exploring
from .exploration import EpsilonSchedule, Exploration, choose, explore, scan
from .kernels import inlined
from .loop import loop_around
from .problem import TableProblem
from .step_sizes import StepSizeSchedule, step_size


@inlined
def q_learning(
    settings, q, visits, available, generator, clock, s, a, reward, following, terminated, truncated
):
    best, choice, ties = scan(q, available, following)
    target = reward if terminated else reward + settings.discount * best
    visits[s, a] += np.uint32(1)
    q[s, a] += step_size(settings, visits[s, a]) * (target - q[s, a])
    if following == s:
        best, choice, ties = scan(q, available, following)
    return explore(settings, q, visits, available, generator, clock, following, best, choice, ties)


class QLearning(AbstractTableLearner):
    """Q-learning: learns the optimal policy while it follows an exploring one."""

    name: ClassVar[str] = "q_learning"
    begin: ClassVar[Any] = choose
    learn: ClassVar[Any] = q_learning
    loop: ClassVar[Any] = loop_around(choose, q_learning)

    discount: float = 0.99
    step_size: float = 0.1
    step_size_schedule: StepSizeSchedule = "constant"
    step_size_power: float = 0.8
    exploration: Exploration = "epsilon_greedy"
    epsilon: float = 0.1
    epsilon_final: float = 0.01
    epsilon_schedule: EpsilonSchedule = "constant"
    epsilon_share: float = 1.0
    temperature: float = 1.0
    confidence: float = 1.0
    initial_value: float = 0.0
    bins: tuple[int, ...] = ()
    gap: Gap = "auto"

    def check_fields(self) -> None:
        check_control(self)

    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        return ()

    def table(self, state: TableState) -> NDArray[np.float64]:
        return state.values

    def behaviour(self, state: TableState) -> NDArray[np.float64]:
        return exploring(self, state.values, state)
