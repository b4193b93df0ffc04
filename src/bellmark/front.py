"""What `import bellmark as bm` offers for training: train, resume, evaluate, load."""

import dataclasses
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bellmark.algorithms import ALGORITHMS, make_algorithm, well_typed
from bellmark.algorithms.base import AbstractAlgorithm
from bellmark.envs.registry import Resolved, resolve
from bellmark.errors import BadInput, unknown
from bellmark.report.evaluate import Evaluation, check_episodes, evaluate
from bellmark.report.finish import Ending, finish, naming
from bellmark.run import train as loop
from bellmark.run.directory import RunDirectory
from bellmark.run.exported import TrainedPolicy, load_policies
from bellmark.run.interrupts import Interrupts
from bellmark.run.observers import Observer, make_observers
from bellmark.run.presets import configured, preset
from bellmark.run.progress import make_progress

__all__ = ["Run", "evaluate", "load", "resume", "train"]

DEFAULT_STEPS = 100_000


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or interrupted run: its policies, its folder, and what it came to.

    `environment` is what it was trained on, so that `evaluate(run)` needs no name for an environment of one's own.
    """

    directory: Path
    environment: Resolved
    policies: list[TrainedPolicy]
    evaluation: Evaluation
    ending: Ending
    outcome: str
    step: int
    seconds: float

    @property
    def policy(self) -> TrainedPolicy:
        """The policy of the first seed."""
        return self.policies[0]

    @property
    def verdict(self) -> str:
        return self.ending.verdict

    @property
    def metrics(self) -> dict[str, Any]:
        """What was logged: `step`, `seconds` [rows], and every metric float64 [rows, seeds]."""
        return RunDirectory.open(self.directory).metrics()


def train(
    algorithm: str | AbstractAlgorithm,
    environment: Any,
    *,
    steps: int | None = None,
    seeds: int | Sequence[int] = 1,
    seed: int = 0,
    directory: str | os.PathLike[str] | None = None,
    progress: bool = True,
    observers: str | Sequence[Observer] = (),
    episodes: int = 100,
    checkpoint_seconds: float = 30.0,
    timeout: float = 60.0,
    environment_options: dict[str, Any] | None = None,
    **hyperparameters: Any,
) -> Run:
    """Train, evaluate, and leave a run directory behind.

    - `algorithm`: a name such as "ppo" (with the preset for this environment, where there is one, and
      `hyperparameters` on top), or an instance such as `bm.PPO(clip=0.1)`.
    - `environment`: a Gymnasium id, "gymnasium:ID" to force Gymnasium itself, "module:ClassName", an environment of
      either kind, or a `FiniteMDP`; `environment_options` go to its constructor.
    - `steps`: environment steps per seed, rounded up to whole iterations.
    - `seeds`: how many seeds (counted from `seed`), or a list; they are trained side by side, and each one's result
      is the same whatever others run beside it.
    - `directory`: where the run is kept; None makes `runs/<algorithm>-<environment>-<time>`.
    - `episodes` of evaluation per seed at the end; `timeout` seconds for one step of a Gymnasium environment.

    Raises: `BadInput` before anything is written where something given is not allowed; `EnvironmentFailure` and
    `NonFiniteLoss` with the last good checkpoint standing.
    """
    resolved = resolve(environment, **(environment_options or {}))
    learner, default_steps = _learner(algorithm, resolved, hyperparameters)
    check_episodes(episodes)
    seed_list = loop.seeds_from(seeds, seed)
    watchers = make_observers(observers) if isinstance(observers, str) else list(observers)
    with Interrupts() as interrupts, make_progress(sys.stderr, quiet=not progress) as shown:
        trained = loop.train(
            learner,
            resolved,
            steps=default_steps if steps is None else steps,
            seeds=seed_list,
            directory=directory,
            progress=shown,
            observers=[*watchers, _Ahead()],
            checkpoint_seconds=checkpoint_seconds,
            timeout=timeout,
            extra_config={"evaluation_episodes": episodes},
            interrupts=interrupts,
        )
        return _ended(trained, episodes, shown, timeout)


def resume(
    directory: str | os.PathLike[str],
    *,
    steps: int | None = None,
    environment: Any = None,
    progress: bool = True,
    observers: str | Sequence[Observer] = (),
    checkpoint_seconds: float = 30.0,
    timeout: float = 60.0,
) -> Any:
    """Go on with a run from its newest good checkpoint, exactly where it stopped, and end it as `train` does.

    Returns: a `Run`, or a `bellmark.tuning.LanguageRun` where `bm.tune` made it.

    `steps` extends the run (learning rates are then annealed over the longer run); `environment` names again what a
    configuration cannot hold, a user's own class.
    """
    if RunDirectory.open(directory).read_config()["environment"]["kind"] == "language":
        from bellmark.tuning import resume_language

        return resume_language(directory, steps=steps, progress=progress)
    watchers = make_observers(observers) if isinstance(observers, str) else list(observers)
    with Interrupts() as interrupts, make_progress(sys.stderr, quiet=not progress) as shown:
        trained = loop.resume(
            directory,
            progress=shown,
            environment=environment,
            steps=steps,
            observers=watchers,
            checkpoint_seconds=checkpoint_seconds,
            timeout=timeout,
            interrupts=interrupts,
        )
        return _ended(trained, int(trained.config.get("evaluation_episodes", 100)), shown, timeout)


def load(directory: str | os.PathLike[str], seed: int | None = None) -> TrainedPolicy:
    """A run's trained policy, of its first seed or of `seed`: `action = policy(observation)`, NumPy in, NumPy out."""
    run = RunDirectory.open(directory)
    policies = load_policies(run.policy)
    seeds = run.read_config()["seeds"]
    if seed is None:
        return policies[0]
    if seed not in seeds:
        raise BadInput(f"seed {seed} was asked for; this run has the seeds {', '.join(map(str, seeds))}")
    return policies[seeds.index(seed)]


