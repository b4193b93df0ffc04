"""What advances many seeds by some rows of metrics, then comes back to the host.

    CompiledEngine    one program per seed, the whole loop inside it; seeds run side by side, one thread each
    HostEngine        Gymnasium environments: stepped in Python, all between two rollouts is one program

Both give `advance(states, rows) -> (states, metrics)`, and neither lets the number of rows, or the other seeds,
change a bit of any seed's result: a seed is always computed by the same program on arrays of the same shape.  On a
CPU that is also the fastest way, for a thread keeps a core busy where a batched matrix product of ten small networks
does not (`docs/decisions/0003-seeds-are-threads.md`); on an accelerator seeds are vmapped instead.
"""

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from bellmark.algorithms.base import AbstractAlgorithm, AbstractLearner
from bellmark.algorithms.replayed import sampling_bits
from bellmark.envs.gymnasium import HostEnvironments
from bellmark.experience.frames import FrameReplay
from bellmark.experience.host_replay import Handed, HostReplay
from bellmark.experience.host_rollout import (
    Answering,
    Asked,
    Asking,
    CompiledActor,
    HostProblem,
    Parcel,
    actor_for,
    play,
)
from bellmark.experience.prioritised import Priorities
from bellmark.experience.replay import Replay, whole_rollouts
from bellmark.experience.rollout import CompiledProblem, count_broken
from bellmark.experience.sequences import SequenceReplay
from bellmark.run.machine import cores
from bellmark.run.rows import BROKEN, PARAMETERS, average, merge, weigh
from bellmark.types import Episodes, Metrics

ROWS = 256
"""At most this many rows come back at once: the size of the compiled loop's buffer."""

MEMORIES = (Replay, FrameReplay, SequenceReplay, HostReplay, Priorities)
"""What is large and written in place."""

Rows = dict[str, np.ndarray]
"""Metrics by name, float64 [rows, seeds]."""


