"""What advances actors that really run at the same time: K threads, one shared learner, and whoever is first.

    every thread k, until the gradients asked for have all been pushed
        gradient ← a rollout and a gradient under what k pulled last            side by side, outside the lock
        learner ← learner after the gradient;  staleness ← versions since;  pull        one at a time

Which thread is first is up to the machine, so no two runs are equal.  What is promised: every gradient that was begun
is pushed, once, before `advance` returns; a checkpoint holds what every actor had pulled, of which version, and its
episodes in flight; and a resumed run goes on from there, nothing lost and nothing done twice.
"""

import concurrent.futures
import threading
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bellmark.algorithms.policy_gradient.a3c import A3C, A3CState, Actors, acting
from bellmark.experience.rollout import CompiledProblem, episode_metrics
from bellmark.run.engine import CompiledEngine, Rows, broken_numbers
from bellmark.run.rows import PARAMETERS, average, merge, weigh


class AsynchronousEngine:
    """Seeds of A3C on one compiled environment, one after another, each with K threads."""

    notes = (
        "actors are threads: what is learned depends on which of them is first, so this run cannot be repeated exactly",
    )

    def __init__(self, algorithm: A3C, problem: CompiledProblem, seeds: Sequence[int], row_every: int):
        self.algorithm, self.problem, self.row_every = algorithm, problem, row_every
        self.seeds = list(seeds)
        self.seconds = {"train": 0.0}
        self.interruptible = False
        self._simulated = CompiledEngine(algorithm, problem, seeds, row_every)
        self._pool = concurrent.futures.ThreadPoolExecutor(algorithm.actors)
        # one call each per gradient: whatever else Python did would be done by one thread at a time
        self._act, self._push = jax.jit(self._acted), jax.jit(self._pushed)
        self._nothing: Any = None

    def template(self) -> list[Any]:
        return self._simulated.template()

    def start(self) -> list[Any]:
        return self._simulated.start()

    def compile(self, states: list[Any]) -> None:
        """The two programs; one gradient is taken and thrown away."""
        state = states[0]
        networks, episodes = _of_actor(0, state, self.algorithm.actors)
        made = self._act(networks, state.inputs, episodes, state.key, jnp.int32(0))
        weighed = weigh({**made[2], "staleness/mean": jnp.float32(0)})
        self._nothing = jax.tree.map(lambda x: jnp.zeros((), jnp.float32), weighed)
        version, zero = state.actors.version[0], jnp.float32(0)
        self._push(state.learner, state, made[0], made[2], version, self._nothing, zero)

    def _acted(self, networks, inputs, episodes, key, turn):
        """One actor's part: a rollout and a gradient under what it pulled."""
        key = jax.random.fold_in(key, turn)
        policy = acting(inputs, networks)
        length = self.algorithm.rollout_length
        episodes, rollout, finished = self.problem.rollout(policy, episodes, key, length)
        gradient, metrics = self.algorithm.gradient(networks, inputs, rollout)
        return gradient, episodes, {**episode_metrics(finished), **metrics}

    def _pushed(self, learner, state, gradient, metrics, version, sums, largest):
        """The learner's part: one gradient more, and what is known of it."""
        staleness = (learner.version - version).astype(jnp.float32)
        metrics = jax.tree.map(
            lambda x: x.astype(jnp.float32), weigh({**metrics, "staleness/mean": staleness})
        )
        learner = self.algorithm.pushed(learner, gradient, self.algorithm.learning_rate_at(state))
        return learner, merge(sums, metrics), jnp.maximum(largest, staleness)

    def advance(self, states: list[Any], iterations: int) -> tuple[list[Any], Rows]:
        """`iterations` × K more gradients for every seed; the threads meet only at the end."""
        began = time.perf_counter()
        results = [self._advance(state, iterations) for state in states]
        self.seconds["train"] += time.perf_counter() - began
        after, tables = zip(*results, strict=True)
        rows = range(len(tables[0]))
        return list(after), {
            name: np.array([[rows_of[i][name] for rows_of in tables] for i in rows], np.float64)
            for name in tables[0][0]
        }

    def _advance(self, state: A3CState, iterations: int) -> tuple[A3CState, list[dict[str, float]]]:
        count = self.algorithm.actors
        key, actors_key = jax.random.split(state.key)
        board = _Board(self._push, state, self._nothing, iterations, self.row_every)
        each = self._pool.map(
            lambda k: self._actor(k, board, state, jax.random.fold_in(actors_key, k)), range(count)
        )
        networks, versions, episodes = zip(*each, strict=True)
        after = A3CState(
            inputs=state.inputs,
            learner=board.learner,
            actors=Actors(jax.tree.map(lambda *x: jnp.stack(x), *networks), jnp.stack(versions)),
            episodes=jax.tree.map(lambda *x: jnp.concatenate(x), *episodes),
            key=key,
            iteration=state.iteration + iterations,
            horizon=state.horizon,
        )
        rows = [{name: float(x) for name, x in average(sums).items()} for sums, _ in board.rows]
        broken = float(broken_numbers(after))
        for row, (_, largest) in zip(rows, board.rows, strict=True):
            row.update({"staleness/largest": float(largest), PARAMETERS: broken})
        return after, rows

    def _actor(self, k: int, board: "_Board", state: A3CState, key: Any) -> tuple[Any, Any, Any]:
        """Act and push until all gradients are taken: what was pulled last, its version, the episodes in flight."""
        networks, episodes = _of_actor(k, state, self.algorithm.actors)
        version, turn = state.actors.version[k], 0
        while board.take():
            made = self._act(networks, state.inputs, episodes, key, np.int32(turn))
            gradient, episodes, metrics = jax.block_until_ready(made)
            networks, version = board.push(gradient, metrics, version)
            turn += 1
        return networks, version, episodes

    def captured(self, states: list[Any]) -> list[Any]:
        return states

    def restored(self, states: list[Any]) -> list[Any]:
        return states

    def rewound(self, states: list[Any]) -> list[Any]:
        return states

    def close(self) -> None:
        self._simulated.close()
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Board:
    """What the threads share: the learner, how many gradients are still to be taken, and the rows so far."""

    def __init__(self, push: Any, state: A3CState, nothing: Any, iterations: int, row_every: int):
        self._lock = threading.Lock()
        self._push, self._nothing = push, nothing
        self.learner, self._state = state.learner, state
        self._actors = state.actors.version.shape[0]
        self._left, self._gradients = iterations * self._actors, iterations * self._actors
        self._row = row_every * self._actors
        self._count = 0
        self._sums, self._largest = nothing, jnp.float32(0)
        self.rows: list[tuple[Any, Any]] = []

    def take(self) -> bool:
        """Whether there is another gradient to be taken; who is told so will push it."""
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def push(self, gradient: Any, metrics: Any, version: Any) -> tuple[Any, Any]:
        """Hand in a gradient; what is pulled in return, and its version."""
        with self._lock:
            self.learner, self._sums, self._largest = self._push(
                self.learner, self._state, gradient, metrics, version, self._sums, self._largest
            )
            self._count += 1
            if self._count % self._row == 0 or self._count == self._gradients:
                self.rows.append((self._sums, self._largest))
                self._sums, self._largest = self._nothing, jnp.float32(0)
            return self.learner.networks, self.learner.version


def _of_actor(k: int, state: A3CState, actors: int) -> tuple[Any, Any]:
    """What actor k pulled last, and its episodes."""
    episodes = jax.tree.map(lambda x: x.reshape(actors, -1, *x.shape[1:])[k], state.episodes)
    return jax.tree.map(lambda x: x[k], state.actors.networks), episodes
