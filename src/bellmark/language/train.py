"""The loop in which a language model learns: draw, score, update, keep.

    start/                 the model as it was: the reference, saved once
    data.jsonl             the questions, texts or pairs, where they came from a file
    config.json metrics.jsonl checkpoints/ lock       as in every run
    completions.jsonl      every answer that was drawn, with the parts of its reward
    model/                 the model as it is now: `load` and `transformers` read it
    report/                answers before and after, the learning curve

What an iteration does follows from the state and the iteration's number, so that a run that was killed goes on exactly
where its newest checkpoint stands; answers and metrics that were written after it are cut off and made again.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from bellmark.algorithms import fields_of
from bellmark.errors import BadInput, BellmarkError, CorruptFile, NonFiniteLoss
from bellmark.language.model import LanguageModel, load
from bellmark.language.problem import LanguageProblem
from bellmark.language.reward_model import HEAD
from bellmark.language.rewards import RewardFailure
from bellmark.language.warning_signs import WarningSigns
from bellmark.networks.low_rank import merged
from bellmark.run import checkpoint
from bellmark.run.directory import MetricsWriter, RunDirectory, versions
from bellmark.run.disk import reason, remove, remove_leftovers
from bellmark.run.interrupts import Interrupts
from bellmark.run.progress import Progress
from bellmark.run.tree_file import save_tree

KIND = "language"
"""What a configuration's environment is, where the run is of this loop."""

SHARE_FOR_CHECKPOINTS = 0.05
"""Of the time: large models are saved less often than small ones."""


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What the loop leaves."""

    directory: RunDirectory
    config: dict[str, Any]
    learner: Any
    problem: LanguageProblem
    model: LanguageModel
    state: Any
    outcome: str
    """"finished" or "interrupted"."""
    step: int
    seconds: float
    signs: WarningSigns


class AnswersWriter:
    """completions.jsonl: lines of an iteration reach the disk together, after its update."""

    def __init__(self, path: Path):
        self.path = path
        self._lines: list[str] = []

    def keep(self, line: str) -> None:
        self._lines.append(line)

    def forget(self) -> None:
        self._lines = []

    def flush(self) -> None:
        if not self._lines:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("\n".join(self._lines) + "\n")
        except OSError as error:
            raise BellmarkError(f"{self.path} was not written: {reason(error)}") from None
        self._lines = []

    def cut(self, iteration: int) -> None:
        """Forget what was drawn at `iteration` or later, and a line that a kill has torn."""
        if not self.path.is_file():
            return
        end = 0
        with open(self.path, "rb+") as file:
            for line in file:
                try:
                    sound = line.endswith(b"\n") and json.loads(line)["iteration"] < iteration
                except (ValueError, KeyError, TypeError):
                    raise CorruptFile(f"{self.path} holds a line that is no answer: {line[:60]!r}") from None
                if not sound:
                    break
                end += len(line)
            file.truncate(end)


def fingerprint(folder: Path) -> str:
    """The SHA-256 of a model's files, one after the other by name."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def captured(state: Any) -> Any:
    """What a checkpoint holds: everything but the weights that rest, which are the run's `start/`."""
    return dataclasses.replace(state, weights=state.weights.at_rest(None))


def restored(state: Any, fresh: Any) -> Any:
    """A checkpoint's state with the resting weights of a state that was just made."""
    return dataclasses.replace(state, weights=state.weights.at_rest(fresh.weights.resting))


def _update(fixed: Any, state: Any) -> tuple[Any, Any]:
    learner, resting, data = fixed
    return learner.update(restored_weights(state, resting), data)


def restored_weights(state: Any, resting: Any) -> Any:
    return dataclasses.replace(state, weights=state.weights.at_rest(resting))


_updated = eqx.filter_jit(_update, donate="all-except-first")


def finish_iteration(learner: Any, state: Any, data: Any) -> tuple[Any, dict[str, float]]:
    """The update, compiled and done in place: the state that is given is used up."""
    resting = state.weights.resting
    # what collecting measured goes round the compiled update: its names may change from one iteration to the next
    measured = getattr(data, "metrics", {})
    if measured:
        data = dataclasses.replace(data, metrics={})
    after, metrics = _updated((learner, resting, data), captured(state))
    together = {**metrics, **measured}
    return restored_weights(after, resting), {name: float(value) for name, value in together.items()}