class CompiledEngine:
    """Seeds of one algorithm on one compiled environment."""

    def __init__(
        self, algorithm: AbstractAlgorithm, problem: CompiledProblem, seeds: Sequence[int], row_every: int
    ):
        self.algorithm, self.problem, self.row_every = algorithm, problem, row_every
        self.seeds = list(seeds)
        self.vectorised = jax.default_backend() != "cpu"
        self.seconds = {"train": 0.0}
        self.interruptible = False
        self._pool = concurrent.futures.ThreadPoolExecutor(max(1, min(cores(), len(self.seeds))))
        self._init = initialiser(algorithm, problem)
        self._program: Any = None

    def template(self) -> list[Any]:
        """The shapes of all states, without computing any."""
        shape = eqx.filter_eval_shape(self._init, self.problem, jax.random.key(0))
        return [shape for _ in self.seeds]

    def start(self) -> list[Any]:
        def begin(seed: int) -> Any:
            return self._init(self.problem, jax.random.key(seed))

        return [self._pool.submit(begin, seed).result() for seed in self.seeds]

    def compile(self, states: list[Any]) -> None:
        """Compile the training loop: the only compilation of the run, whatever the rows asked for later."""
        self._pool.submit(self._compile, states).result()

    def _compile(self, states: list[Any]) -> None:
        arrays, static = eqx.partition(self.problem, eqx.is_array)
        self._problem_arrays = arrays
        algorithm, row_every = self.algorithm, self.row_every

        def step(problem, state, sound):
            after, metrics = algorithm.step(problem, state)
            return after, watched(sound, after, metrics)

        def loop(arrays, state, iterations):
            problem = eqx.combine(arrays, static)
            sound = broken_numbers(state) == 0
            _, shapes = eqx.filter_eval_shape(step, problem, state, sound)
            sums = jax.tree.map(lambda x: jnp.zeros((), jnp.float32), weigh(shapes_to_zeros(shapes)))
            row = average(sums)
            buffer = jax.tree.map(lambda x: jnp.zeros((ROWS, *x.shape), jnp.float32), row)

            def one(_, carry):
                state, sums, sound = carry
                state, metrics = step(problem, state, sound)
                sound = metrics[PARAMETERS] == 0
                metrics = jax.tree.map(lambda x: x.astype(jnp.float32), weigh(metrics))
                return state, merge(sums, metrics), sound

            def one_row(index, carry):
                state, buffer, sound = carry
                length = jnp.minimum(row_every, iterations - index * row_every)
                state, added, sound = jax.lax.fori_loop(0, length, one, (state, sums, sound))
                row = average(added)
                return state, jax.tree.map(lambda b, x: b.at[index].set(x), buffer, row), sound

            rows = -(-iterations // row_every)
            return jax.lax.fori_loop(0, rows, one_row, (state, buffer, sound))[:2]

        over_seeds = jax.vmap(loop, in_axes=(None, 0, None)) if self.vectorised else loop
        sample = stack(states) if self.vectorised else states[0]
        self._program = jax.jit(over_seeds, donate_argnums=1).lower(arrays, sample, jnp.int32(1)).compile()

    def advance(self, states: list[Any], iterations: int) -> tuple[list[Any], Rows]:
        """`iterations` more of every seed, at most ROWS rows of `row_every`; the last row may be shorter."""
        began = time.perf_counter()
        rows = -(-iterations // self.row_every)
        assert 0 < rows <= ROWS
        count = jnp.int32(iterations)

        def run(state):
            state, buffer = self._program(self._problem_arrays, state, count)
            return state, jax.tree.map(np.asarray, buffer)

        if self.vectorised:
            state, buffer = self._pool.submit(run, stack(states)).result()
            states = [jax.tree.map(lambda x, i=i: x[i], state) for i in range(len(states))]
            buffers = [jax.tree.map(lambda x, i=i: x[i], buffer) for i in range(len(states))]
        else:
            states, buffers = zip(*self._pool.map(run, states), strict=True)  # type: ignore[assignment]
        self.seconds["train"] += time.perf_counter() - began
        return list(states), {
            name: np.stack([b[name][:rows] for b in buffers], axis=1).astype(np.float64)
            for name in buffers[0]
        }

    def captured(self, states: list[Any]) -> list[Any]:
        return states

    def restored(self, states: list[Any]) -> list[Any]:
        return states

    def rewound(self, states: list[Any]) -> list[Any]:
        return states

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class HostEngine:
    """Seeds of one learner on Gymnasium environments, one set of environments each, taken in turn."""

    def __init__(
        self,
        algorithm: AbstractLearner,
        problems: Sequence[HostProblem],
        seeds: Sequence[int],
        row_every: int,
        folder: Path | None = None,
    ):
        """With a `folder`, replay memories that are kept on the host are mapped from files in it."""
        self.algorithm, self.problems, self.row_every = algorithm, list(problems), row_every
        self.seeds = list(seeds)
        self.seconds = {"collect": 0.0, "update": 0.0}
        self.interruptible = False
        self.folder = folder
        begun: Any = algorithm
        self.hosted = getattr(algorithm, "replay_memory", "compiled") == "host"
        if self.hosted:
            # one rollout shows how the memory is laid out
            begun = dataclasses.replace(begun, replay_capacity=begun.steps_per_iteration(problems[0]))
        self._init = initialiser(begun, self._without_state(0))
        self._iteration: _HostIteration | _HandedIteration | None = None
        self._before: list[Any] = []
        self._pool = concurrent.futures.ThreadPoolExecutor(1)

    def template(self) -> list[Any]:
        shape = eqx.filter_eval_shape(self._init, self._without_state(0), jax.random.key(0))
        return self.captured([self._housed(shape) for _ in self.seeds])

    def _housed(self, state: Any) -> Any:
        """The first state, with its replay memory where it is to lie."""
        if not self.hosted:
            return state
        rollout = self.algorithm.steps_per_iteration(self.problems[0])
        capacity = whole_rollouts(self.algorithm.replay_capacity, rollout)  # type: ignore[attr-defined]
        return dataclasses.replace(state, replay=HostReplay.like(state.replay, capacity, self.folder))

    def start(self) -> list[Any]:
        def begin(index: int, seed: int) -> Any:
            return self._housed(self._init(self._without_state(index), jax.random.key(seed)))

        return self.captured(
            [self._pool.submit(begin, i, seed).result() for i, seed in enumerate(self.seeds)]
        )

    def _without_state(self, index: int) -> HostProblem:
        """A problem with one seed's first observations and no state of its environments.

        All seeds share the first one's static part, so that `init` compiles once; and the environments' float64 state
        never goes through a compiled function, which would round it.
        """
        own = self.problems[index]
        return dataclasses.replace(self.problems[0], observation=own.observation, mask=own.mask, state=None)

    def compile(self, states: list[Any]) -> None:
        """The update compiles with its first data."""

    def advance(self, states: list[Any], iterations: int) -> tuple[list[Any], Rows]:
        """`iterations` more of every seed; fewer where parameters break, which the rows then say.

        After an interrupt while environments were stepped, `rewound` leads back to where `advance` began.
        """
        # of replay memories copies, also where environments cannot be put back: what is given away is gone
        self._before = [_kept(s) for s in self.captured(states)]
        self.interruptible = True  # compiling may take long, and nothing of a row has been done
        if self._iteration is None:
            given = (self.algorithm, self._without_state(0), states[0])
            self._iteration = _HandedIteration(*given) if self.hosted else _HostIteration(*given)
        turns = [self._iteration.turn(p, s, self._pool) for p, s in zip(self.problems, states, strict=True)]
        self.interruptible = False
        table: list[list[dict[str, float]]] = []
        for first in range(0, iterations, self.row_every):
            length = min(self.row_every, iterations - first)
            table.append([self._row(turn, length) for turn in turns])
            if any(row[PARAMETERS] for row in table[-1]):
                break
        names = table[0][0]
        return [turn.state for turn in turns], {
            name: np.array([[row[name] for row in rows] for rows in table], np.float64) for name in names
        }

    def _row(self, turn: "_Turn | _HandedTurn", iterations: int) -> dict[str, float]:
        for _ in range(iterations):
            began = time.perf_counter()
            self.interruptible = True
            played = turn.play()
            self.interruptible = False
            collected = time.perf_counter()
            broken = turn.learn(played)
            self.seconds["collect"] += collected - began
            self.seconds["update"] += time.perf_counter() - collected
            if broken:
                break  # what such a policy does to an environment would be blamed on the environment
        return turn.row()

    def captured(self, states: list[Any]) -> list[Any]:
        return [_episodes(p.captured, s) for p, s in zip(self.problems, states, strict=True)]

    def restored(self, states: list[Any]) -> list[Any]:
        return [_episodes(p.restored, s) for p, s in zip(self.problems, states, strict=True)]

    def rewound(self, states: list[Any]) -> list[Any]:
        """The states as they were when `advance` was last called, and the environments with them if they can be."""
        before = [_changed(HostReplay, HostReplay.undone, state) for state in self._before]
        return self.restored(before) if self.restorable else before

    @property
    def restorable(self) -> bool:
        return all(problem.environments.can_restore for problem in self.problems)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for problem in self.problems:
            problem.environments.close()


class _HostIteration:
    """A learner's iteration on Gymnasium environments, compiled from a rollout's last step to the next one's first.

        ask      state → what the environments' steps need: policy, random numbers, episodes in flight
        learn    state, sums, what was played → state, sums with this iteration's metrics, what the next steps need

    The learner's own `collect` is traced up to where it would have environments stepped, and again from there on.
    States are flat lists of arrays here, replay memories apart: to walk through a tree of modules takes as long as the
    step of an environment.
    """

    def __init__(self, algorithm: AbstractLearner, problem: HostProblem, state: Any):
        self._algorithm, self._problem = algorithm, problem
        numbers = _without_environments(state)
        self._tree: Any = jax.tree.structure(numbers)
        self._memory = jax.tree.leaves(_in_memory(numbers))
        asked = jax.eval_shape(self._asked, *self.parted(state))
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), asked[0])
        self.acts_compiled = isinstance(actor_for(self.policy(zeros)), CompiledActor)
        self._parcel = Parcel((jnp.int32(0), None if self.acts_compiled else asked[0], *asked[1:]))
        self._zeros: Metrics | None = None
        self._update = jax.jit(self._updated)
        self.ask = jax.jit(self._ask)
        # the replay is given away, so that it is written in place and not copied at every update
        self._compiled_learn = jax.jit(self._learn, donate_argnums=0)
        self.compiled = False

    def turn(self, problem: HostProblem, state: Any, pool: Any) -> "_Turn":
        return _Turn(self, problem.environments, state, pool)

    def learn(self, memories: list, rest: list, sums: Metrics | None, played: Any) -> tuple:
        if self._zeros is None:
            _, _, shapes = jax.eval_shape(self._update, memories, rest, played)
            self._zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        return self._compiled_learn(memories, rest, self._zeros if sums is None else sums, played)

    def parted(self, state: Any) -> tuple[list, list]:
        """The arrays of `state`: those of replay memories, and all others."""
        leaves, tree = jax.tree.flatten(_without_environments(state))
        if self._tree != tree:
            raise TypeError(
                f"a state of {self._algorithm.name} has changed its structure: {self._tree} to {tree}"
            )
        memories = [leaf for leaf, inside in zip(leaves, self._memory, strict=True) if inside]
        return memories, [leaf for leaf, inside in zip(leaves, self._memory, strict=True) if not inside]

    def joined(self, memories: list, rest: list) -> Any:
        first, second = iter(memories), iter(rest)
        return jax.tree.unflatten(self._tree, [next(first if inside else second) for inside in self._memory])

    def policy(self, leaves: list) -> Any:
        """The policy that was asked with, of these arrays."""
        arrays = iter(leaves)
        fixed = [next(arrays) if leaf is None else leaf for leaf in self._policy_fixed]
        return jax.tree.unflatten(self._policy_tree, fixed)

    def opened(self, asked: tuple) -> tuple[int, Any, Any, Any]:
        """How many parameters are broken; policy, random numbers and episodes in flight as NumPy arrays."""
        compiled, *parcel = asked
        broken, policy, randomness, flight = self._parcel.unpack(*parcel)
        return int(broken), self.policy(compiled if self.acts_compiled else policy), randomness, flight

    def _asked(self, memories: list, rest: list) -> tuple[list, Any, Any]:
        try:
            self._algorithm.collect(Asking(self._problem), self.joined(memories, rest))
        except Asked as asked:
            leaves, self._policy_tree = jax.tree.flatten(asked.policy)
            self._policy_fixed = [None if eqx.is_array(leaf) else leaf for leaf in leaves]
            self.length = asked.length
            return [leaf for leaf in leaves if eqx.is_array(leaf)], asked.randomness, asked.flight
        raise TypeError(f"{self._algorithm.name}'s collect asked for no rollout")

    def _ask(self, memories: list, rest: list, broken: Any = 0) -> tuple:
        policy, randomness, flight = self._asked(memories, rest)
        broken = jnp.asarray(broken, jnp.int32)
        if self.acts_compiled:
            return policy, *self._parcel.pack((broken, None, randomness, flight))
        return None, *self._parcel.pack((broken, policy, randomness, flight))

    def _updated(self, memories: list, rest: list, played: Any) -> tuple[list, list, Metrics]:
        problem = Answering(self._problem, played)
        state, data = self._algorithm.collect(problem, self.joined(memories, rest))
        after, metrics = self._algorithm.update(state, data)
        # a row ends with the first update that breaks parameters, so this one began with sound ones;
        # the barriers keep metrics from being rounded in other ways than where each is computed by itself
        metrics = jax.lax.optimization_barrier(watched(True, after, metrics))
        return *self.parted(after), jax.lax.optimization_barrier(weigh(metrics))

    def _learn(self, memories: list, rest: list, sums: Metrics, played: Any) -> tuple:
        memories, rest, added = self._update(memories, rest, played)
        sums = merge(sums, added)
        return memories, rest, sums, self._ask(memories, rest, sums[PARAMETERS])


