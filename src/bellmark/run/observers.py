"""Observers: what else may watch a run.  They see everything and can stop nothing.

    started → rows, saved, rows, … → finished

An observer that raises is named in one warning and switched off; the run goes on as if it had never been
there.
"""

import contextlib
import importlib
import netrc
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bellmark.errors import BadInput, unknown

_LONGEST_QUEUE = 4096

Row = Mapping[str, Any]
"""A row as in metrics.jsonl: iteration, step, seconds, and metrics by name, one number per seed."""


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
    """Passes everything on to several observers and outlives their failures.

    Each observer works in a thread of its own: one that waits for a network delays nothing, and at the end
    of a run it is given `patience` seconds.
    """

    def __init__(
        self, observers: Sequence[Observer], warn: Callable[[str], None] = print, patience: float = 30.0
    ):
        self._workers = [_Worker(observer) for observer in observers]
        self._warn = warn
        self._patience = patience

    def started(self, info: Mapping[str, Any]) -> None:
        self._tell("started", info)

    def rows(self, rows: Sequence[Row]) -> None:
        self._tell("rows", rows)

    def saved(self, step: int, path: Path) -> None:
        self._tell("saved", step, path)

    def finished(self, outcome: Mapping[str, Any]) -> None:
        self._tell("finished", outcome)
        for worker in self._workers:
            worker.stop(self._patience)
        self._report()
        self._workers = []

    def _tell(self, event: str, *arguments: Any) -> None:
        self._report()
        for worker in self._workers:
            worker.tell(event, arguments)

    def _report(self) -> None:
        """Say what failed, from the run's own thread, and keep the rest."""
        failed = [worker for worker in self._workers if worker.problem]
        self._workers = [worker for worker in self._workers if not worker.problem]
        for worker in failed:
            with contextlib.suppress(Exception):
                self._warn(f"{worker.name} is switched off, the run goes on: {worker.problem}")


class _Worker:
    """One observer and the thread that it works in."""

    def __init__(self, observer: Observer):
        self.name = type(observer).__name__
        self.problem = ""
        self._observer = observer
        self._events: queue.Queue[tuple[str, tuple[Any, ...]] | None] = queue.Queue(_LONGEST_QUEUE)
        # A daemon: an observer that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
        self._thread.start()

    def tell(self, event: str, arguments: tuple[Any, ...]) -> None:
        try:
            self._events.put_nowait((event, arguments))
        except queue.Full:
            self.problem = self.problem or f"it is {_LONGEST_QUEUE} events behind"

    def stop(self, patience: float) -> None:
        with contextlib.suppress(queue.Full):
            self._events.put_nowait(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            self.problem = self.problem or f"it did not end within {patience:g} s"

    def _work(self) -> None:
        while not self.problem:
            event = self._events.get()
            if event is None:
                return
            name, arguments = event
            try:
                getattr(self._observer, name)(*arguments)
            except BaseException as problem:  # some call sys.exit
                first_line = f"{type(problem).__name__}: {problem}".splitlines()[0]
                self.problem = first_line[:200]


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
            settings={"silent": True},  # the terminal belongs to the progress display
            mode=os.environ.get("WANDB_MODE") or (None if _has_wandb_key() else "offline"),
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


def _has_wandb_key() -> bool:
    """Whether Weights & Biases can be reached without asking: by the variable, or after `wandb login`."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    return False


def _imported(package: str, name: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise BadInput(
            f"--observe {name} needs the package {package}, which is not installed: pip install {package}"
        ) from None


def _by_name(row: Row, seeds: Sequence[int]) -> dict[str, float]:
    """The row's numbers that are there: each metric's mean over seeds, and each seed's beside it."""
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
