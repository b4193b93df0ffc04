"""Checkpoints: the whole state of a run at one step, verified when it is read, never half-written.

    <run>/checkpoints/000000012288/
        state.safetensors   every array of the state
        manifest.json       iteration, step, seconds, metrics_bytes, and the SHA-256 of the state

A checkpoint is written under a temporary name, fsynced, renamed, and its folder fsynced; only then are old
ones deleted. So whatever kills the process, the newest folder with a proper name is complete, and `load`
proves it by its hash.
"""

import dataclasses
import json
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bellmark.errors import BadInput, BellmarkError, CorruptFile
from bellmark.run import disk
from bellmark.run.tree_file import (
    Misfit,
    Slot,
    load_tree,
    parse_json,
    read_small,
    save_tree,
    slots,
    whole,
    write_tree,
)

__all__ = ["Checkpoint", "Misfit", "latest", "load", "load_tree", "save", "save_tree", "steps"]

FORMAT = 1
_STATE = "state.safetensors"
_MANIFEST = "manifest.json"
_NAME = re.compile(r"(\d{12,18})(\.old)?")
_NUMBERS = ("iteration", "step", "seconds", "metrics_bytes")
_LARGEST_MANIFEST = 1 << 20


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified; `warnings` says which newer ones were not good, and why."""

    state: Any
    iteration: int
    step: int
    seconds: float
    metrics_bytes: int
    path: Path
    warnings: tuple[str, ...] = ()


def save(
    directory: str | os.PathLike[str],
    state: Any,
    *,
    iteration: int,
    step: int,
    seconds: float,
    metrics_bytes: int,
    keep: int = 3,
) -> Path:
    """Write a checkpoint into the run `directory`, delete all but the newest `keep`, and return its folder.

    Checkpoints of a later step belong to a future that was given up when an earlier one was resumed; they
    go too.
    Raises: `BadInput` naming a leaf that is not an array, `BellmarkError` where the disk refuses; in both
    cases the earlier checkpoints stand as they were, and nothing of this one remains.
    """
    if keep < 1:
        raise BadInput(f"keep must be at least 1, got {keep}")
    leaves = slots(state)
    folder = Path(directory) / "checkpoints"
    target = folder / f"{step:012d}"
    manifest = {"iteration": iteration, "step": step, "seconds": seconds, "metrics_bytes": metrics_bytes}
    _check_numbers(manifest)
    temporary = folder / disk.temporary_name(target.name)
    try:
        folder.mkdir(exist_ok=True)
        disk.remove_leftovers(folder)
        temporary.mkdir()
        with _new_file(temporary / _STATE) as descriptor:
            digest = write_tree(descriptor, leaves)
        content = json.dumps({"format": FORMAT, **manifest, "files": {_STATE: digest}}, indent=1)
        with _new_file(temporary / _MANIFEST) as descriptor:
            disk.write_all(descriptor, memoryview(content.encode()))
        _put_in_place(temporary, target)
    except OSError as error:
        disk.remove(temporary)
        raise BellmarkError(_not_saved(error, folder, step, leaves)) from None
    except BaseException:
        disk.remove(temporary)
        raise
    _prune(folder, step, keep)
    return target


def load(path: str | os.PathLike[str], template: Any) -> Checkpoint:
    """The checkpoint in the folder `path`, with the state in the structure of `template`.

    Raises: `CorruptFile` saying what is wrong; `Misfit` (a `CorruptFile`) where the file is sound but the
    template belongs to another state.
    """
    path = Path(path)
    manifest_path = path / _MANIFEST
    manifest = parse_json(read_small(manifest_path, _LARGEST_MANIFEST), str(manifest_path))
    if manifest.get("format") != FORMAT:
        raise CorruptFile(
            f"{manifest_path} has format {manifest.get('format')!r:.40}; this version reads {FORMAT}"
        )
    numbers: dict[str, Any] = {name: manifest.get(name) for name in _NUMBERS}
    try:
        _check_numbers(numbers)
    except BadInput as problem:
        raise CorruptFile(f"{manifest_path}: {problem}") from None
    files = manifest.get("files")
    # The names are compared, never opened: a manifest cannot lead anywhere.
    if not isinstance(files, dict) or list(files) != [_STATE] or not isinstance(files[_STATE], str):
        raise CorruptFile(f"{manifest_path} does not name {_STATE}, and only that, with its SHA-256")
    state = load_tree(path / _STATE, template, files[_STATE])
    return Checkpoint(state=state, path=path, **numbers)


def latest(directory: str | os.PathLike[str], template: Any) -> Checkpoint:
    """The newest good checkpoint of the run `directory`.

    Raises: `CorruptFile` where there is none, with the reason for each; `Misfit` at once where a sound
    checkpoint holds another state than `template`, because an older one would, too.
    """
    problems: list[str] = []
    for path in reversed(_found(Path(directory) / "checkpoints")):
        try:
            found = load(path, template)
        except Misfit:
            raise
        except CorruptFile as problem:
            problems.append(str(problem))
            continue
        notes = tuple(f"{problem}; going back to step {found.step:,}" for problem in problems)
        return dataclasses.replace(found, warnings=notes)
    if problems:
        raise CorruptFile("no checkpoint is good: " + "; ".join(problems))
    raise CorruptFile(f"{directory} has no checkpoint yet: there is nothing to go on from")


def steps(directory: str | os.PathLike[str]) -> list[int]:
    """The steps at which a checkpoint stands, in order; the files themselves are not read."""
    return sorted({_key(path.name)[0] for path in _found(Path(directory) / "checkpoints")})


def _check_numbers(numbers: dict[str, Any]) -> None:
    for name in ("iteration", "step", "metrics_bytes"):
        if not whole(numbers[name]):
            raise BadInput(f"{name} must be a whole number from 0, got {numbers[name]!r:.60}")
    seconds = numbers["seconds"]
    if not whole(seconds) and not (type(seconds) is float and math.isfinite(seconds) and seconds >= 0):
        raise BadInput(f"seconds must be a number from 0, got {seconds!r:.60}")


@contextmanager
def _new_file(path: Path) -> Iterator[int]:
    descriptor = disk.create(path)
    try:
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename the finished folder.  A folder of the same step is kept as `.old` until the new one stands."""
    disk.fsync_folder(temporary)
    old = target.with_name(target.name + ".old")
    if os.path.lexists(target):
        disk.remove(old)
        target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        if os.path.lexists(old):
            with suppress(OSError):
                old.rename(target)
        raise
    disk.fsync_folder(target.parent)
    disk.remove(old)


