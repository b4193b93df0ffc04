"""Linear function approximation with tile coding: what tables learn, for observations too many for a table.

    q(s, a) = w_aᵀ x(s),   x(s) the tiles that s lies in (`tile_coding`);   α = step_size / number of tilings

    w_A ← w_A + α [R + γ q(S′, A′) − q(S, A)] x(S)                                semi-gradient SARSA, section 10.1
    w_A ← w_A + α [R + γ max_a q(S′, a) − q(S, A)] x(S)                           semi-gradient Q-learning, section 11.1

    z ← γλ z + (1 − αγλ zᵀx) x                                                    true online TD(λ), section 12.5
    w ← w + α (δ + v − v_old) z − α (v − v_old) x,
    δ = R + γ v(S′) − v(S),  v = v(S) = wᵀx,  v_old ← v(S′) before the update

The target is not differentiated: these are not gradients of any error, but on-policy they converge near the best
approximation (J. N. Tsitsiklis, B. Van Roy, 1997); for control nothing is guaranteed, and with Q-learning the weights
can diverge (section 11.2). True online TD(λ) computes at every step exactly the weights that the online λ-return
algorithm, which looks ahead, would have (H. van Seijen et al., "True online temporal-difference learning", 2016).

At termination nothing is bootstrapped; at truncation the target is, and the trace ends.

Environments are stepped by Gymnasium, and not as compiled twins: one observation at a time a Numba kernel costs less
than a compiled XLA step does, and the update is one step long.

Sutton & Barto, 2nd ed., chapters 9 to 12. G. A. Rummery, M. Niranjan, 1994, and C. J. C. H. Watkins, 1989, for the two
controls; H. van Seijen, R. S. Sutton, 2014, for the trace.
"""

import abc
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from bellmark.algorithms.base import AbstractAlgorithm
from bellmark.algorithms.checks import at_least, fraction, positive
from bellmark.envs.wrappers.discretise import StateIndex
from bellmark.errors import BadInput
from bellmark.experience.policy import FixedSpace

from . import exploration
from .base import MOST_ROWS, AbstractTableLearner, Gap, TableState
from .exploration import EpsilonSchedule, choose, epsilon_at, highest
from .generator import generator, uniform
from .kernels import inlined, learner_kernel
from .linear_policy import LinearPolicy
from .loop import CLOCK, loop_around
from .problem import TableProblem
from .settings import Settings, settings_of
from .tile_coding import Tiling, active_tiles, find_tiles
from .traces import NEGLIGIBLE

LinearExploration = Literal["epsilon_greedy", "softmax"]

HERE = np.uint64(0)
"""The row of the small table in which a kernel puts q(s, ·) for `choose`."""


@inlined
def look(w, cells, tiles, s, active, row):
    """The active tiles of s, and q(s, ·) in `row` [1, A]."""
    find_tiles(cells, tiles, s, active)
    for a in range(w.shape[1]):
        total = 0.0
        for tile in active:
            total += w[tile, a]
        row[HERE, np.uint64(a)] = total


@inlined
def move(settings, w, active, a, error):
    """w_a ← w_a + α · error · x."""
    step = settings.step_size / len(active) * error
    for tile in active:
        w[tile, a] += step


@learner_kernel
def act(settings, w, visits, available, generator, clock, s, cells, tiles, active, row):
    look(w, cells, tiles, s, active, row)
    return choose(settings, row, visits, available, generator, clock, HERE)


@learner_kernel
def linear_sarsa(
    settings,
    w,
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
    cells,
    tiles,
    active,
    row,
):
    look(w, cells, tiles, following, active, row)
    action = choose(settings, row, visits, available, generator, clock, HERE)
    target = reward if terminated else reward + settings.discount * row[HERE, action]
    look(w, cells, tiles, s, active, row)
    move(settings, w, active, a, target - row[HERE, a])
    return action


