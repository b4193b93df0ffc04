"""The one training loop: compiled chunks, and about twice a second a look at the world.

    until all iterations are done, or Ctrl-C
        advance every seed by a chunk of iterations             (about half a second)
        refuse NaN, write the rows, tell whoever watches, save a checkpoint now and then

How long a chunk is depends on the machine's speed; what is computed does not.  A run can therefore be killed anywhere and
resumed, and its metrics, parameters, optimiser, normalisers, episodes in flight and keys are bit for bit what they
would have been, on the same kind of machine with the same versions.
"""

import contextlib
import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bellmark.algorithms import fields_of, make_algorithm
from bellmark.algorithms.base import AbstractAlgorithm
from bellmark.envs import spaces
from bellmark.envs.gymnasium import HostEnvironments
from bellmark.envs.registry import Resolved, resolve
from bellmark.errors import BadInput, EnvironmentFailure, NonFiniteLoss
from bellmark.experience.host_rollout import HostProblem
from bellmark.experience.rollout import CompiledProblem
from bellmark.run import checkpoint
from bellmark.run.compilation import keep_compiled_programs
from bellmark.run.directory import MetricsWriter, RunDirectory, versions
from bellmark.run.disk import remove_leftovers
from bellmark.run.engine import ROWS, CompiledEngine, Engine, HostEngine
from bellmark.run.exported import save_policies
from bellmark.run.observers import Guard, Observer
from bellmark.run.progress import Progress
from bellmark.run.rows import BROKEN
from bellmark.types import Episodes

CHUNK_SECONDS = 0.5
MOST_ROWS_PER_RUN = 2000


@dataclasses.dataclass(frozen=True)
class Trained:
    """What the loop leaves: the last state of every seed, and whether it came to the end of its steps."""

    directory: RunDirectory
    config: dict[str, Any]
    algorithm: AbstractAlgorithm
    environment: Resolved
    states: list[Any]
    outcome: str
    """"finished" or "interrupted"."""
    step: int
    seconds: float
    shares: dict[str, float]

    @property
    def policies(self) -> list[Any]:
        return [self.algorithm.policy(state) for state in self.states]


def seeds_from(seeds: int | Sequence[int], seed: int = 0) -> list[int]:
    """`seeds` consecutive seeds from `seed` on, or the list that was given; `BadInput` for anything else."""
    if isinstance(seeds, bool) or isinstance(seed, bool) or not isinstance(seed, int):
        raise BadInput(f"seed is {seed!r} and seeds {seeds!r}; whole numbers are allowed")
    if isinstance(seeds, int):
        if seeds < 1:
            raise BadInput(f"seeds is {seeds}; allowed: at least 1")
        listed = list(range(seed, seed + seeds))
    else:
        listed = [int(s) for s in seeds]
    if not listed or len(set(listed)) < len(listed):
        raise BadInput(f"seeds is {listed}; allowed: one or more different whole numbers")
    if min(listed) < 0 or max(listed) >= 2**32:
        raise BadInput(f"seeds run from {min(listed)} to {max(listed)}; allowed: 0 to 2³² − 1")
    return listed


def checked_steps(steps: Any) -> int:
    if isinstance(steps, bool) or not isinstance(steps, int | float) or steps != steps or steps < 1:
        raise BadInput(f"steps is {steps!r}; allowed: a whole number, at least 1")
    if steps != int(steps) or steps >= 2**53:
        raise BadInput(f"steps is {steps!r}; allowed: a whole number below 2⁵³")
    return int(steps)