class _Turn:
    """One seed on its way through `advance`."""

    def __init__(self, iteration: _HostIteration, environments: HostEnvironments, state: Any, pool: Any):
        self._iteration, self._environments, self._pool = iteration, environments, pool
        self._kept = _episode_states(state)  # the environments' own: float64, never compiled
        self._memories, self._rest = iteration.parted(state)
        self._sums: Metrics | None = None
        asked = pool.submit(iteration.ask, self._memories, self._rest).result()
        _, self._policy, self._randomness, self._flight = iteration.opened(asked)

    def play(self) -> Any:
        actor = actor_for(self._policy)
        return play(self._environments, actor, self._randomness, self._flight, self._iteration.length)

    def learn(self, played: Any) -> int:
        """How many parameters are broken now."""
        given = (self._memories, self._rest, self._sums, played)
        if self._iteration.compiled:
            learned = self._iteration.learn(*given)
        else:  # to compile would keep the main thread, and with it Ctrl-C, waiting
            learned = self._pool.submit(self._iteration.learn, *given).result()
            self._iteration.compiled = True
        self._memories, self._rest, self._sums, asked = learned
        broken, self._policy, self._randomness, self._flight = self._iteration.opened(asked)
        return broken

    def row(self) -> dict[str, float]:
        """The metrics since the last row."""
        row, self._sums = _row_of(self._sums), None
        return row

    @property
    def state(self) -> Any:
        kept = iter(self._kept)
        state = self._iteration.joined(self._memories, self._rest)
        return _episodes(lambda e: dataclasses.replace(e, state=next(kept)), state)


