"""Observers: what else may watch a run.  They see everything and can stop nothing.

    started → rows, saved, rows, … → finished

An observer that raises is named in one warning and switched off; the run goes on as if it had never been
there.
"""

import contextlib
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bellmark.errors import BadInput, unknown

Row = Mapping[str, Any]
"""A row of metrics as in metrics.jsonl: iteration, step, seconds, and metrics by name, one number per seed."""


class Observer(Protocol):
    """What a run tells whoever watches it."""

    def started(self, info: Mapping[str, Any]) -> None:
        """The run begins or goes on; `info` is its configuration with `directory` added."""

    def rows(self, rows: Sequence[Row]) -> None:
        """New rows of metrics."""

    def saved(self, step: int, path: Path) -> None:
        """A checkpoint stands."""

    def finished(self, outcome: Mapping[str, Any]) -> None:
        """The run has ended: `outcome` holds its state (finished, interrupted, failed) and its evaluation."""


class Guard:
    """Passes everything on to several observers and outlives their failures."""

    def __init__(self, observers: Sequence[Observer], warn: Callable[[str], None] = print):
        self._observers = list(observers)
        self._warn = warn

    def started(self, info: Mapping[str, Any]) -> None:
        self._tell("started", info)

    def rows(self, rows: Sequence[Row]) -> None:
        self._tell("rows", rows)

    def saved(self, step: int, path: Path) -> None:
        self._tell("saved", step, path)

    def finished(self, outcome: Mapping[str, Any]) -> None:
        self._tell("finished", outcome)

    def _tell(self, event: str, *arguments: Any) -> None:
        for observer in list(self._observers):
            try:
                getattr(observer, event)(*arguments)
            except Exception as problem:
                self._observers.remove(observer)
                with contextlib.suppress(Exception):
                    why = f"{type(problem).__name__}: {problem}".splitlines()[0][:200]
                    self._warn(
                        f"{type(observer).__name__} failed and is switched off ({why}); the run goes on"
                    )


class TensorBoardObserver:
    """Writes event files below `<run>/tensorboard`: each metric's mean over seeds, and each seed beside it.

    Look at them with `tensorboard --logdir runs`.  Needs the package tensorboardX.
    """

    def __init__(self) -> None:
        self._module = _imported("tensorboardX", "tensorboard")
        self._writer: Any = None
        self._seeds: Sequence[int] = ()

    def started(self, info: Mapping[str, Any]) -> None:
        self._seeds = info.get("seeds", ())
        self._writer = self._module.SummaryWriter(os.fspath(Path(info["directory"]) / "tensorboard"))

    def rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            for name, values in _by_name(row, self._seeds).items():
                self._writer.add_scalar(name, values, row["step"])

    def saved(self, step: int, path: Path) -> None:
        self._writer.flush()

    def finished(self, outcome: Mapping[str, Any]) -> None:
        self._writer.close()


class WandbObserver:
    """Logs to Weights & Biases, or to `<run>/wandb` for a later `wandb sync` where WANDB_MODE=offline.

    Without a key and without WANDB_MODE it records offline instead of asking a question.  Needs the package
    wandb.
    """

    def __init__(self) -> None:
        self._module = _imported("wandb", "wandb")
        self._run: Any = None
        self._seeds: Sequence[int] = ()

    def started(self, info: Mapping[str, Any]) -> None:
        self._seeds = info.get("seeds", ())
        directory = Path(info["directory"])
        self._run = self._module.init(
            project=os.environ.get("WANDB_PROJECT", "bellmark"),
            name=directory.name,
            dir=os.fspath(directory),
            config={name: value for name, value in info.items() if name != "directory"},
            mode=os.environ.get("WANDB_MODE") or (None if self._has_key() else "offline"),
        )

    def rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._run.log(_by_name(row, self._seeds), step=row["step"])

    def saved(self, step: int, path: Path) -> None:
        return None

    def finished(self, outcome: Mapping[str, Any]) -> None:
        plain = {
            name: value for name, value in outcome.items() if isinstance(value, str | bool | int | float)
        }
        self._run.summary.update(plain)
        self._run.finish(exit_code=0 if outcome.get("state", "finished") == "finished" else 1)

    def _has_key(self) -> bool:
        if os.environ.get("WANDB_API_KEY"):
            return True
        with contextlib.suppress(Exception):
            return bool(self._module.api.api_key)
        return False


OBSERVERS: dict[str, Callable[[], Observer]] = {"tensorboard": TensorBoardObserver, "wandb": WandbObserver}


def make_observers(names: str) -> list[Observer]:
    """The observers of a list such as `tensorboard,wandb`; none for the empty string.

    Raises: `BadInput` for an unknown name, and for a package that is missing, with the line that installs it.
    """
    wanted = dict.fromkeys(name.strip().lower() for name in names.split(",") if name.strip())
    for name in wanted:
        if name not in OBSERVERS:
            raise unknown("observer", name, OBSERVERS)
    return [OBSERVERS[name]() for name in wanted]


def _imported(package: str, name: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise BadInput(
            f"--observe {name} needs the package {package}, which is not installed: pip install {package}"
        ) from None


def _by_name(row: Row, seeds: Sequence[int]) -> dict[str, float]:
    """The row's numbers under names that sort well: the mean over seeds, then each seed; absent values are left out."""
    found: dict[str, float] = {}
    for name, values in row["metrics"].items():
        numbers = np.array(values, np.float64)
        present = np.isfinite(numbers)
        if present.any():
            found[name] = float(numbers[present].mean())
        if len(numbers) > 1:
            labels = seeds if len(seeds) == len(numbers) else range(len(numbers))
            shown = zip(labels, numbers, present, strict=True)
            found |= {f"{name}/seed {label}": float(value) for label, value, there in shown if there}
    return found