def _learner(
    algorithm: str | AbstractAlgorithm, environment: Resolved, hyperparameters: dict[str, Any]
) -> tuple[AbstractAlgorithm, int]:
    if isinstance(algorithm, str):
        if algorithm not in ALGORITHMS:
            raise unknown("algorithm", algorithm, ALGORITHMS)
        found = preset(algorithm, environment.id)
        base = configured(algorithm, environment.id)
        return make_algorithm(algorithm, hyperparameters, base), found.steps if found else DEFAULT_STEPS
    if not isinstance(algorithm, AbstractAlgorithm):
        raise BadInput(
            f"algorithm is {algorithm!r}; allowed: a name such as 'ppo', or an instance such as bm.PPO()"
        )
    if hyperparameters:
        raise BadInput(
            f"{', '.join(hyperparameters)}: hyperparameters go into the instance when one is given, "
            f"{type(algorithm).__name__}({next(iter(hyperparameters))}=…)"
        )
    return well_typed(algorithm), DEFAULT_STEPS


class _Ahead:
    """Imports what draws the picture, in its own thread, while the compiled loop needs no Python."""

    def started(self, info: Any) -> None: ...

    def rows(self, rows: Any) -> None:
        importlib.import_module("matplotlib.figure")
        importlib.import_module("matplotlib.backends.backend_agg")

    def saved(self, step: int, path: Path) -> None: ...

    def finished(self, outcome: Any) -> None: ...


def _ended(trained: loop.Trained, episodes: int, progress: Any, timeout: float) -> Run:
    path = trained.directory.path
    if trained.outcome == "finished":
        progress.phase("evaluating the final policy")
    else:
        progress.phase("saved; evaluating the policy so far")
    try:
        ending = finish(trained, episodes, timeout)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"trained and saved in {path}; only the evaluation is missing: "
            f"bellmark resume {path}{naming(trained.config)}"
        ) from None
    commands = "\n".join(f"  {command}" for command in ending.next_commands)
    picture = f"picture  {ending.picture}\n" if ending.picture else ""
    progress.finished(f"{ending.verdict}\nrun      {path}\n{picture}next\n{commands}")
    spaces = trained.environment.observation_space, trained.environment.action_space
    return Run(
        directory=path,
        environment=trained.environment,
        policies=[TrainedPolicy(module, *spaces) for module in trained.policies],
        evaluation=ending.evaluation,
        ending=ending,
        outcome=trained.outcome,
        step=trained.step,
        seconds=trained.seconds,
    )