class _HandedIteration:
    """The same for a replay memory that is kept on the host: what an update takes from it is handed to it.

    Only the update is compiled, for the memory is written and read between the steps and the update.
    """

    def __init__(self, algorithm: AbstractLearner, problem: HostProblem, state: Any):
        del problem, state
        self.algorithm = algorithm
        self._bits = jax.jit(
            lambda key, transitions: sampling_bits(algorithm, key, transitions), static_argnums=1
        )
        self._update = jax.jit(self._watched_update)
        self._compiled = False

    def turn(self, problem: HostProblem, state: Any, pool: Any) -> "_HandedTurn":
        return _HandedTurn(self, problem, state, pool)

    def updated(self, state: Any, data: Any, pool: Any) -> tuple[Any, Metrics]:
        """The update, which the environments' own state goes around; its compilation leaves the main thread free."""
        rollout, _, begun = data
        replay = state.replay.add(rollout, begun)
        bits = np.asarray(self._bits(state.key, rollout.transition.reward.size))
        handed = replay.handed(bits, self.algorithm.n_step)  # type: ignore[attr-defined]
        given = (dataclasses.replace(_without_environments(state), replay=handed), data)
        if self._compiled:
            after, metrics = self._update(*given)
        else:
            after, metrics = pool.submit(self._update, *given).result()
            self._compiled = True
        kept = iter(_episode_states(state))
        after = _episodes(lambda e: dataclasses.replace(e, state=next(kept)), after)
        return dataclasses.replace(after, replay=replay), metrics

    def _watched_update(self, state: Any, data: Any) -> tuple[Any, Metrics]:
        after, metrics = self.algorithm.update(state, data)
        # what was handed in for it does not come back; for what is watched see `_HostIteration`
        return _changed(Handed, lambda _: None, after), weigh(watched(True, after, metrics))


