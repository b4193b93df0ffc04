"""What every table learner shares: its state, and everything that is not its update.

A table learner is an algorithm whose iteration is one environment step. Its update is a Numba kernel that sees one
transition at a time (see `loop`); on a finite model the kernel runs inside a sampling loop, on a Gymnasium environment
it is called step by step, and either way the arithmetic is the same.
"""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import equinox as eqx
import gymnasium
import numpy as np
from numpy.typing import NDArray

from bellmark.algorithms.base import AbstractAlgorithm
from bellmark.algorithms.checks import at_least, fraction
from bellmark.envs.wrappers.discretise import StateIndex
from bellmark.errors import BadInput
from bellmark.experience.policy import FixedSpace
from bellmark.mdp.routes import ends

from . import exploration, step_sizes
from .exploration import EpsilonSchedule, Exploration, behaviour, greedy_actions
from .generator import generator
from .loop import ACTION, CLOCK, COUNT, LENGTH, RETURN, SQUARE, STATE, STEPS
from .policy import TablePolicy, policy_template
from .prediction import given_policy, running_sums
from .problem import TableProblem
from .settings import Settings, settings_of
from .step_sizes import StepSizeSchedule

Gap = Literal["auto", "on", "off"]
"""Whether the exact gap is measured along the way: where it can be, or an error where it cannot, or never."""

MOST_ROWS = 250
"""Rows of metrics in a run: each is an exact evaluation of two policies where the model is known."""


class TableState(eqx.Module):
    """The state of one seed: NumPy arrays that the kernels write into.

    - `values`: float64 [S, A], Q (of a predictor [S, 1], V); `visits`: uint32, how often each entry was updated.
    - `place`: int64 [4] and `running`: float64 [1]: the episode in flight (see `loop`).
    - `generator`: uint64 [2]; `memory`: the learner's own arrays.
    - `environment`: what a host environment gave to be put back by, where it offers that.
    - `problem`: what is learnt on, which is not part of a checkpoint.
    """

    values: Any
    visits: Any
    place: Any
    running: Any
    generator: Any
    memory: tuple[Any, ...]
    environment: Any
    problem: TableProblem = eqx.field(static=True)


class OnHost:
    """One seed of a learner on a host environment, with all that stays the same from step to step at hand.

    Attributes of a module are looked up through its checks each time; twenty of them a step cost more than the step.
    """

    def __init__(self, learner: Any, problem: TableProblem, state: TableState):
        self._begin, self._learn = type(learner).begin, type(learner).learn
        self._arrays = (
            learner.settings(problem),
            state.values,
            state.visits,
            problem.available,
            state.generator,
        )
        self._memory, self._place, self._running = state.memory, state.place, state.running

    def first_action(self, observed: int) -> int:
        """Begin an episode in state `observed`; the action to take."""
        place = self._place
        action = int(self._begin(*self._arrays, int(place[CLOCK]), np.uint64(observed), *self._memory))
        place[STATE], place[ACTION], place[LENGTH] = observed, action, 0
        self._running[0] = 0.0
        return action

    def observe(
        self, reward: float, following: int, terminated: bool, truncated: bool, tally: NDArray[np.float64]
    ) -> int:
        """Learn from one step; the next action, which means nothing where the episode ended."""
        place = self._place
        action = self._learn(
            *self._arrays,
            int(place[CLOCK]),
            np.uint64(place[STATE]),
            np.uint64(place[ACTION]),
            float(reward),
            np.uint64(following),
            bool(terminated),
            bool(truncated),
            *self._memory,
        )
        place[STATE], place[ACTION] = following, action
        place[LENGTH] += 1
        place[CLOCK] += 1
        self._running[0] += reward
        if terminated or truncated:
            total = self._running[0]
            tally += np.array([1.0, total, total * total, place[LENGTH]])
        return int(action)


