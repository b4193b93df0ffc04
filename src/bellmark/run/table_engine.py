"""What advances table learners: the same methods as `CompiledEngine`, so that the one loop drives them, too.

    SampledEngine    finite models, sampled inside a kernel; one seed or two per thread, the model shared and read-only
    SteppedEngine    Gymnasium environments, stepped in Python; one environment per seed, seeds in turn

A row of metrics is the episodes that ended in it and, where the model is known, how far the policy at its end is from
the exact optimum (`yardstick`). Neither the number of rows nor the other seeds changes a bit of any seed's result.
"""

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from bellmark.algorithms.exact import solve
from bellmark.algorithms.tabular.base import AbstractTableLearner, OnHost, TableState, episode_metrics
from bellmark.algorithms.tabular.exploration import greedy_actions
from bellmark.algorithms.tabular.loop import ACTION, STATE
from bellmark.algorithms.tabular.problem import TableProblem
from bellmark.envs import spaces
from bellmark.envs.gymnasium import HostEnvironments
from bellmark.envs.registry import TWINS, Resolved
from bellmark.envs.to_gymnasium import ToGymnasium
from bellmark.errors import BadInput
from bellmark.mdp.model import FiniteMDP
from bellmark.run.machine import cores
from bellmark.run.rows import PARAMETERS
from bellmark.run.yardstick import Yardstick

Rows = dict[str, np.ndarray]


def open_tables(
    learner: AbstractTableLearner, environment: Resolved, config: dict[str, Any], timeout: float
) -> Any:
    """The engine for a table learner: sampled where the model is known, unless Gymnasium itself was asked for."""
    seeds, row_every, budget = config["seeds"], config["row_every"], config["steps"]
    mdp = known_model(environment)
    yardstick, notes = _yardstick(learner, mdp)
    if mdp is not None and not environment.id.startswith("gymnasium:"):
        problem = TableProblem.sampled(mdp, budget, environment.time_limit)
        problem = dataclasses.replace(problem, optimal=_optimal(learner, mdp))
        if environment.mdp is None:
            notes = [f"{environment.id} publishes its table, which is sampled in its place", *notes]
        return SampledEngine(learner, problem, seeds, row_every, yardstick, notes)
    make = _factory(environment)
    opened: list[HostEnvironments] = []
    try:
        # one by one, so that what was opened is closed where the next one fails
        for _ in seeds:
            opened.append(HostEnvironments(make, 1, environment.id, timeout))  # noqa: PERF401
        space = opened[0].action_space
        assert isinstance(space, gymnasium.spaces.Discrete)
        bins = getattr(learner, "bins", ())
        problem = TableProblem.stepped(
            opened[0].observation_space, space, bins, budget, environment.time_limit, mdp
        )
        problem = dataclasses.replace(problem, optimal=_optimal(learner, mdp))
        if mdp is None:
            notes = [f"{problem.num_states:,} states × {problem.num_actions} actions, stepped in Gymnasium"]
        return SteppedEngine(learner, problem, seeds, row_every, opened, yardstick, notes)
    except BaseException:
        for environments in opened:
            environments.close()
        raise


def known_model(environment: Resolved) -> FiniteMDP | None:
    """The exact model of an environment: its own, or the table that Gymnasium's toy texts publish."""
    if environment.mdp is not None or environment.make is None or environment.kind != "gymnasium":
        return environment.mdp
    made = environment.make()
    try:
        return FiniteMDP.from_gymnasium(made) if hasattr(made.unwrapped, "P") else None
    except BadInput:
        return None
    finally:
        made.close()


def _yardstick(learner: Any, mdp: FiniteMDP | None) -> tuple[Yardstick | None, list[str]]:
    if mdp is None or learner.gap == "off":
        return None, []
    try:
        return Yardstick(mdp, learner.discount), []
    except BadInput as error:
        if learner.gap == "on":
            raise BadInput(f"gap is 'on': {error}; or gap='off'") from None
        return None, [f"no exact gap is shown: {error}"]


def _optimal(learner: Any, mdp: FiniteMDP | None) -> np.ndarray | None:
    """An optimal policy, where a predictor asks for it."""
    wanted = learner.predicts and learner.follow == "optimal" and mdp is not None
    return solve(mdp, learner.discount, tolerance=1e-9).policy if wanted else None  # type: ignore[arg-type]