@learner_kernel
def linear_q_learning(
    settings,
    w,
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
    cells,
    tiles,
    active,
    row,
):
    if terminated:
        look(w, cells, tiles, s, active, row)
        move(settings, w, active, a, reward - row[HERE, a])
        return s
    look(w, cells, tiles, following, active, row)
    target = reward + settings.discount * highest(row, available, HERE)
    look(w, cells, tiles, s, active, row)
    move(settings, w, active, a, target - row[HERE, a])
    # the update may have moved the next state's values, too
    look(w, cells, tiles, following, active, row)
    return choose(settings, row, visits, available, generator, clock, HERE)


@inlined
def forget(traces, listed, count):
    for place in range(count[0]):
        traces[listed[place]] = 0.0
    count[0] = 0


@inlined
def any_of(actions, generator):
    return np.uint64(np.int64(uniform(generator) * actions[0]))


@learner_kernel
def begin_prediction(
    settings,
    w,
    visits,
    available,
    generator,
    clock,
    s,
    cells,
    tiles,
    active,
    row,
    actions,
    traces,
    listed,
    count,
    old,
):
    forget(traces, listed, count)
    old[0] = 0.0
    return any_of(actions, generator)


@learner_kernel
def true_online_td(
    settings,
    w,
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
    cells,
    tiles,
    active,
    row,
    actions,
    traces,
    listed,
    count,
    old,
):
    beyond = 0.0
    if not terminated:
        look(w, cells, tiles, following, active, row)
        beyond = row[HERE, HERE]
    look(w, cells, tiles, s, active, row)
    value = row[HERE, HERE]
    step = settings.step_size / len(active)
    overlap = 0.0
    for tile in active:
        overlap += traces[tile]
    decay = settings.discount * settings.trace_decay
    kept = 0
    for place in range(count[0]):
        tile = listed[place]
        traces[tile] *= decay
        if abs(traces[tile]) < NEGLIGIBLE:
            traces[tile] = 0.0
        else:
            listed[kept] = tile
            kept += 1
    count[0] = kept
    for tile in active:
        if traces[tile] == 0.0:
            listed[count[0]] = tile
            count[0] += 1
        traces[tile] += 1.0 - step * decay * overlap
    change = step * (reward + settings.discount * beyond - old[0])
    for place in range(count[0]):
        w[listed[place], HERE] += change * traces[listed[place]]
    for tile in active:
        w[tile, HERE] -= step * (value - old[0])
    old[0] = beyond
    return any_of(actions, generator)