class AbstractTableLearner(AbstractAlgorithm):
    """A learner whose knowledge is a table with a row per state.

    Final classes give `begin`, `learn` and `loop` (kernels), `loop_of_two` where two seeds in one thread are quicker
    than one after the other, and, where one table is not enough, `memory`, of which the first `in_flight` arrays belong
    to the episode in flight.
    """

    begin: ClassVar[Any]
    learn: ClassVar[Any]
    loop: ClassVar[Any]
    loop_of_two: ClassVar[Any] = None
    tabular: ClassVar[bool] = True
    predicts: ClassVar[bool] = False
    needs_ends: ClassVar[bool] = False
    in_flight: ClassVar[int] = 0
    most_rows: ClassVar[int] = MOST_ROWS

    @abc.abstractmethod
    def memory(self, problem: TableProblem) -> tuple[NDArray[Any], ...]:
        """The learner's arrays beside its table, as they are before the first step."""

    @abc.abstractmethod
    def check_fields(self) -> None:
        """Refuse hyperparameters that mean nothing."""

    @abc.abstractmethod
    def table(self, state: TableState) -> NDArray[np.float64]:
        """The learner's estimate: Q [S, A], or V [S, 1] of a predictor."""

    @abc.abstractmethod
    def behaviour(self, state: TableState) -> NDArray[np.float64]:
        """π(a|s) of the policy that acts now: float64 [S, A], 0 in terminal states."""

    def check(self, problem: Any) -> None:
        if not isinstance(problem.action_space, gymnasium.spaces.Discrete):
            raise BadInput(
                f"{self.name} chooses from a table of actions; the action space is {problem.action_space}, and only "
                "Discrete ones are allowed: ppo and its like act in others"
            )
        fraction("discount", self.discount)  # type: ignore[attr-defined]
        self.check_fields()
        mdp = getattr(getattr(problem, "environment", None), "mdp", None)
        if self.needs_ends and mdp is not None and problem.time_limit is None and not ends(mdp):
            raise BadInput(
                f"{self.name} learns from complete episodes, and {problem.environment.id} never ends one; td, sarsa, "
                "q_learning and their relatives need no end"
            )
        index = StateIndex.of(problem.observation_space, getattr(self, "bins", ()))
        size = index.size * int(problem.action_space.n) * 12
        if size > 2**36:
            raise BadInput(
                f"{index.size:,} states × {problem.action_space.n} actions need {size / 2**30:,.0f} GiB per seed; "
                "at most 64 GiB are allowed: use fewer bins, or function approximation"
            )

    def steps_per_iteration(self, problem: Any) -> int:
        return 1

    def settings(self, problem: TableProblem) -> Settings:
        return settings_of(self, problem.budget, problem.time_limit)

    def loop_on(self, settings: Settings, problem: TableProblem) -> Any:
        """The loop to sample `problem` by: `loop`, or a quicker one that gives the same bits."""
        return type(self).loop

    def loop_of_two_on(self, settings: Settings, problem: TableProblem) -> Any:
        """The same of two seeds."""
        return type(self).loop_of_two

    def init(self, problem: TableProblem, key: Any) -> TableState:
        """The state of the seed `key`, a whole number, before its first step."""
        width = 1 if self.predicts else problem.num_actions
        values = np.full((problem.num_states, width), float(self.initial_value))  # type: ignore[attr-defined]
        values[problem.terminal] = 0.0
        return TableState(
            values=values,
            visits=np.zeros(values.shape, np.uint32),
            place=np.array([-1, 0, 0, 0], np.int64),
            running=np.zeros(1),
            generator=generator(key),
            memory=self.memory(problem),
            environment=None,
            problem=problem,
        )

    def step(
        self, problem: TableProblem, state: TableState, steps: int = 1
    ) -> tuple[TableState, dict[str, Any]]:
        """`steps` environment steps on a sampled problem. The state's arrays are written to; they are not copied."""
        tally = np.zeros(4)
        settings = settings_of(self, problem.budget, problem.time_limit)
        self.loop_on(settings, problem)(
            settings,
            problem.tables,
            state.values,
            state.visits,
            problem.available,
            state.place,
            state.running,
            state.generator,
            tally,
            steps,
            state.memory,
        )
        return state, episode_metrics(tally)

    def step_two(
        self, problem: TableProblem, states: Sequence[TableState], steps: int = 1
    ) -> list[dict[str, Any]]:
        """`step` of two seeds, which take turns in one thread; bit for bit what each does alone."""
        tallies = [np.zeros(4), np.zeros(4)]
        arrays = [
            (x.values, x.visits, x.place, x.running, x.generator, tally, x.memory)
            for x, tally in zip(states, tallies, strict=True)
        ]
        settings = settings_of(self, problem.budget, problem.time_limit)
        loop = self.loop_of_two_on(settings, problem)
        loop(settings, problem.tables, problem.available, steps, *arrays[0], *arrays[1])
        return [episode_metrics(tally) for tally in tallies]

    def forget_episode(self, state: TableState) -> None:
        """Drop the episode in flight, where its environment could not be put back: nothing is learnt across the gap."""
        fresh = self.memory(state.problem)
        for place in range(self.in_flight):
            state.memory[place][...] = fresh[place]

    def first_action(self, problem: TableProblem, state: TableState, observed: int) -> int:
        """Begin an episode of a host environment in state `observed`; the action to take."""
        return OnHost(self, problem, state).first_action(observed)

    def observe(
        self,
        problem: TableProblem,
        state: TableState,
        reward: float,
        following: int,
        terminated: bool,
        truncated: bool,
        tally: NDArray[np.float64],
    ) -> int:
        """Learn from one step of a host environment; the next action, which means nothing where the episode ended."""
        return OnHost(self, problem, state).observe(reward, following, terminated, truncated, tally)

    def policy(self, state: TableState) -> TablePolicy:
        """The greedy policy (a predictor's: the one that it predicts), with the behaviour and the table beside it."""
        problem, behaviour, values = state.problem, self.behaviour(state), self.table(state)
        actions = np.argmax(behaviour, axis=1) if self.predicts else greedy_actions(values, problem.available)
        return TablePolicy(
            actions.astype(np.int32),
            behaviour.astype(np.float32),
            values.copy(),
            FixedSpace(problem.observation_space),
            getattr(self, "bins", ()),
        )

    def policy_template(self, observation_space: Any, action_space: Any) -> TablePolicy:
        width = 1 if self.predicts else int(action_space.n)
        return policy_template(observation_space, action_space, getattr(self, "bins", ()), width)