class _HandedTurn:
    """One seed on its way through `advance`, with a replay memory on the host."""

    def __init__(self, iteration: _HandedIteration, problem: HostProblem, state: Any, pool: Any):
        self._iteration, self._problem, self._pool, self.state = iteration, problem, pool, state
        self._sums: Metrics | None = None

    def play(self) -> tuple[Any, Any]:
        return self._iteration.algorithm.collect(self._problem, self.state)

    def learn(self, played: tuple[Any, Any]) -> int:
        """How many parameters are broken now."""
        self.state, added = self._iteration.updated(*played, self._pool)
        self._sums = added if self._sums is None else _merge(self._sums, added)
        return int(self._sums[PARAMETERS])

    def row(self) -> dict[str, float]:
        """The metrics since the last row."""
        row, self._sums = _row_of(self._sums), None
        return row


def _row_of(sums: Metrics | None) -> dict[str, float]:
    return {name: float(value) for name, value in _average(sums).items()}


Engine = CompiledEngine | HostEngine

_merge = jax.jit(merge)
_average = jax.jit(average)


def initialiser(algorithm: AbstractAlgorithm | AbstractLearner, problem: Any) -> Callable[[Any, Any], Any]:
    """`algorithm.init`, compiled for `problem` and others that differ from it in arrays alone.

    What `eqx.filter_jit` compiles is kept as long as the process, and a few hundred runs would leave it without room.
    """

    def is_array(leaf: Any) -> bool:
        return isinstance(leaf, jax.Array | np.ndarray)

    static = eqx.filter(problem, is_array, inverse=True)
    compiled = jax.jit(lambda arrays, key: algorithm.init(eqx.combine(arrays, static), key))
    return lambda problem, key: compiled(eqx.filter(problem, is_array), key)


