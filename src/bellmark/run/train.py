"""The one training loop: compiled chunks, and about twice a second a look at the world.

    until all iterations are done, or Ctrl-C
        advance every seed by a chunk of iterations             (about half a second)
        refuse NaN, write the rows, tell whoever watches, save a checkpoint now and then

How long a chunk is depends on the machine's speed; what is computed does not.  A run can therefore be killed anywhere
and resumed, and its metrics, parameters, optimiser, normalisers, episodes in flight and keys are bit for bit what they
would have been, on the same kind of machine with the same versions.
"""

import dataclasses
import math
import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bellmark.algorithms import fields_of, make_algorithm
from bellmark.algorithms.base import AbstractAlgorithm
from bellmark.envs import spaces
from bellmark.envs.checker import require_contract
from bellmark.envs.gymnasium import HostEnvironments
from bellmark.envs.registry import Resolved, resolve
from bellmark.errors import BadInput, BellmarkError, EnvironmentFailure, NonFiniteLoss
from bellmark.experience.frames import keeps_frames, spare_frames
from bellmark.experience.frames import memory_bytes as frame_bytes
from bellmark.experience.host_rollout import HostProblem
from bellmark.experience.replay import transition_bytes
from bellmark.experience.rollout import CompiledProblem
from bellmark.experience.sequences import step_bytes
from bellmark.run import checkpoint
from bellmark.run.compilation import keep_compiled_programs
from bellmark.run.directory import MetricsWriter, RunDirectory, versions
from bellmark.run.disk import remove, remove_leftovers
from bellmark.run.engine import ROWS, CompiledEngine, Engine, HostEngine
from bellmark.run.exported import save_policies
from bellmark.run.interrupts import Interrupts
from bellmark.run.machine import memory_bytes
from bellmark.run.observers import Guard, Observer
from bellmark.run.progress import Progress
from bellmark.run.rows import BROKEN, PARAMETERS
from bellmark.types import Episodes

CHUNK_SECONDS = 0.5
MOST_ROWS_PER_RUN = 2000
MOST_STEPS_PER_ROW = 200_000
"""However long a run: Ctrl-C is answered at the end of a row."""
MOST_SEEDS = 4096
MAY_BE_INFINITE = ("episode/", "gap/", "error/")
"""Metrics that may be NaN or infinite in a sound run: no episode ended, or a policy never ends."""


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
        if not 1 <= seeds <= MOST_SEEDS:
            raise BadInput(f"seeds is {seeds}; allowed: 1 to {MOST_SEEDS}")
        listed = list(range(seed, seed + seeds))
    elif isinstance(seeds, Sequence) and all(type(s) is int for s in seeds):
        listed = list(seeds)
    else:
        raise BadInput(f"seeds is {seeds!r}; allowed: how many, or a list of whole numbers")
    if not 1 <= len(set(listed)) == len(listed) <= MOST_SEEDS:
        raise BadInput(f"seeds is {listed}; allowed: 1 to {MOST_SEEDS} different whole numbers")
    if min(listed) < 0 or max(listed) >= 2**32:
        raise BadInput(f"seeds run from {min(listed)} to {max(listed)}; allowed: 0 to 2³² − 1")
    return listed


def checked_steps(steps: Any) -> int:
    if isinstance(steps, bool) or not isinstance(steps, int | float) or steps != steps or steps < 1:
        raise BadInput(f"steps is {steps!r}; allowed: a whole number, at least 1")
    if steps >= 2**53 or steps != int(steps):
        shown = steps if steps < 2**63 else "enormous"
        raise BadInput(f"steps is {shown}; allowed: a whole number below 2⁵³")
    return int(steps)


