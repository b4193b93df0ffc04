"""metrics.jsonl: one JSON object per line, appended while a run goes on, cut back to a checkpoint on resume.

{"iteration": 12, "step": 12288, "seconds": 1.234, "metrics": {"loss/policy": [one number per seed, or
null]}}
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bellmark.errors import BellmarkError, CorruptFile
from bellmark.run import disk

_TAIL = 1 << 18
_COLUMNS = {"iteration": np.int64, "step": np.int64, "seconds": np.float64}


class MetricsWriter:
    """Appends rows to a metrics file.

    Each `append` reaches the operating system before it returns, so a killed process loses nothing of it;
    `sync` makes it survive a power cut, and belongs before every checkpoint that states `bytes_written`.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor: int | None = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise BellmarkError(f"{self.path} cannot be opened: {disk.reason(error)}") from None
        self.bytes_written = os.fstat(self._descriptor).st_size

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; NaN and infinities become null.

        Raises: `BellmarkError` where the disk refuses; a torn line is then cut off again.
        """
        data = "".join(json.dumps(_row(row), separators=(",", ":")) + "\n" for row in rows).encode()
        descriptor = self._open()
        try:
            disk.write_all(descriptor, memoryview(data))
        except OSError as error:
            self._cut(self.bytes_written)
            raise BellmarkError(f"{self.path} was not written: {disk.reason(error)}") from None
        self.bytes_written += len(data)

    def sync(self) -> int:
        """Bring everything to the disk and return `bytes_written`, for the checkpoint's manifest."""
        try:
            os.fsync(self._open())
        except OSError as error:
            raise BellmarkError(f"{self.path} was not written: {disk.reason(error)}") from None
        return self.bytes_written

    def truncate_to(self, length: int) -> None:
        """Forget everything after the first `length` bytes: what a killed run wrote after its last
        checkpoint.

        Raises: `CorruptFile` where the file is shorter, or where a row would be cut in two.
        """
        if length > self.bytes_written:
            raise CorruptFile(f"{self.path} has {self.bytes_written:,} bytes, its checkpoint says {length:,}")
        if length and os.pread(self._open(), 1, length - 1) != b"\n":
            raise CorruptFile(f"{self.path} has no row that ends at byte {length:,}, as its checkpoint says")
        try:
            os.ftruncate(self._open(), length)
            os.fsync(self._open())
        except OSError as error:
            raise BellmarkError(f"{self.path} was not cut back: {disk.reason(error)}") from None
        self.bytes_written = length

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> int:
        if self._descriptor is None:
            raise BellmarkError(f"{self.path} is closed")
        return self._descriptor

    def _cut(self, length: int) -> None:
        try:
            os.ftruncate(self._open(), length)
        except OSError:
            return  # readers tolerate a torn last line, and `truncate_to` cuts it on resume


def read_metrics(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The rows of a metrics file as columns.

    Returns: `iteration`, `step` (int64 [rows]), `seconds` (float64 [rows]) and each metric (float64 [rows,
    seeds]), with NaN where a row has null or lacks the metric.  A last line that was torn by a kill is left
    out.
    Raises: `CorruptFile` naming the line of any other damage; `BellmarkError` where the file cannot be read.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise BellmarkError(f"{path} cannot be read: {disk.reason(error)}") from None
    rows = [_parsed(path, number, line) for number, line in enumerate(lines[:-1], 1) if line]
    columns: dict[str, NDArray[Any]] = {
        name: np.array([row[name] for row in rows], kind) for name, kind in _COLUMNS.items()
    }
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    seeds = max((len(values) for row in rows for values in row["metrics"].values()), default=0)
    for name in names:
        table = np.full((len(rows), seeds), np.nan)
        for place, row in enumerate(rows):
            values = row["metrics"].get(name)
            if values is not None:
                table[place, : len(values)] = np.array(values, np.float64)  # None becomes NaN
        columns[name] = table
    return columns


def last_numbers(path: str | os.PathLike[str]) -> tuple[int, float | None]:
    """The step of the last row (0 without one) and the newest return, as the mean over seeds that had one.

    Only the end of the file is read; damage elsewhere goes unnoticed.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return 0, None
    step = 0
    for line in reversed(lines):
        try:
            row = _parsed(path, 0, line)
        except CorruptFile:
            continue  # the first line of the tail is seldom whole
        step = max(step, row["step"])
        returns = [value for value in row["metrics"].get("episode/return", ()) if value is not None]
        if returns:
            return step, sum(returns) / len(returns)
    return step, None


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    plain = {"iteration": int(row["iteration"]), "step": int(row["step"]), "seconds": float(row["seconds"])}
    return {**plain, "metrics": {name: _numbers(values) for name, values in row["metrics"].items()}}


def _numbers(values: Any) -> list[float | int | None]:
    array = np.asarray(values, object) if isinstance(values, list | tuple) else np.asarray(values)
    return [_number(value) for value in np.atleast_1d(array)]


def _number(value: Any) -> float | int | None:
    if value is None or not math.isfinite(value):
        return None
    if isinstance(value, bool | np.bool_ | int | np.integer):
        return int(value)
    return float(str(value))  # the shortest decimal of a float32 keeps it exactly, in half the characters


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        sound = (
            type(row["iteration"]) is int
            and type(row["step"]) is int
            and type(row["seconds"]) in (int, float)
            and all(isinstance(values, list) for values in row["metrics"].values())
            and all(type(v) in (int, float, type(None)) for values in row["metrics"].values() for v in values)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise CorruptFile(f"{path}, line {number}: not a row of metrics")
    return row
