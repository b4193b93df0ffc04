"""Many seeds of a table learner on a finite model, in parallel threads, looked at episode by episode or along the way.

The learners and their loop are those of `bellmark train`; only when they are looked at is decided here.
"""

import inspect
import types
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from bellmark.algorithms.tabular.base import AbstractTableLearner, TableState
from bellmark.algorithms.tabular.kernels import kernel
from bellmark.algorithms.tabular.problem import TableProblem
from bellmark.mdp.model import FiniteMDP
from bellmark.run.machine import cores

from .base import Float

MOST_STEPS = 1_000_000
"""An episode that takes longer is given up; it and those after it are NaN."""


class Episodes(NamedTuple):
    """`returns` and `lengths` [seeds, episodes]; `tables` [seeds, episodes, S, W], the estimates after each."""

    returns: Float
    lengths: Float
    tables: Float


def by_episode(
    learner: AbstractTableLearner,
    mdp: FiniteMDP,
    seeds: Sequence[int],
    episodes: int,
    *,
    keep_tables: bool = False,
) -> Episodes:
    """Let every seed learn for `episodes` episodes."""
    problem = TableProblem.sampled(mdp)
    learn = _episodes_of(type(learner))

    def one(seed: int) -> tuple[Float, Float, Float]:
        state = learner.init(problem, seed)
        returns, lengths = np.full(episodes, np.nan), np.full(episodes, np.nan)
        kept = np.zeros((episodes if keep_tables else 0, *state.values.shape))
        learn(
            learner.settings(problem),
            problem.tables,
            state.values,
            state.visits,
            problem.available,
            state.place,
            state.running,
            state.generator,
            np.zeros(4),
            MOST_STEPS,
            state.memory,
            returns,
            lengths,
            kept,
        )
        return returns, lengths, kept

    columns = [np.stack(column) for column in zip(*in_parallel(one, seeds), strict=True)]
    return Episodes(*columns)


def along_the_way(
    learner: AbstractTableLearner,
    mdp: FiniteMDP,
    seeds: Sequence[int],
    steps: Float,
    look: Callable[[AbstractTableLearner, TableState], Sequence[float]],
) -> Float:
    """What `look` sees after each of `steps` environment steps (increasing): float64 [numbers, seeds, points]."""
    problem = TableProblem.sampled(mdp, int(steps[-1]))

    def one(seed: int) -> list[Sequence[float]]:
        state, seen, done = learner.init(problem, seed), [], 0
        for until in steps.astype(int).tolist():
            learner.step(problem, state, until - done)
            seen.append(look(learner, state))
            done = until
        return seen

    return np.moveaxis(np.array(in_parallel(one, seeds), np.float64), -1, 0)


def in_parallel(one: Callable[[int], Any], seeds: Sequence[int]) -> list[Any]:
    """`one` of every seed, in threads: the kernels hold no lock. The first seed goes alone, because it may compile."""
    first = one(seeds[0])
    with ThreadPoolExecutor(max(1, cores())) as pool:
        return [first, *pool.map(one, seeds[1:])]


def _learn_episodes(
    settings: Any,
    tables: Any,
    values: Any,
    visits: Any,
    available: Any,
    place: Any,
    running: Any,
    generator: Any,
    tally: Any,
    most: int,
    memory: Any,
    returns: Any,
    lengths: Any,
    kept: Any,
) -> None:
    for episode in range(len(returns)):
        for entry in range(len(tally)):
            tally[entry] = 0.0
        for _ in range(most):
            loop(settings, tables, values, visits, available, place, running, generator, tally, 1, memory)
            if tally[0] > 0.0:
                break
        if tally[0] == 0.0:
            return
        returns[episode], lengths[episode] = tally[1], tally[3]
        if len(kept) > 0:
            for s in range(values.shape[0]):
                for a in range(values.shape[1]):
                    kept[episode, s, a] = values[s, a]


@cache
def _episodes_of(learner: type[AbstractTableLearner]) -> Any:
    """`_learn_episodes` compiled around a learner's loop, under a name of its own: see `loop_around`."""
    name = f"episodes_of_{learner.loop.py_func.__name__}"
    source = inspect.getfile(_learn_episodes)
    code = _learn_episodes.__code__.replace(co_filename=source, co_name=name, co_qualname=name)
    function = types.FunctionType(code, {**globals(), "loop": learner.loop}, name)
    function.__qualname__ = name
    return kernel(function)