def _factory(environment: Resolved) -> Callable[[], gymnasium.Env]:
    if environment.make is not None:
        return environment.make
    if environment.id in TWINS:
        options = environment.options
        return lambda: gymnasium.make(environment.id, disable_env_checker=True, **options)
    compiled: Any = environment.compiled
    return lambda: ToGymnasium(compiled)


class _Engine:
    """What the two engines share: the rows, and states that need no care."""

    interruptible = False

    def __init__(
        self,
        learner: AbstractTableLearner,
        problem: TableProblem,
        seeds: Sequence[int],
        row_every: int,
        yardstick: Yardstick | None,
        notes: Sequence[str],
    ):
        self.learner, self.problem, self.row_every = learner, problem, row_every
        # functions, not methods: a module wraps a method anew at each look-up, which would cost more than a row
        kind = type(learner)
        self._table, self._behaviour = partial(kind.table, learner), partial(kind.behaviour, learner)
        self._step_one = partial(kind.step, learner)
        self.seeds, self.yardstick, self.notes = list(seeds), yardstick, list(notes)

    def measured(self, state: TableState) -> dict[str, float]:
        """Whether the table is sound, and how far it is from the exact answer, where that is known."""
        table = self._table(state)
        columns = {PARAMETERS: float(np.count_nonzero(~np.isfinite(table)))}
        if self.yardstick is None or columns[PARAMETERS] > 0:
            return columns
        behaviour = self._behaviour(state)
        if self.learner.predicts:
            return {**columns, **self.yardstick.prediction(table, behaviour)}
        actions = greedy_actions(table, self.problem.available)
        return {**columns, **self.yardstick.control(table, actions, behaviour)}


