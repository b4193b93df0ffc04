"""A run on disk: its folder, its lock, its configuration and its metrics.

    <algorithm>-<environment>-<time>/
        config.json     what is needed to build the run again
        metrics.jsonl   one line per row of metrics
        checkpoints/    see `bellmark.run.checkpoint`
        policy/ report/ what a finished run leaves
        lock            locked while a process works here

Nothing here imports JAX, so that runs can be listed in milliseconds.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bellmark.errors import BadInput, BellmarkError, DirectoryInUse, did_you_mean
from bellmark.run import disk
from bellmark.run.disk import write_atomic
from bellmark.run.machine import machine, versions
from bellmark.run.metrics import MetricsWriter, last_numbers, read_metrics

__all__ = [
    "FORMAT",
    "MetricsWriter",
    "RunDirectory",
    "last_numbers",
    "list_runs",
    "machine",
    "read_metrics",
    "run_name",
    "versions",
    "write_atomic",
]

FORMAT = 1
_LARGEST_CONFIG = 1 << 24
_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "algorithm": dict,
    "environment": dict,
    "seeds": list,
    "steps": int,
    "steps_per_iteration": int,
    "created": str,
}


def run_name(algorithm: str, environment: str, now: datetime.datetime | None = None) -> str:
    """`ppo-CartPole-v1-20261121-031500`; whatever a file name had better not hold becomes a dash."""
    now = now or datetime.datetime.now()
    environment = re.sub(r"[^\w.+]+", "-", environment).strip("-.")
    return f"{algorithm}-{environment[:80]}-{now:%Y%m%d-%H%M%S}"


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run.  Make one with `RunDirectory.create` or `RunDirectory.open`."""

    path: Path

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @classmethod
    def create(
        cls,
        algorithm: str,
        environment: str,
        directory: str | os.PathLike[str] | None = None,
        root: str | os.PathLike[str] = "runs",
    ) -> "RunDirectory":
        """A new folder: `directory`, or one below `root` that is named after the run and the time.

        Raises: `BadInput` where `directory` holds something already, `BellmarkError` where it cannot be
        made or written to; both come before any training.
        """
        if directory is not None:
            path = Path(directory).expanduser()
            _make(path)
            return cls(path)
        name = run_name(algorithm, environment)
        for attempt in range(1, 1000):
            path = Path(root).expanduser() / (name if attempt == 1 else f"{name}-{attempt}")
            with contextlib.suppress(FileExistsError):
                _make(path, may_exist=False)
                return cls(path)
        raise BadInput(f"{root} holds a thousand runs called {name}")

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> "RunDirectory":
        """The folder of a run that exists.  Raises: `BadInput` saying what is missing or not a run."""
        path = Path(directory).expanduser()
        if not path.exists():
            siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise BadInput(f"{path} does not exist{did_you_mean(path.name, siblings)}")
        if not path.is_dir():
            raise BadInput(f"{path} is a file; a run is a folder with a config.json")
        run = cls(path)
        if not run.config_path.is_file():
            raise BadInput(f"{path} is not a Bellmark run: it has no config.json; see bellmark list runs")
        run.read_config()
        return run

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.json atomically, with `format`, `versions`, `machine` and `created` filled in.

        Raises: `BadInput` naming a value that is not plain (text, number, flag, null, list, table), or a
        field that is missing; `BellmarkError` where the disk refuses.
        """
        full = {
            "format": FORMAT,
            **config,
            "versions": config.get("versions", versions()),
            "machine": config.get("machine", machine()),
            "created": config.get(
                "created", datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            ),
        }
        plain = {name: _plain(value, name) for name, value in full.items()}
        _check_config(plain, "the configuration")
        write_atomic(self.config_path, (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode())

    def read_config(self) -> dict[str, Any]:
        """config.json.  Raises: `BadInput` saying what in it is missing or malformed."""
        path = self.config_path
        try:
            if path.stat().st_size > _LARGEST_CONFIG:
                raise BadInput(f"{path} is not a run's configuration: it has {path.stat().st_size:,} bytes")
            config = json.loads(path.read_bytes())
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"{path} is not JSON: the run's configuration is damaged") from None
        if not isinstance(config, dict):
            raise BadInput(f"{path} is not a run's configuration: it holds no table")
        _check_config(config, str(path))
        return config

    def metrics(self) -> dict[str, Any]:
        """The metrics so far as arrays; see `bellmark.run.metrics.read_metrics`."""
        return read_metrics(self.metrics_path)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process out while the block runs.

        The lock belongs to the process and ends with it, so a killed run leaves nothing to clean up.
        Raises: `DirectoryInUse` naming the process that holds it.
        """
        path = self.path / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise BellmarkError(f"{path} cannot be made: {disk.reason(error)}") from None
        try:
            _acquire(descriptor, self.path)
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            # The file stays: were it deleted, a third process could lock a new one beside a second that
            # waits.
            os.close(descriptor)

    def in_use_by(self) -> int | None:
        """The process that works here now (0 where its number is unknown), or None."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            return _holder(descriptor)
        except OSError:
            return None
        finally:
            os.close(descriptor)


def list_runs(root: str | os.PathLike[str] = "runs") -> list[RunDirectory]:
    """Every folder directly below `root` that has a readable configuration, oldest first."""
    found = []
    root = Path(root).expanduser()
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        run = RunDirectory(path)
        if run.config_path.is_file():
            with contextlib.suppress(BadInput):
                found.append((str(run.read_config()["created"]), path.name, run))
    return [run for _, _, run in sorted(found, key=lambda entry: entry[:2])]


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _make(path: Path, may_exist: bool = True) -> None:
    """Make the folder, its parents and `checkpoints`, and prove that files can be written there."""
    created = False
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory") from None
        try:
            path.mkdir()
            created = True
        except FileExistsError:
            if not may_exist:
                raise
            _refuse_content(path)
        (path / "checkpoints").mkdir(exist_ok=True)
        write_atomic(path / "checkpoints" / ".writable", b"")
        (path / "checkpoints" / ".writable").unlink()
    except FileExistsError:
        raise
    except (OSError, BellmarkError) as error:
        if isinstance(error, BadInput):
            raise
        if created:
            disk.remove(path)
        why = disk.reason(error) if isinstance(error, OSError) else str(error)
        raise BellmarkError(f"the run directory {path} cannot be made: {why}") from None


def _refuse_content(path: Path) -> None:
    if not path.is_dir():
        raise BadInput(f"{path} is a file; --directory must name a new or empty folder")
    if (path / "config.json").exists():
        raise BadInput(f"{path} holds a run already: bellmark resume {path}, or name another folder")
    if any(path.iterdir()):
        raise BadInput(f"{path} is not empty; --directory must name a new or empty folder")


def _acquire(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(descriptor)
        who = f"process {holder}" if holder else "another process"
        raise DirectoryInUse(f"{path} is in use by {who}; wait for it or stop it") from None
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL):
            raise
        message = f"the file system of {path} has no locks: make sure that only one process works there"
        warnings.warn(message, RuntimeWarning)


def _holder(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _plain(value: Any, name: str) -> Any:
    """`value` as JSON can hold it exactly; NumPy scalars and arrays become numbers and lists."""
    if hasattr(value, "tolist") and not isinstance(value, str | bytes):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        # JSON has no infinity; spaces without bounds need one.
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{place}]") for place, item in enumerate(value)]
    raise BadInput(f"{name} is {type(value).__name__}; a run's configuration holds numbers and text only")


def _check_config(config: Mapping[str, Any], where: str) -> None:
    if "format" not in config:
        raise BadInput(f"{where} is not a Bellmark run's configuration: it has no format number")
    if config["format"] != FORMAT:
        raise BadInput(f"{where} has format {config['format']!r:.40}; this Bellmark reads {FORMAT}")
    for name, kind in _REQUIRED.items():
        if name not in config:
            raise BadInput(f"{where} lacks {name!r}")
        if not isinstance(config[name], kind) or isinstance(config[name], bool):
            raise BadInput(f"{where}: {name!r} must be {_words(kind)}, got {config[name]!r:.60}")
    _check_named(config["algorithm"], {"name": str, "fields": dict}, f"{where}: algorithm")
    _check_named(config["environment"], {"id": str, "kind": str}, f"{where}: environment")
    if not config["seeds"] or not all(type(seed) is int for seed in config["seeds"]):
        raise BadInput(f"{where}: 'seeds' must be a list of whole numbers, got {config['seeds']!r:.60}")
    if config["steps"] < 1 or config["steps_per_iteration"] < 1:
        raise BadInput(f"{where}: 'steps' and 'steps_per_iteration' must be at least 1")


def _check_named(table: Mapping[str, Any], fields: Mapping[str, type], where: str) -> None:
    for name, kind in fields.items():
        if not isinstance(table.get(name), kind):
            raise BadInput(f"{where} must have a {name!r} that is {_words(kind)}")


def _words(kind: Any) -> str:
    return {dict: "a table", list: "a list", int: "a whole number", str: "text"}[kind]