def stack(states: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def shapes_to_zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def watched(sound: Any, after: Any, metrics: Metrics) -> Metrics:
    """`metrics` with how much of the state an iteration left broken; `sound`: it began with finite numbers.

    What an environment returns to a policy whose parameters were broken before is not the environment's fault, so its
    own count of NaN and infinite numbers is kept only for iterations that began with finite ones.
    """
    kept = {
        name: jnp.where(sound, value, 0) if name.startswith(BROKEN) else value
        for name, value in metrics.items()
    }
    return {**kept, PARAMETERS: broken_numbers(after)}


def broken_numbers(state: Any) -> Int[Array, ""]:
    """How many numbers of a state are NaN or infinite, episodes in flight and replay memories left aside.

    What goes into a replay was counted as it came; to count all of it at every step would cost more than the step.
    """
    state = _changed(Handed, lambda handed: None, state)
    return count_broken(_replays(lambda replay: None, _episodes(lambda episodes: None, state)))


def _episode_states(state: Any) -> list[Any]:
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Episodes))
    return [leaf.state for leaf in leaves if isinstance(leaf, Episodes)]


def _episodes(change: Callable[[Episodes], Any], state: Any) -> Any:
    """`state` with `change` applied to the episodes in flight, wherever the algorithm keeps them."""
    return _changed(Episodes, change, state)


def _replays(change: Callable[[Any], Any], state: Any) -> Any:
    """`state` with `change` applied to the replay memories and their priorities."""
    return _changed(MEMORIES, change, state)


def _changed(kind: Any, change: Callable[[Any], Any], state: Any) -> Any:
    return jax.tree.map(
        lambda x: change(x) if isinstance(x, kind) else x, state, is_leaf=lambda x: isinstance(x, kind)
    )


def _in_memory(state: Any) -> Any:
    """For every array of `state` whether it is a replay memory's."""
    return jax.tree.map(
        lambda x: jax.tree.map(lambda _: isinstance(x, MEMORIES), x),
        state,
        is_leaf=lambda x: isinstance(x, MEMORIES),
    )


def _without_environments(state: Any) -> Any:
    """`state` without the environments' own, which goes around everything compiled."""
    return _episodes(lambda episodes: dataclasses.replace(episodes, state=None), state)


def _kept(state: Any) -> Any:
    """`state`, with replay memories of its own: those of the state that goes on will be written over."""

    def kept(memory: Any) -> Any:
        return memory.marked() if isinstance(memory, HostReplay) else jax.tree.map(jnp.copy, memory)

    return _replays(kept, state)