class AbstractLinear(AbstractAlgorithm):
    """What the linear learners share. It is driven exactly as a table learner is, and its arrays have other shapes."""

    begin: ClassVar[Any]
    learn: ClassVar[Any]
    loop: ClassVar[Any]
    loop_of_two: ClassVar[Any] = None
    tabular: ClassVar[bool] = True
    predicts: ClassVar[bool] = False
    follow: ClassVar[str] = "uniform"
    most_rows: ClassVar[int] = MOST_ROWS

    # one driver for both: there is nothing in these that knows what a row of `values` stands for
    steps_per_iteration = AbstractTableLearner.steps_per_iteration
    step = AbstractTableLearner.step
    loop_on = AbstractTableLearner.loop_on
    first_action = AbstractTableLearner.first_action
    observe = AbstractTableLearner.observe

    @abc.abstractmethod
    def check_fields(self) -> None:
        """Refuse hyperparameters that mean nothing."""

    @abc.abstractmethod
    def more_memory(self, problem: TableProblem, features: int) -> tuple[NDArray[Any], ...]:
        """Arrays beside the tiling's."""

    @abc.abstractmethod
    def behaviour(self, state: TableState) -> NDArray[np.float64]:
        """π(a|s) of the policy that acts now: float64 [S, A]; where the model is known."""

    @abc.abstractmethod
    def randomly(self, state: TableState) -> tuple[float, float]:
        """(ε, temperature) of the policy that acts now."""

    def settings(self, problem: TableProblem) -> Settings:
        return settings_of(self, problem.budget, problem.time_limit)

    @property
    def bins(self) -> tuple[int, ...]:
        """Fine cells per continuous component."""
        return tuple(count * self.tilings for count in self.tiles)  # type: ignore[attr-defined]

    def check(self, problem: Any) -> None:
        if not isinstance(problem.action_space, gymnasium.spaces.Discrete):
            raise BadInput(
                f"{self.name} chooses among numbered actions; the action space is {problem.action_space}, and only "
                "Discrete ones are allowed: ppo and its like act in others"
            )
        fraction("discount", self.discount)  # type: ignore[attr-defined]
        step_size, tilings, tiles = self.step_size, self.tilings, self.tiles  # type: ignore[attr-defined]
        positive(step_size=step_size)
        if step_size > 1.0:
            raise BadInput(
                f"step_size is {step_size}; allowed: more than 0, at most 1 (it is shared by the tilings)"
            )
        at_least(1, tilings=tilings)
        if len(tiles) == 0 or min(tiles) < 1:
            raise BadInput(
                f"tiles is {tiles}; allowed: tiles per component, at least 1, or one number for all"
            )
        if not np.isfinite(self.initial_value):  # type: ignore[attr-defined]
            raise BadInput(f"initial_value is {self.initial_value}; allowed: any finite number")  # type: ignore
        self.check_fields()
        discrete = isinstance(problem.observation_space, gymnasium.spaces.Discrete)
        StateIndex.of(problem.observation_space, () if discrete else self.bins)

    def init(self, problem: TableProblem, key: Any) -> TableState:
        """The state of the seed `key`, a whole number, before its first step."""
        if len(problem.available) > 0 and not problem.available[~problem.terminal].all():
            raise BadInput(
                f"{self.name} needs every action in every state; in this model some are missing, and "
                f"q_learning, sarsa and "
                "their relatives know which"
            )
        tilings = self.tilings  # type: ignore[attr-defined]
        tiling = Tiling.of(problem.index, tilings)
        features, width = tiling.features(tilings), 1 if self.predicts else problem.num_actions
        weights = np.full((features, width), float(self.initial_value) / tilings)  # type: ignore[attr-defined]
        return TableState(
            values=weights,
            visits=np.zeros((1, width), np.uint32),
            place=np.array([-1, 0, 0, 0], np.int64),
            running=np.zeros(1),
            generator=generator(key),
            memory=(
                *tiling,
                np.zeros(tilings, np.int64),
                np.zeros((1, width)),
                *self.more_memory(problem, features),
            ),
            environment=None,
            problem=problem,
        )

    def table(self, state: TableState) -> NDArray[np.float64]:
        """q [S, A] or v [S, 1] where states are few enough to be named by a model; else the weights [F, A]."""
        problem = state.problem
        if problem.mdp is None:
            return state.values
        tiling, tilings = Tiling.of(problem.index, self.tilings), self.tilings  # type: ignore[attr-defined]
        tiles = active_tiles(tiling, tilings, np.arange(problem.num_states))
        values = state.values[tiles].sum(axis=1)
        values[problem.terminal] = 0.0
        return values

    def policy(self, state: TableState) -> LinearPolicy:
        epsilon, temperature = self.randomly(state)
        return self._policy(
            state.values.astype(np.float32),
            epsilon,
            temperature,
            state.problem.observation_space,
            state.problem.num_actions,
        )

    def policy_template(self, observation_space: Any, action_space: Any) -> LinearPolicy:
        """A policy of the right shapes, for reading one from a file."""
        discrete = isinstance(observation_space, gymnasium.spaces.Discrete)
        index = StateIndex.of(observation_space, () if discrete else self.bins)
        features = Tiling.of(index, self.tilings).features(self.tilings)  # type: ignore[attr-defined]
        width = 1 if self.predicts else int(action_space.n)
        weights = np.zeros((features, width), np.float32)
        return self._policy(weights, 0.0, 0.0, observation_space, int(action_space.n))

    def _policy(
        self, weights: Any, epsilon: float, temperature: float, space: gymnasium.Space, actions: int
    ) -> LinearPolicy:
        discrete = isinstance(space, gymnasium.spaces.Discrete)
        return LinearPolicy(
            weights,
            np.float32(epsilon),
            np.float32(temperature),
            FixedSpace(space),
            () if discrete else self.bins,
            self.tilings,  # type: ignore[attr-defined]
            actions,
        )