class AbstractControl(AbstractTableLearner):
    """A learner of Q(s, a) that explores around it: the hyperparameters that all of them have."""

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
        exploration.check(self)
        check_common(self)

    def table(self, state: TableState) -> NDArray[np.float64]:
        return state.values

    def behaviour(self, state: TableState) -> NDArray[np.float64]:
        problem = state.problem
        out = np.zeros((problem.num_states, problem.num_actions))
        settings = settings_of(self, problem.budget, problem.time_limit)
        clock = int(state.place[CLOCK])
        behaviour(settings, state.values, state.visits, problem.available, problem.terminal, clock, out)
        return out


class AbstractPrediction(AbstractTableLearner):
    """A learner of V(s) of a given policy, which it follows: the hyperparameters that all of them have.

    The policy is `actions`, one per state, or what `follow` names; with probability ε it takes any action instead.
    """

    predicts: ClassVar[bool] = True

    discount: float = 0.99
    step_size: float = 0.1
    step_size_schedule: StepSizeSchedule = "constant"
    step_size_power: float = 0.8
    follow: Literal["uniform", "optimal"] = "uniform"
    actions: tuple[int, ...] = ()
    epsilon: float = 0.0
    initial_value: float = 0.0
    bins: tuple[int, ...] = ()
    gap: Gap = "auto"

    def check_fields(self) -> None:
        fraction("epsilon", self.epsilon)
        check_common(self)

    def running(self, problem: TableProblem) -> NDArray[np.float64]:
        """The given policy as running sums over actions, float64 [S, A], as kernels follow it."""
        return running_sums(given_policy(self.follow, self.actions, self.epsilon, problem))

    def table(self, state: TableState) -> NDArray[np.float64]:
        return state.values

    def behaviour(self, state: TableState) -> NDArray[np.float64]:
        return given_policy(self.follow, self.actions, self.epsilon, state.problem)


def check_common(learner: Any) -> None:
    """The checks of hyperparameters that many learners have, wherever this one has them."""
    step_sizes.check(learner.step_size, learner.step_size_schedule, learner.step_size_power)
    if not np.isfinite(learner.initial_value):
        raise BadInput(f"initial_value is {learner.initial_value}; allowed: any finite number")
    if hasattr(learner, "trace_decay"):
        fraction("trace_decay", learner.trace_decay)
    for name, least in {"n": 1, "planning_steps": 0, "longest_episode": 1}.items():
        if hasattr(learner, name):
            at_least(least, **{name: getattr(learner, name)})
    for name in ("bonus", "priority_threshold"):
        if hasattr(learner, name):
            at_least(0, **{name: getattr(learner, name)})


def episode_metrics(tally: NDArray[np.float64]) -> dict[str, float]:
    """Count, mean return, its standard deviation and mean length of the episodes added up in `tally`."""
    count = float(tally[COUNT])
    if count == 0:
        nan = float("nan")
        return {"episode/count": 0.0, "episode/return": nan, "episode/return_std": nan, "episode/length": nan}
    mean = float(tally[RETURN]) / count
    spread = max(float(tally[SQUARE]) / count - mean * mean, 0.0)
    return {
        "episode/count": count,
        "episode/return": mean,
        "episode/return_std": spread**0.5,
        "episode/length": float(tally[STEPS]) / count,
    }