class SampledEngine(_Engine):
    """Seeds of one table learner on one finite model."""

    def __init__(self, *arguments: Any):
        _Engine.__init__(self, *arguments)
        self.seconds = {"train": 0.0}
        self._pool = concurrent.futures.ThreadPoolExecutor(max(1, min(cores(), len(self.seeds))))

    def template(self) -> list[TableState]:
        return self.start()

    def start(self) -> list[TableState]:
        return [self.learner.init(self.problem, seed) for seed in self.seeds]

    def compile(self, states: list[TableState]) -> None:
        """Compile, or find on the disk, what `advance` calls."""

        def once() -> None:
            for size in {len(group) for group in self._groups(states)}:
                self._step([self.learner.init(self.problem, seed) for seed in range(size)], 1)

        self._pool.submit(once).result()

    def advance(self, states: list[TableState], iterations: int) -> tuple[list[TableState], Rows]:
        """`iterations` more steps of every seed, in rows of `row_every`; the last row may be shorter."""
        began = time.perf_counter()

        def run(group: list[TableState]) -> list[list[dict[str, float]]]:
            rows: list[list[dict[str, float]]] = [[] for _ in group]
            for first in range(0, iterations, self.row_every):
                steps = min(self.row_every, iterations - first)
                episodes = self._step(group, steps)
                for place, state in enumerate(group):
                    rows[place].append({**episodes[place], **self.measured(state)})
            return rows

        tables = [rows for group in self._pool.map(run, self._groups(states)) for rows in group]
        self.seconds["train"] += time.perf_counter() - began
        return states, _stacked(tables)

    def _groups(self, states: list[TableState]) -> list[list[TableState]]:
        """What one thread advances together: two seeds where no core would be idle then and the learner can."""
        together = 2 if type(self.learner).loop_of_two is not None and len(states) > cores() else 1
        return [states[place : place + together] for place in range(0, len(states), together)]

    def _step(self, group: list[TableState], steps: int) -> list[dict[str, float]]:
        if len(group) == 2:
            return type(self.learner).step_two(self.learner, self.problem, group, steps)
        return [self._step_one(self.problem, state, steps)[1] for state in group]

    def captured(self, states: list[TableState]) -> list[TableState]:
        return states

    def restored(self, states: list[TableState]) -> list[TableState]:
        return states

    def rewound(self, states: list[TableState]) -> list[TableState]:
        return states

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class SteppedEngine(_Engine):
    """Seeds of one table learner on Gymnasium environments, one environment each."""

    def __init__(
        self,
        learner: AbstractTableLearner,
        problem: TableProblem,
        seeds: Sequence[int],
        row_every: int,
        environments: Sequence[HostEnvironments],
        yardstick: Yardstick | None,
        notes: Sequence[str],
    ):
        _Engine.__init__(self, learner, problem, seeds, row_every, yardstick, notes)
        self.environments = list(environments)
        self.seconds = {"train": 0.0}
        self._before: list[TableState] = []
        for seed, environment in zip(self.seeds, self.environments, strict=True):
            environment.reset(seeds=np.random.SeedSequence(seed).generate_state(1) & 0x7FFFFFFF)

    @property
    def restorable(self) -> bool:
        return all(environment.can_restore for environment in self.environments)

    def template(self) -> list[TableState]:
        return self.captured([self.learner.init(self.problem, seed) for seed in self.seeds])

    def start(self) -> list[TableState]:
        return self.template()

    def compile(self, states: list[TableState]) -> None:
        """The kernels compile with the first step."""

    def advance(self, states: list[TableState], iterations: int) -> tuple[list[TableState], Rows]:
        """`iterations` more steps of every seed. After an interrupt `rewound` leads back to where this began."""
        began = time.perf_counter()
        self._before = [_copied(state) for state in self.captured(states)] if self.restorable else []
        tables: list[list[dict[str, float]]] = []
        for environment, state in zip(self.environments, states, strict=True):
            rows = []
            learner = OnHost(self.learner, self.problem, state)
            for first in range(0, iterations, self.row_every):
                tally = np.zeros(4)
                for _ in range(min(self.row_every, iterations - first)):
                    self._step(environment, learner, state.place, tally)
                rows.append({**episode_metrics(tally), **self.measured(state)})
            tables.append(rows)
        self.seconds["train"] += time.perf_counter() - began
        return states, _stacked(tables)

    def _step(
        self, environment: HostEnvironments, learner: OnHost, place: np.ndarray, tally: np.ndarray
    ) -> None:
        if place[STATE] < 0:
            learner.first_action(self._observed(environment.observations))
        self.interruptible = True
        action = spaces.clip_action(self.problem.action_space, place[ACTION : ACTION + 1])
        following, reward, terminated, truncated = environment.step(action)
        self.interruptible = False
        over = bool(terminated[0]), bool(truncated[0]) and not bool(terminated[0])
        learner.observe(float(reward[0]), self._observed(following), *over, tally)
        if any(over):
            self.interruptible = True
            observation = environment.reset(mask=np.ones(1, np.bool_))
            self.interruptible = False
            learner.first_action(self._observed(observation))

    def _observed(self, observation: Any) -> int:
        return int(np.asarray(self.problem.index(observation))[0])

    def captured(self, states: list[TableState]) -> list[TableState]:
        if not self.restorable:
            return states
        return [
            dataclasses.replace(state, environment=environment.get_state())
            for environment, state in zip(self.environments, states, strict=True)
        ]

    def restored(self, states: list[TableState]) -> list[TableState]:
        """Put the environments back, or begin new episodes where they cannot be."""
        for environment, state in zip(self.environments, states, strict=True):
            if self.restorable:
                environment.set_state(state.environment)
            elif state.place[STATE] >= 0:
                self.learner.forget_episode(state)
                self.learner.first_action(self.problem, state, self._observed(environment.observations))
        return states

    def rewound(self, states: list[TableState]) -> list[TableState]:
        """The states as they were when `advance` was last called, and the environments with them if they can be."""
        return self.restored([_copied(state) for state in self._before]) if self.restorable else states

    def close(self) -> None:
        for environment in self.environments:
            environment.close()


def _copied(state: TableState) -> TableState:
    import jax

    return jax.tree.map(np.copy, state)


def _stacked(tables: list[list[dict[str, float]]]) -> Rows:
    """Rows of each seed as float64 [rows, seeds] by name."""
    return {
        name: np.array([[row.get(name, np.nan) for row in rows] for rows in tables], np.float64).T
        for name in tables[0][0]
    }