class Loop:
    """Runs a learner on a problem in a run directory whose lock the caller holds."""

    def __init__(
        self,
        run: RunDirectory,
        config: dict[str, Any],
        learner: Any,
        problem: LanguageProblem,
        progress: Progress,
        interrupts: Interrupts,
        checkpoint_seconds: float,
        held_out: Callable[[Any], dict[str, float]] | None = None,
    ):
        self.run, self.config, self.learner, self.problem = run, config, learner, problem
        self.progress, self.interrupts = progress, interrupts
        self.checkpoint_seconds = checkpoint_seconds
        self.held_out = held_out
        self.answers = AnswersWriter(run.path / "completions.jsonl")
        self.signs = WarningSigns()
        self.iteration, self.seconds = 0, 0.0
        self.saving = 0.0
        problem.keep, problem.warn = self.answers.keep, progress.warning

    def go(self) -> Tuned:
        config = self.config
        title = f"{self.learner.name} · {config['environment']['id']}"
        self.progress.started(title, config["environment"]["options"]["model"], 1, config["steps"])
        self.progress.phase("preparing the first state")
        with MetricsWriter(self.run.metrics_path) as writer:
            state = self._begin(writer)
            outcome = "finished"
            self.progress.phase("compiling, and drawing the first answers")
            saved_at = time.monotonic()
            while self.iteration < config["steps"]:
                began = time.perf_counter()
                try:
                    # drawing changes nothing: Ctrl-C may end it, and the iteration is given up
                    with self._noted(True):
                        state, data = self.learner.collect(self.problem, state)
                except KeyboardInterrupt:
                    outcome = "interrupted"
                    self.answers.forget()
                    break
                except RewardFailure as failure:
                    # a user's function stops the run: what was learned before is kept, and can go on
                    self.answers.forget()
                    if self.iteration == 0:
                        raise
                    self._save(state, writer)
                    raise RewardFailure(
                        f"{failure}; what was learned stands at step {self.iteration:,}: "
                        f"bellmark resume {self.run.path}"
                    ) from failure
                with self._noted(False):
                    state, metrics = finish_iteration(self.learner, state, data)
                    self._refuse_broken(metrics)
                    self.iteration += 1
                    every = config["evaluation_every"]
                    if self.held_out and every and self.iteration % every == 0:
                        metrics |= self.held_out(state.weights.policy)
                    self._record(writer, metrics, time.perf_counter() - began)
                    wait = max(self.checkpoint_seconds, self.saving / SHARE_FOR_CHECKPOINTS)
                    if time.monotonic() - saved_at > wait:
                        self._save(state, writer)
                        saved_at = time.monotonic()
                if self.interrupts.asked and self.iteration < config["steps"]:
                    outcome = "interrupted"
                    break
            with self._noted(False):
                if self.iteration == 0:
                    raise KeyboardInterrupt("interrupted before anything was learned; nothing is kept")
                self._save(state, writer)
                model = self.problem.model.with_transformer(merged(state.weights.policy))
                self.progress.phase("writing the model")
                model.save(self.run.path / "model")
                if hasattr(state, "head"):
                    save_tree(self.run.path / "model" / HEAD, {"weight": state.head})
        return Tuned(
            self.run,
            config,
            self.learner,
            self.problem,
            model,
            state,
            outcome,
            self.iteration,
            self.seconds,
            self.signs,
        )

    @contextlib.contextmanager
    def _noted(self, may_raise: bool) -> Iterator[None]:
        with self.interrupts.noted(lambda: may_raise):
            yield

    def _begin(self, writer: MetricsWriter) -> Any:
        fresh = self.learner.init(self.problem, jax.random.key(self.config["seeds"][0]))
        if fresh.weights.resting is None:
            self.problem.let_go()
        if not checkpoint.steps(self.run.path):
            writer.truncate_to(0)
            self.answers.cut(0)
            return fresh
        found = checkpoint.latest(self.run.path, captured(fresh))
        for remark in found.warnings:
            self.progress.warning(remark)
        self.iteration, self.seconds = found.iteration, found.seconds
        writer.truncate_to(found.metrics_bytes)
        self.answers.cut(found.iteration)
        for row in self._rows():
            self.signs.look(row)
        self.progress.message(f"going on from step {found.step:,}")
        state = restored(found.state, fresh)
        if hasattr(state, "horizon"):
            state = dataclasses.replace(state, horizon=fresh.horizon)
        return state

    def _rows(self) -> Iterator[dict[str, float]]:
        columns = self.run.metrics()
        names = [name for name in columns if columns[name].ndim == 2]
        for row in range(len(columns["step"])):
            values = {name: float(columns[name][row, 0]) for name in names}
            yield {name: value for name, value in values.items() if np.isfinite(value)}

    def _refuse_broken(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            if not np.isfinite(value) and not name.startswith(("reward/", "episode/")):
                found = checkpoint.steps(self.run.path)
                standing = (
                    f"the last good checkpoint stands at step {found[-1]}" if found else "no checkpoint yet"
                )
                raise NonFiniteLoss(
                    f"{name} became {value} at step {self.iteration + 1}; a smaller learning_rate is the usual "
                    f"remedy; {standing} in {self.run.path}"
                )

    def _record(self, writer: MetricsWriter, metrics: dict[str, float], elapsed: float) -> None:
        self.seconds += elapsed
        row = {
            "iteration": self.iteration,
            "step": self.iteration,
            "seconds": round(self.seconds, 4),
            "metrics": {name: [value] for name, value in metrics.items()},
        }
        writer.append([row])
        self.answers.flush()
        for text in self.signs.look(metrics):
            self.progress.warning(text)
        self.progress.update(
            step=self.iteration,
            steps_per_second=1.0 / max(elapsed, 1e-6),
            seconds=self.seconds,
            returns=[metrics.get("episode/return")],
            metrics={name: value for name, value in metrics.items() if not name.startswith("episode/")},
        )

    def _save(self, state: Any, writer: MetricsWriter) -> None:
        began = time.perf_counter()
        checkpoint.save(
            self.run.path,
            captured(state),
            iteration=self.iteration,
            step=self.iteration,
            seconds=self.seconds,
            metrics_bytes=writer.sync(),
            keep=2,
        )
        self.saving = time.perf_counter() - began


def begin_run(
    learner: Any,
    problem: LanguageProblem,
    *,
    steps: int,
    directory: str | os.PathLike[str] | None,
    data: str,
    options: dict[str, Any],
    reproducible: bool,
    evaluation: dict[str, Any],
    records: dict[str, list[dict[str, Any]]],
) -> tuple[RunDirectory, dict[str, Any], bool]:
    """The folder of a new run, its configuration, and whether the folder was there before."""
    learner.check(problem)
    existed = directory is not None and Path(directory).expanduser().is_dir()
    run = RunDirectory.create(learner.name, data, directory)
    try:
        for name, table in records.items():
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in table)
            (run.path / name).write_text(text, encoding="utf-8")
        problem.model.save(run.path / "start")
        config = {
            "algorithm": {"name": learner.name, "fields": fields_of(learner)},
            "environment": {"id": data, "kind": KIND, "options": options, "reproducible": reproducible},
            "seeds": [problem.seed],
            "steps": steps,
            "steps_per_iteration": 1,
            "start_sha256": fingerprint(run.path / "start"),
            **evaluation,
        }
        run.write_config(config)
    except BaseException:
        discard(run, itself=not existed)
        raise
    return run, config, existed