def train(
    algorithm: AbstractAlgorithm,
    environment: Resolved,
    *,
    steps: int,
    seeds: Sequence[int],
    directory: str | os.PathLike[str] | None,
    progress: Progress,
    observers: Sequence[Observer] = (),
    checkpoint_seconds: float = 30.0,
    timeout: float = 60.0,
    extra_config: dict[str, Any] | None = None,
) -> Trained:
    """Train from the start.  Nothing is written before everything that can be checked has been checked."""
    keep_compiled_programs()
    steps = checked_steps(steps)
    probe = _Probe(environment)
    algorithm.check(probe)
    per_iteration = algorithm.steps_per_iteration(probe)
    iterations = -(-steps // per_iteration)
    config = {
        "algorithm": {"name": algorithm.name, "fields": fields_of(algorithm)},
        "environment": {
            "id": environment.id,
            "kind": environment.kind,
            "options": {k: v for k, v in environment.options.items() if _is_plain(v)},
            "threshold": environment.threshold,
            "reproducible": environment.reproducible
            and environment.kind != "user"
            and all(_is_plain(v) for v in environment.options.values()),
        },
        "observation_space": spaces.to_json(environment.observation_space),
        "action_space": spaces.to_json(environment.action_space),
        "seeds": list(seeds),
        "steps": steps,
        "steps_per_iteration": per_iteration,
        "row_every": -(-iterations // MOST_ROWS_PER_RUN),
        **(extra_config or {}),
    }
    run = RunDirectory.create(algorithm.name, environment.id, directory)
    loop = _Loop(run, config, algorithm, environment, progress, observers, checkpoint_seconds, timeout)
    with run.lock():
        run.write_config(config)
        return loop.go(fresh=True)


def resume(
    directory: str | os.PathLike[str],
    *,
    progress: Progress,
    environment: Any = None,
    steps: int | None = None,
    observers: Sequence[Observer] = (),
    checkpoint_seconds: float = 30.0,
    timeout: float = 60.0,
) -> Trained:
    """Go on from the newest good checkpoint, to the run's own number of steps or to more."""
    keep_compiled_programs()
    run = RunDirectory.open(directory)
    with run.lock():
        remove_leftovers(run.path)
        remove_leftovers(run.checkpoints)
        config = run.read_config()
        algorithm = make_algorithm(config["algorithm"]["name"], config["algorithm"]["fields"])
        resolved = environment_of(config, environment)
        algorithm.check(_Probe(resolved))
        if steps is not None:
            if checked_steps(steps) < config["steps"]:
                raise BadInput(f"steps is {steps}; this run has {config['steps']:,} already: more are allowed")
            config["steps"] = steps
        if (old := config.get("versions")) and old != versions():
            changed = [f"{k} {old.get(k)} → {v}" for k, v in versions().items() if old.get(k) != v]
            progress.warning(
                f"versions have changed ({', '.join(changed)}): the rest of this run may differ in the last bits"
            )
        loop = _Loop(run, config, algorithm, resolved, progress, observers, checkpoint_seconds, timeout)
        trained = loop.go(fresh=False)
        if steps is not None:
            run.write_config(config)
        return trained


def environment_of(config: dict[str, Any], given: Any = None) -> Resolved:
    """The environment of a saved run, or the one given in its place, which must have the same spaces.

    A configuration never makes Bellmark import code: a user's own environment has to be named again.
    """
    saved = config["environment"]
    if given is None:
        if not saved.get("reproducible", False):
            raise BadInput(
                f"this run used your own environment {saved['id']}; name it again, for example "
                f"--environment {saved['id'] if ':' in saved['id'] else 'module:ClassName'}"
            )
        given, options = saved["id"], saved.get("options", {})
    else:
        options = {}
    resolved = resolve(given, **options)
    for name in ("observation_space", "action_space"):
        if spaces.to_json(getattr(resolved, name)) != config[name]:
            raise BadInput(
                f"{resolved.id} has the {name.replace('_', ' ')} {getattr(resolved, name)}; "
                f"this run was trained on {spaces.from_json(config[name])}"
            )
    return resolved


def load_states(directory: str | os.PathLike[str], environment: Any = None) -> tuple[Any, list[Any]]:
    """The algorithm and the newest good states of a run whose environment is compiled: for study, not for acting."""
    run = RunDirectory.open(directory)
    config = run.read_config()
    algorithm = make_algorithm(config["algorithm"]["name"], config["algorithm"]["fields"])
    engine = open_engine(algorithm, environment_of(config, environment), config, timeout=60.0)
    try:
        return algorithm, checkpoint.latest(run.path, engine.template()).state
    finally:
        engine.close()


def open_engine(algorithm: Any, environment: Resolved, config: dict[str, Any], timeout: float) -> Engine:
    """The engine for a problem: a compiled one where the environment is compiled."""
    seeds, row_every, budget = config["seeds"], config["row_every"], config["steps"]
    if environment.compiled is not None:
        problem = CompiledProblem(environment.compiled, budget, environment.time_limit)
        return CompiledEngine(algorithm, problem, seeds, row_every)
    problems: list[HostProblem] = []
    try:
        for seed in seeds:
            environments = HostEnvironments(
                environment.make, getattr(algorithm, "environments", 1), environment.id, timeout  # type: ignore
            )
            problems.append(HostProblem.open(environments, budget, environment.time_limit, seed))
    except BaseException:
        for problem in problems:
            problem.environments.close()
        raise
    return HostEngine(algorithm, problems, seeds, row_every)


@dataclasses.dataclass
class _Probe:
    """What checks look at before any environment is opened."""

    environment: Resolved
    budget: int = 1

    @property
    def time_limit(self) -> int | None:
        return self.environment.time_limit

    @property
    def observation_space(self) -> Any:
        return self.environment.observation_space

    @property
    def action_space(self) -> Any:
        return self.environment.action_space

    @property
    def compiled(self) -> bool:
        return self.environment.compiled is not None


class _Loop:
    def __init__(self, run, config, algorithm, environment, progress, observers, checkpoint_seconds, timeout):
        self.run, self.config = run, config
        self.algorithm, self.environment = algorithm, environment
        self.progress: Progress = progress
        self.guard = Guard(observers, progress.warning)
        self.checkpoint_seconds, self.timeout = checkpoint_seconds, timeout
        self.per_iteration = config["steps_per_iteration"]
        self.iterations = -(-config["steps"] // self.per_iteration)
        self.iteration = 0
        self.seconds = 0.0
        self.spent = {"compile": 0.0, "checkpoint": 0.0}
        self.recent: list[np.ndarray] = []

    def go(self, fresh: bool) -> Trained:
        seeds = self.config["seeds"]
        title = f"{self.algorithm.name} · {self.environment.id}"
        self.progress.started(title, self.environment.note, len(seeds), self.iterations * self.per_iteration)
        self.guard.started({**self.config, "directory": str(self.run.path)})
        outcome = "failed"
        engine = None
        try:
            self.progress.phase("preparing the environments and the first state")
            began = time.perf_counter()
            engine = open_engine(self.algorithm, self.environment, self.config, self.timeout)
            with MetricsWriter(self.run.metrics_path) as writer, _interrupts(engine) as interrupt:
                states = self._begin(engine, writer, fresh)
                if self.iteration < self.iterations:
                    self.progress.phase("compiling the training loop")
                    engine.compile(states)
                    self.spent["compile"] = time.perf_counter() - began
                    states = self._advance(engine, states, writer, interrupt)
                outcome = "finished" if self.iteration >= self.iterations else "interrupted"
                policies = [self.algorithm.policy(state) for state in states]
                save_policies(
                    self.run.policy,
                    self.algorithm,
                    policies,
                    seeds,
                    self.environment.observation_space,
                    self.environment.action_space,
                )
        finally:
            if engine is not None:
                engine.close()
            self.guard.finished({"state": outcome, "step": self.iteration * self.per_iteration})
        return Trained(
            directory=self.run,
            config=self.config,
            algorithm=self.algorithm,
            environment=self.environment,
            states=states,
            outcome=outcome,
            step=self.iteration * self.per_iteration,
            seconds=self.seconds,
            shares={**self.spent, **engine.seconds},
        )

    def _begin(self, engine: Engine, writer: MetricsWriter, fresh: bool) -> list[Any]:
        if fresh:
            states = engine.start()
            self._save(engine, states, writer)
            return states
        found = checkpoint.latest(self.run.path, engine.template())
        for remark in found.warnings:
            self.progress.warning(remark)
        self.iteration, self.seconds = found.iteration, found.seconds
        writer.truncate_to(found.metrics_bytes)
        if isinstance(engine, HostEngine) and not engine.restorable:
            self.progress.warning(
                f"{self.environment.id} cannot be put back into a saved state: "
                "the episodes that were in flight are dropped and new ones begin"
            )
        self.progress.message(f"going on from step {found.step:,}")
        horizon = jnp.array(max(self.iterations, 1), jnp.int32)
        states = [
            dataclasses.replace(s, horizon=horizon) if hasattr(s, "horizon") else s for s in found.state
        ]
        return engine.restored(states)

    def _advance(self, engine: Engine, states: list[Any], writer: MetricsWriter, interrupt) -> list[Any]:
        row_every = self.config["row_every"]
        rows = 1
        saved_at = time.monotonic()
        while self.iteration < self.iterations and not interrupt.is_set():
            chunk = min(rows * row_every, self.iterations - self.iteration)
            began = time.perf_counter()
            try:
                states, metrics = engine.advance(states, chunk)
            except KeyboardInterrupt:
                break  # an environment was being stepped; `states` is where the last row left it
            elapsed = time.perf_counter() - began
            self._refuse_broken(metrics, row_every)
            self._record(metrics, row_every, chunk, elapsed, writer)
            self.iteration += chunk
            self._show(engine, metrics, chunk, elapsed)
            wanted = rows * CHUNK_SECONDS / max(elapsed, 1e-6)
            # at most four times as many at once: the first chunk may have been unusually quick
            rows = int(min(max(wanted, 1), 4 * rows, ROWS))
            if time.monotonic() - saved_at > self.checkpoint_seconds:
                self._save(engine, states, writer)
                saved_at = time.monotonic()
        self._save(engine, states, writer)
        return states

    def _refuse_broken(self, metrics: dict[str, np.ndarray], row_every: int) -> None:
        for name, table in metrics.items():
            bad = (table > 0) if name.startswith(BROKEN) else ~np.isfinite(table)
            if name.startswith("episode/") or not bad.any():
                continue
            row, column = (int(i) for i in np.argwhere(bad)[0])
            first = (self.iteration + row * row_every) * self.per_iteration
            where = f"seed {self.config['seeds'][column]}, steps {first:,} to {first + row_every * self.per_iteration:,}"
            stands = f"the last good checkpoint stands at step {checkpoint.steps(self.run.path)[-1]:,} in {self.run.path}"
            if name.startswith(BROKEN):
                kind = name.removeprefix(BROKEN)
                raise EnvironmentFailure(
                    f"{self.environment.id} returned {int(table[row, column])} NaN or infinite {kind} ({where}); {stands}"
                )
            broken = [n for n in metrics if any(n.startswith(k) for k in (BROKEN,)) and metrics[n][row, column] > 0]
            source = (
                f"the environment had returned NaN or infinite {broken[0].removeprefix(BROKEN)}"
                if broken
                else "observations and rewards were finite, so it arose in the update: a smaller learning_rate is the usual remedy"
            )
            raise NonFiniteLoss(f"{name} became {table[row, column]} ({where}): {source}; {stands}")

    def _record(self, metrics, row_every: int, chunk: int, elapsed: float, writer: MetricsWriter) -> None:
        shown = {name: table for name, table in metrics.items() if not name.startswith(BROKEN)}
        rows = []
        for index in range(-(-chunk // row_every)):
            done = min((index + 1) * row_every, chunk)
            iteration = self.iteration + done
            rows.append(
                {
                    "iteration": iteration,
                    "step": iteration * self.per_iteration,
                    "seconds": round(self.seconds + elapsed * done / chunk, 4),
                    "metrics": {name: table[index].tolist() for name, table in shown.items()},
                }
            )
        self.seconds += elapsed
        writer.append(rows)
        self.guard.rows(rows)

    def _show(self, engine: Engine, metrics: dict[str, np.ndarray], chunk: int, elapsed: float) -> None:
        if "episode/return" in metrics:
            self.recent = [*self.recent, *np.split(metrics["episode/return"], len(metrics["episode/return"]))][-20:]
        window = np.concatenate(self.recent) if self.recent else np.full((1, len(self.config["seeds"])), np.nan)
        returns = [float(np.mean(c[np.isfinite(c)])) if np.isfinite(c).any() else math.nan for c in window.T]
        spread = metrics.get("episode/return_std")
        self.progress.update(
            step=(self.iteration) * self.per_iteration,
            steps_per_second=chunk * self.per_iteration * len(self.config["seeds"]) / elapsed,
            seconds=self.seconds,
            returns=returns,
            return_std=None if spread is None or not np.isfinite(spread[-1, 0]) else float(spread[-1, 0]),
            episodes=None,
            shares={**self.spent, **engine.seconds},
            metrics={
                name: float(np.mean(table[-1]))
                for name, table in metrics.items()
                if not name.startswith(("episode/", BROKEN))
            },
        )

    def _save(self, engine: Engine, states: list[Any], writer: MetricsWriter) -> None:
        began = time.perf_counter()
        self._refuse_broken_state(states)
        step = self.iteration * self.per_iteration
        path = checkpoint.save(
            self.run.path,
            engine.captured(states),
            iteration=self.iteration,
            step=step,
            seconds=self.seconds,
            metrics_bytes=writer.sync(),
        )
        self.guard.saved(step, path)
        self.spent["checkpoint"] += time.perf_counter() - began

    def _refuse_broken_state(self, states: list[Any]) -> None:
        """A checkpoint never holds NaN: what an update left is looked at before it is saved."""
        for seed, state in zip(self.config["seeds"], states, strict=True):
            known = jax.tree.map(
                lambda x: None if isinstance(x, Episodes) else x, state, is_leaf=lambda x: isinstance(x, Episodes)
            )
            for path, leaf in jax.tree_util.tree_leaves_with_path(known):
                if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(np.asarray(leaf)).all():
                    earlier = checkpoint.steps(self.run.path)
                    stands = f"; the last good checkpoint stands at step {earlier[-1]:,}" if earlier else ""
                    raise NonFiniteLoss(
                        f"the state's {jax.tree_util.keystr(path)} holds NaN or infinity "
                        f"(seed {seed}, step {self.iteration * self.per_iteration:,}){stands} in {self.run.path}"
                    )


@contextlib.contextmanager
def _interrupts(engine: Engine) -> Iterator[threading.Event]:
    """Ctrl-C once sets the event (and interrupts environments that are being stepped); twice ends the process at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number, frame):
        if event.is_set():
            os._exit(130)
        event.set()
        if engine.interruptible:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def policy_directory(directory: str | os.PathLike[str]) -> Path:
    return RunDirectory.open(directory).policy