def _not_saved(error: OSError, folder: Path, step: int, leaves: list[tuple[Slot, Any]]) -> str:
    needed = sum(slot.bytes for slot, _ in leaves) / 1e6
    standing = [_key(path.name)[0] for path in _found(folder)]
    rest = f"the checkpoint at step {standing[-1]:,} stands" if standing else "there is no earlier checkpoint"
    return f"no checkpoint at step {step:,} ({needed:.1f} MB) in {folder}: {disk.reason(error)}; {rest}"


def _key(name: str) -> tuple[int, bool]:
    """Orders names by step; of two at one step the one that replaced the other comes last."""
    return int(name.removesuffix(".old")), not name.endswith(".old")


def _found(folder: Path) -> list[Path]:
    """The checkpoint folders by step, oldest first: no leftovers, no links, no foreign names."""
    names: list[str] = []
    with suppress(OSError), os.scandir(folder) as entries:
        names = [e.name for e in entries if _NAME.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    return [folder / name for name in sorted(names, key=_key)]


def _prune(folder: Path, step: int, keep: int) -> None:
    """Delete abandoned futures and all but the newest `keep`.

    Each is renamed first, so that none is ever half there under its own name.
    """
    found = _found(folder)
    later = [path for path in found if _key(path.name)[0] > step]
    earlier = [path for path in found if _key(path.name)[0] <= step]
    for path in later + earlier[:-keep]:
        doomed = folder / disk.temporary_name(path.name)
        try:
            path.rename(doomed)
        except OSError as error:
            warnings.warn(f"the old checkpoint {path} was not deleted: {disk.reason(error)}", RuntimeWarning)
            continue
        disk.remove(doomed)