class AbstractLinearControl(AbstractLinear):
    """A linear learner of q(s, a) that explores around it."""

    discount: float = 0.99
    step_size: float = 0.5
    tilings: int = 8
    tiles: tuple[int, ...] = (8,)
    exploration: LinearExploration = "epsilon_greedy"
    epsilon: float = 0.1
    epsilon_final: float = 0.01
    epsilon_schedule: EpsilonSchedule = "constant"
    epsilon_share: float = 1.0
    temperature: float = 1.0
    initial_value: float = 0.0
    gap: Gap = "auto"

    confidence: ClassVar[float] = 0.0

    def check_fields(self) -> None:
        exploration.check(self)

    def more_memory(self, problem: TableProblem, features: int) -> tuple[NDArray[Any], ...]:
        return ()

    def behaviour(self, state: TableState) -> NDArray[np.float64]:
        problem, table = state.problem, self.table(state)
        out = np.zeros((problem.num_states, problem.num_actions))
        clock, visits = int(state.place[CLOCK]), np.zeros(table.shape, np.uint32)
        settings = self.settings(problem)
        exploration.behaviour(settings, table, visits, problem.available, problem.terminal, clock, out)
        return out

    def randomly(self, state: TableState) -> tuple[float, float]:
        settings: Settings = self.settings(state.problem)
        if self.exploration == "softmax":
            return 0.0, self.temperature
        return float(epsilon_at(settings, int(state.place[CLOCK]))), 0.0


class LinearSarsa(AbstractLinearControl):
    """Semi-gradient SARSA with tile coding: for continuous observations of few dimensions."""

    name: ClassVar[str] = "linear_sarsa"
    begin: ClassVar[Any] = act
    learn: ClassVar[Any] = linear_sarsa
    loop: ClassVar[Any] = loop_around(act, linear_sarsa)


class LinearQLearning(AbstractLinearControl):
    """Semi-gradient Q-learning with tile coding: off-policy, so it may diverge; it seldom does."""

    name: ClassVar[str] = "linear_q_learning"
    begin: ClassVar[Any] = act
    learn: ClassVar[Any] = linear_q_learning
    loop: ClassVar[Any] = loop_around(act, linear_q_learning)


class TrueOnlineTD(AbstractLinear):
    """True online TD(λ) with tile coding: predicts the values of the policy that takes any action at random."""

    name: ClassVar[str] = "true_online_td"
    begin: ClassVar[Any] = begin_prediction
    learn: ClassVar[Any] = true_online_td
    loop: ClassVar[Any] = loop_around(begin_prediction, true_online_td)
    predicts: ClassVar[bool] = True

    discount: float = 0.99
    trace_decay: float = 0.9
    step_size: float = 0.1
    tilings: int = 8
    tiles: tuple[int, ...] = (8,)
    initial_value: float = 0.0
    gap: Gap = "auto"

    def check_fields(self) -> None:
        fraction("trace_decay", self.trace_decay)

    def more_memory(self, problem: TableProblem, features: int) -> tuple[NDArray[Any], ...]:
        actions = np.array([problem.num_actions], np.int64)
        return actions, np.zeros(features), np.zeros(features, np.int64), np.zeros(1, np.int64), np.zeros(1)

    def behaviour(self, state: TableState) -> NDArray[np.float64]:
        problem = state.problem
        shares = np.full((problem.num_states, problem.num_actions), 1.0 / problem.num_actions)
        shares[problem.terminal] = 0.0
        return shares

    def randomly(self, state: TableState) -> tuple[float, float]:
        del state
        return 1.0, 0.0