def discard(run: RunDirectory, itself: bool) -> None:
    """Delete a run that never came to a checkpoint; a folder that stood before is only emptied."""
    for entry in list(run.path.iterdir()):
        remove(entry)
    if itself:
        remove(run.path)


def opened(directory: str | os.PathLike[str]) -> tuple[RunDirectory, dict[str, Any], LanguageModel]:
    """A saved run: its folder, configuration, and the model that it began with, proved unchanged."""
    run = RunDirectory.open(directory)
    config = run.read_config()
    if config["environment"]["kind"] != KIND:
        raise BadInput(f"{run.path} is no run of a language model")
    for name in ("start_sha256", "evaluation_every", "evaluation_answers"):
        if name not in config:
            raise BadInput(f"{run.config_path} lacks {name!r}: the run's configuration is damaged")
    if not (run.path / "start").is_dir():
        raise CorruptFile(f"{run.path} has no start/, the model that the run began with")
    if fingerprint(run.path / "start") != config["start_sha256"]:
        raise CorruptFile(f"{run.path / 'start'} is not the model that this run began with: it was changed")
    dtype = json.loads((run.path / "start" / "config.json").read_bytes()).get("dtype", "float32")
    return run, config, load(run.path / "start", dtype=dtype)


def clean(run: RunDirectory, config: dict[str, Any], progress: Progress) -> None:
    """Delete what killed writes left, and say where versions have changed; while the lock is held."""
    remove_leftovers(run.path)
    remove_leftovers(run.checkpoints)
    if (old := config.get("versions")) and old != versions():
        progress.warning("versions have changed: the rest of this run may differ in the last bits")