def check_seconds(checkpoint_seconds: Any, timeout: Any) -> None:
    for name, given in {"checkpoint_seconds": checkpoint_seconds, "timeout": timeout}.items():
        if (
            isinstance(given, bool)
            or not isinstance(given, int | float)
            or not 0 < given < threading.TIMEOUT_MAX
        ):
            raise BadInput(f"{name} is {given!r}; allowed: more than 0 seconds, finite")


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
    interrupts: Interrupts | None = None,
) -> Trained:
    """Train from the start.  Nothing is written before everything that can be checked has been checked.

    What fails or is interrupted before anything was trained leaves nothing behind.
    """
    keep_compiled_programs()
    steps = checked_steps(steps)
    check_seconds(checkpoint_seconds, timeout)
    probe = _Probe(environment, steps)
    _check_hidden(algorithm)
    spaces.check_supported(environment.observation_space, f"{environment.id}: observation space")
    algorithm.check(probe)
    note = replay_in_words(algorithm, probe, len(seeds), directory)
    if environment.kind == "user" and environment.compiled is not None:
        require_contract(environment.compiled, environment.id)
    per_iteration = algorithm.steps_per_iteration(probe)
    iterations = whole_iterations(steps, per_iteration)
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
        "row_every": -(-iterations // algorithm.most_rows)
        if hasattr(algorithm, "most_rows")
        else max(1, min(-(-iterations // MOST_ROWS_PER_RUN), MOST_STEPS_PER_ROW // per_iteration)),
        **(extra_config or {}),
    }
    existed = directory is not None and Path(directory).expanduser().is_dir()
    try:
        run = RunDirectory.create(algorithm.name, environment.id, directory)
    except BellmarkError as error:
        raise BadInput(str(error)) from error
    loop = _Loop(
        run, config, algorithm, environment, progress, observers, checkpoint_seconds, timeout, interrupts
    )
    with run.lock():
        try:
            run.write_config(config)
            if note is not None:
                progress.message(note)
            return loop.go(fresh=True)
        except BaseException as error:
            worthless = loop.iteration == 0 and not isinstance(error, BellmarkError)
            if worthless or not checkpoint.steps(run.path):
                _discard(run.path, itself=not existed)
            if worthless and isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt("interrupted before anything was trained; nothing is kept") from None
            raise


def _check_hidden(algorithm: AbstractAlgorithm) -> None:
    for size in getattr(algorithm, "hidden", ()):
        if size < 1:
            raise BadInput(f"hidden holds a layer of {size} units; allowed: at least 1 in every layer")


def _discard(path: Path, itself: bool) -> None:
    """Delete a run that never came to a checkpoint; a folder that stood before is only emptied."""
    for entry in list(path.iterdir()):
        remove(entry)
    if itself:
        remove(path)


def whole_iterations(steps: int, per_iteration: int) -> int:
    """Iterations that take at least `steps` environment steps."""
    iterations = -(-steps // per_iteration)
    if iterations >= 2**31:
        raise BadInput(
            f"steps is {steps:,}, {iterations:,} iterations of {per_iteration:,}; fewer than 2³¹ iterations are allowed"
        )
    return iterations


def resume(
    directory: str | os.PathLike[str],
    *,
    progress: Progress,
    environment: Any = None,
    steps: int | None = None,
    observers: Sequence[Observer] = (),
    checkpoint_seconds: float = 30.0,
    timeout: float = 60.0,
    interrupts: Interrupts | None = None,
) -> Trained:
    """Go on from the newest good checkpoint, to the run's own number of steps or to more.

    A run that was killed before its first checkpoint begins again, which is the same.
    """
    keep_compiled_programs()
    check_seconds(checkpoint_seconds, timeout)
    run = RunDirectory.open(directory)
    with run.lock():
        remove_leftovers(run.path)
        remove_leftovers(run.checkpoints)
        config = run.read_config()
        check_training_config(config, run.config_path)
        algorithm = make_algorithm(config["algorithm"]["name"], config["algorithm"]["fields"])
        resolved = environment_of(config, environment)
        algorithm.check(_Probe(resolved, config["steps"]))
        if steps is not None:
            if checked_steps(steps) < config["steps"]:
                raise BadInput(
                    f"steps is {steps:,}; this run has {config['steps']:,} already: more are allowed"
                )
            config["steps"] = steps
            whole_iterations(steps, config["steps_per_iteration"])
        if (old := config.get("versions")) and old != versions():
            changed = [f"{k} {old.get(k)} → {v}" for k, v in versions().items() if old.get(k) != v]
            progress.warning(
                f"versions have changed ({', '.join(changed)}): the rest of this run may differ in the last bits"
            )
        loop = _Loop(
            run, config, algorithm, resolved, progress, observers, checkpoint_seconds, timeout, interrupts
        )
        try:
            return loop.go(fresh=not checkpoint.steps(run.path))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted before going on; {_standing(run)}: bellmark resume {run.path}"
            ) from None


def _standing(run: RunDirectory) -> str:
    """Which checkpoint stands, for the end of an error's line."""
    found = checkpoint.steps(run.path)
    if not found:
        return f"{run.path} has no checkpoint"
    return f"the last good checkpoint stands at step {found[-1]:,} in {run.path}"


def check_training_config(config: dict[str, Any], path: Path) -> None:
    """What going on with a run needs beyond what every run has: `BadInput` naming what is damaged."""
    for name, given in (
        ("row_every", config.get("row_every")),
        ("evaluation_episodes", config.get("evaluation_episodes", 1)),
    ):
        if type(given) is not int or given < 1:
            raise BadInput(f"{path}: {name!r} is {given!r}; a whole number from 1 is needed")
    seeds_from(config["seeds"])


def environment_of(config: dict[str, Any], given: Any = None) -> Resolved:
    """The environment of a saved run, or the one given in its place, which must have the same spaces.

    A configuration never makes Bellmark import code: a user's own environment has to be named again.
    """
    saved = config["environment"]
    if not isinstance(saved.get("options", {}), dict):
        raise BadInput(f"the configuration's environment options are {saved['options']!r}; a table is needed")
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


def open_engine(
    algorithm: Any,
    environment: Resolved,
    config: dict[str, Any],
    timeout: float,
    resumed_at: int = 0,
    folder: Any = None,
) -> Engine:
    """The engine for a problem: a compiled one where the environment is compiled."""
    seeds, row_every, per_iteration = config["seeds"], config["row_every"], config["steps_per_iteration"]
    budget = whole_iterations(config["steps"], per_iteration) * per_iteration
    if getattr(algorithm, "tabular", False):
        from bellmark.run.table_engine import open_tables

        return open_tables(algorithm, environment, config, timeout)
    if environment.compiled is not None:
        problem = CompiledProblem(environment.compiled, budget, environment.time_limit)
        if getattr(algorithm, "schedule", None) == "threads":
            from bellmark.run.asynchronous_engine import AsynchronousEngine

            return AsynchronousEngine(algorithm, problem, seeds, row_every)  # type: ignore[return-value]
        return CompiledEngine(algorithm, problem, seeds, row_every)
    opened: list[HostEnvironments] = []
    try:
        problems = []
        for seed in seeds:
            count = getattr(algorithm, "environments", 1)
            opened.append(HostEnvironments(environment.make, count, environment.id, timeout))  # type: ignore
            problems.append(HostProblem.open(opened[-1], budget, environment.time_limit, seed, resumed_at))
    except BaseException:
        for environments in opened:
            environments.close()
        raise
    mapped = replay_is_mapped(algorithm, problems[0], len(seeds))
    return HostEngine(algorithm, problems, seeds, row_every, existing(folder) if mapped else None)


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
    def stacked_frames(self) -> int:
        return self.environment.stacked_frames

    @property
    def compiled(self) -> bool:
        return self.environment.compiled is not None


SHARE_FOR_REPLAY = 0.8
"""Of the machine's memory: the rest is for the program, the networks, and the checkpoint that is being written."""


def replay_in_words(algorithm: Any, problem: Any, seeds: int, directory: Any = None) -> str | None:
    """What the replay memories of all seeds will take, and where they lie; None where there are none.

    Raises: `BadInput` saying how large they may be, where that is more than the machine has; where they are mapped
    from files, more than the disk has.
    """
    capacity = getattr(algorithm, "replay_capacity", None)
    if capacity is None:
        return None
    each = replay_bytes(algorithm, problem)
    wanted, memory = capacity * each * seeds, memory_bytes()
    size = bytes_in_words(wanted)
    shared = "" if seeds == 1 else f" for {seeds} seeds"
    what = f"replay of {capacity:,} transitions, {size}{shared}"
    on_host = getattr(algorithm, "replay_memory", "compiled") == "host"
    given = f"replay_capacity is {capacity:,} transitions of {bytes_in_words(each)}, {size}{shared}"
    if memory is None or wanted <= SHARE_FOR_REPLAY * memory:
        return f"{what}, in host memory" if on_host else what
    if on_host:
        folder = existing(directory)
        room = shutil.disk_usage(folder).free
        if wanted > room:
            raise BadInput(
                f"{given}; allowed: at most {room // each // seeds:,} with the {bytes_in_words(room)} that are free on "
                f"the disk of {folder}"
            )
        return f"{what}, mapped from a file beside the run: more than the {bytes_in_words(memory)} of memory here"
    most = int(SHARE_FOR_REPLAY * memory / each / seeds)
    raise BadInput(f"{given}; allowed: at most {most:,} with the {bytes_in_words(memory)} of memory here")


def replay_is_mapped(algorithm: Any, problem: Any, seeds: int) -> bool:
    """Whether a replay memory on the host is larger than what memory has room for."""
    if getattr(algorithm, "replay_memory", "compiled") != "host":
        return False
    wanted, memory = algorithm.replay_capacity * replay_bytes(algorithm, problem) * seeds, memory_bytes()
    return memory is not None and wanted > SHARE_FOR_REPLAY * memory


def existing(directory: Any) -> Path:
    """The folder of a run that is to be made, or the nearest one above it that is there."""
    folder = Path(directory or "runs").absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def replay_bytes(algorithm: Any, problem: Any) -> int:
    """What one stored transition takes."""
    capacity = algorithm.replay_capacity
    if algorithm.name == "r2d2":
        return step_bytes(
            problem.observation_space, problem.action_space, algorithm.memory, algorithm.rollout_length
        )
    if keeps_frames(algorithm, problem.observation_space):
        whole = frame_bytes(
            problem.observation_space,
            problem.action_space,
            capacity,
            algorithm.environments,
            algorithm.rollout_length,
            problem.stacked_frames,
            spare_frames(algorithm),
        )
        return -(-whole // capacity)
    return transition_bytes(problem.observation_space, problem.action_space)


class _Loop:
    def __init__(
        self,
        run,
        config,
        algorithm,
        environment,
        progress,
        observers,
        checkpoint_seconds,
        timeout,
        interrupts,
    ):
        self.interrupts: Interrupts = interrupts or Interrupts()
        self.run, self.config = run, config
        self.algorithm, self.environment = algorithm, environment
        self.progress: Progress = progress
        self.guard = Guard(observers, progress.warning)
        self.checkpoint_seconds, self.timeout = checkpoint_seconds, timeout
        self.per_iteration = config["steps_per_iteration"]
        self.iterations = whole_iterations(config["steps"], self.per_iteration)
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
            resumed_at = 0 if fresh else checkpoint.steps(self.run.path)[-1]
            engine = open_engine(
                self.algorithm, self.environment, self.config, self.timeout, resumed_at, self.run.path
            )
            with MetricsWriter(self.run.metrics_path) as writer:
                for note in getattr(engine, "notes", ()):
                    self.progress.message(note)
                states = self._begin(engine, writer, fresh)
                self._say_size(states)
                if self.iteration < self.iterations:
                    self.progress.phase("compiling the training loop")
                    engine.compile(states)
                    self.spent["compile"] = time.perf_counter() - began
                with self.interrupts.noted(lambda: engine.interruptible):
                    states = self._advance(engine, states, writer)
                    if self.iteration == 0:
                        raise KeyboardInterrupt
                outcome = "finished" if self.iteration >= self.iterations else "interrupted"
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

    def _say_size(self, states: list[Any]) -> None:
        """What a checkpoint will hold and what every seed takes of the memory; it does not grow with the steps."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(states))
        each = f" ({len(states)} × {bytes_in_words(size / len(states))})" if len(states) > 1 else ""
        self.progress.message(
            f"state {bytes_in_words(size)}{each}, saved every {self.checkpoint_seconds:g} s"
        )

    def _begin(self, engine: Engine, writer: MetricsWriter, fresh: bool) -> list[Any]:
        if fresh:
            writer.truncate_to(0)
            states = engine.start()
            self._refuse_broken_start(states)
            self._save(engine, states, writer)
            return states
        found = checkpoint.latest(self.run.path, engine.template())
        for remark in found.warnings:
            self.progress.warning(remark)
        self.iteration, self.seconds = found.iteration, found.seconds
        writer.truncate_to(found.metrics_bytes)
        if not getattr(engine, "restorable", True):
            self.progress.warning(
                f"{self.environment.id} cannot be put back into a saved state: "
                "the episodes that were in flight are dropped and new ones begin"
            )
        if self.iteration >= self.iterations:
            self.progress.message(
                f"this run is finished at step {found.step:,}; its policy is evaluated again"
            )
        else:
            self.progress.message(f"going on from step {found.step:,}")
        # config.json follows only now, when the checkpoint is known to be good
        if self.config["steps"] != self.run.read_config()["steps"]:
            self.run.write_config(self.config)
        # an extended run anneals over its new length; each state gets an array of its own, for it is given away
        states = [
            dataclasses.replace(s, horizon=jnp.array(self.iterations, jnp.int32))
            if hasattr(s, "horizon")
            else s
            for s in found.state
        ]
        return engine.restored(states)

    def _advance(self, engine: Engine, states: list[Any], writer: MetricsWriter) -> list[Any]:
        row_every = self.config["row_every"]
        rows = 1
        saved_at = time.monotonic()
        if self.iteration >= self.iterations:
            self._export(states)
            return states
        while self.iteration < self.iterations and not self.interrupts.asked:
            chunk = min(rows * row_every, self.iterations - self.iteration)
            began = time.perf_counter()
            try:
                states, metrics = engine.advance(states, chunk)
            except KeyboardInterrupt:
                states = engine.rewound(states)  # an environment was being stepped: the row is given up
                break
            except EnvironmentFailure as error:
                raise EnvironmentFailure(f"{error}; {_standing(self.run)}") from error
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
        """Stop at the earliest row that holds NaN or infinity, and say where it came from.

        Within a row, what an environment returned comes before the parameters that it spoilt, and those before losses.
        """
        names = sorted(
            (name for name in metrics if not name.startswith(MAY_BE_INFINITE)),
            key=lambda name: (not name.startswith(BROKEN), name == PARAMETERS),
        )
        bad = np.stack([metrics[n] > 0 if n.startswith(BROKEN) else ~np.isfinite(metrics[n]) for n in names])
        if not bad.any():
            return
        row, place, column = (int(i) for i in np.argwhere(bad.swapaxes(0, 1))[0])
        name, value = names[place], metrics[names[place]][row, column]
        first = (self.iteration + row * row_every) * self.per_iteration
        last = min(first + row_every * self.per_iteration, self.iterations * self.per_iteration)
        where = f"seed {self.config['seeds'][column]}, steps {first:,} to {last:,}"
        if name.startswith(BROKEN) and name != PARAMETERS:
            kind = name.removeprefix(BROKEN)
            kind = kind if value > 1 else kind.removesuffix("s")
            what = f"returned {int(value)} NaN or infinite {kind}"
            if name == f"{BROKEN}masks":
                what = f"showed {int(value)} action {kind} allowing no action"
            raise EnvironmentFailure(f"{self.environment.id} {what} ({where}); {_standing(self.run)}")
        what = "the parameters became NaN or infinite" if name == PARAMETERS else f"{name} became {value}"
        raise NonFiniteLoss(
            f"{what} ({where}): observations and rewards were finite, so it arose in the update, "
            f"where a smaller learning_rate is the usual remedy; {_standing(self.run)}"
        )

    def _refuse_broken_start(self, states: list[Any]) -> None:
        for seed, state in zip(self.config["seeds"], states, strict=True):
            for episodes in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Episodes)):
                if isinstance(episodes, Episodes) and not _finite(episodes.observation):
                    raise EnvironmentFailure(
                        f"{self.environment.id}: the first observation holds NaN or infinity (seed {seed}, step 0)"
                    )

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
        try:
            writer.append(rows)
        except BellmarkError as error:
            raise BellmarkError(f"{error}; {_standing(self.run)}") from error
        self.guard.rows(rows)

    def _show(self, engine: Engine, metrics: dict[str, np.ndarray], chunk: int, elapsed: float) -> None:
        if "episode/return" in metrics:
            self.recent = [
                *self.recent,
                *np.split(metrics["episode/return"], len(metrics["episode/return"])),
            ][-20:]
        window = (
            np.concatenate(self.recent) if self.recent else np.full((1, len(self.config["seeds"])), np.nan)
        )
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
        """A checkpoint, and the policies beside it, so that a run that is killed can be played as it stands."""
        began = time.perf_counter()
        for seed, state in zip(self.config["seeds"], states, strict=True):
            if not _finite(state):
                raise NonFiniteLoss(
                    f"the state holds NaN or infinity (seed {seed}, step {self.iteration * self.per_iteration:,}); "
                    f"{_standing(self.run)}"
                )
        step = self.iteration * self.per_iteration
        path = checkpoint.save(
            self.run.path,
            engine.captured(states),
            iteration=self.iteration,
            step=step,
            seconds=self.seconds,
            metrics_bytes=writer.sync(),
        )
        self._export(states)
        self.guard.saved(step, path)
        self.spent["checkpoint"] += time.perf_counter() - began

    def _export(self, states: list[Any]) -> None:
        save_policies(
            self.run.policy,
            self.algorithm,
            [self.algorithm.policy(state) for state in states],
            self.config["seeds"],
            self.environment.observation_space,
            self.environment.action_space,
        )


def _finite(tree: Any) -> bool:
    """Whether every number of a state is finite, the episodes in flight left aside."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Episodes))
    numbers = [leaf for leaf in leaves if not isinstance(leaf, Episodes)]
    return all(np.isfinite(np.asarray(x)).all() for x in numbers if jnp.issubdtype(x.dtype, jnp.floating))


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def bytes_in_words(count: float) -> str:
    """`812 B`, `56.3 kB`, `1.2 GB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
