"""Named tensors on disk: safetensors files, single or sharded.

    model.safetensors                      one file, or
    model-00001-of-00003.safetensors, …    several, with
    model.safetensors.index.json           {"weight_map": {tensor: file}}

A file is mapped, not read: a tensor costs memory when it is asked for.  Nothing in it is executed.  The safetensors
package's NumPy reader has no bfloat16; this one has.  Format: https://github.com/huggingface/safetensors
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from bellmark.errors import BadInput, BellmarkError, CorruptFile
from bellmark.run.disk import reason, replacing, write_atomic
from bellmark.run.tree_file import Slot, parse_json, read_small, write_tree

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_LONGEST_HEADER = 100_000_000
SHARD_BYTES = 5_000_000_000
"""Files are cut at this size when they are written."""


class Stored(NamedTuple):
    """One tensor that waits on disk: its shape, and how to have it as an array."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def read_folder(folder: Path) -> dict[str, Stored]:
    """Every tensor of a folder, by name.  Raises: `BadInput` where there is none, `CorruptFile` for damaged files."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.is_file():
        return read_file(single)
    if not index.is_file():
        found = sorted(
            path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".gguf")
        )
        hint = f" (it holds {', '.join(found[:4])})" if found else ""
        raise BadInput(f"{folder} holds neither model.safetensors nor model.safetensors.index.json{hint}")
    where = parse_json(read_small(index, _LONGEST_HEADER), f"{index}").get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise CorruptFile(f"{index} has no weight_map")
    files: dict[str, dict[str, Stored]] = {}
    for name in sorted(set(where.values())):
        if Path(name).name != name:
            raise CorruptFile(f"{index} points out of its folder, to {name[:80]!r}")
        if not (folder / name).is_file():
            raise BadInput(
                f"{folder} lacks {name}, one of the {len(set(where.values()))} files of this model"
            )
        files[name] = read_file(folder / name)
    for tensor, name in where.items():
        if tensor not in files[name]:
            raise CorruptFile(f"{folder / name} lacks {tensor}, which {index.name} promises")
    return {tensor: files[name][tensor] for tensor, name in where.items()}


def read_file(path: Path) -> dict[str, Stored]:
    """Every tensor of one safetensors file, by name."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(_LONGEST_HEADER, size - 8):
                raise CorruptFile(
                    f"{path} is no safetensors file: its header claims {length:,} of {size:,} bytes"
                )
            header = parse_json(file.read(length), f"the header of {path}")
    except OSError as error:
        raise CorruptFile(f"{path} cannot be read: {error.strerror}") from None
    header.pop("__metadata__", None)
    return {name: _stored(path, 8 + length, size, name, entry) for name, entry in header.items()}


def _stored(path: Path, start: int, size: int, name: str, entry: Any) -> Stored:
    try:
        shape = tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
        code = entry["dtype"]
    except (KeyError, TypeError, ValueError):
        raise CorruptFile(f"{path}: the header's entry for {name[:80]} is malformed") from None
    if code not in _DTYPES:
        raise BadInput(f"{path}: {name} is stored as {code}; allowed: {', '.join(_DTYPES)}")
    dtype = np.dtype(_DTYPES[code])
    if min(shape, default=0) < 0 or not 0 <= begin <= end <= size - start:
        raise CorruptFile(f"{path}: {name} lies outside the file; was it copied whole?")
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise CorruptFile(f"{path}: {name} is {code} {list(shape)} and has {end - begin:,} bytes")

    def read() -> np.ndarray:
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        little = dtype if dtype.kind == "V" else dtype.newbyteorder("<")
        return np.memmap(path, little, "r", start + begin, shape)

    return Stored(shape, read)


def write_folder(
    folder: Path, tensors: Mapping[str, Callable[[], np.ndarray]], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write tensors under the names that `read_folder` looks for; the last file to appear is what makes them a model.

    A tensor is asked for when its turn comes, and again when its bytes are written: no second copy is made.
    """
    shards: list[list[tuple[Slot, Callable[[], np.ndarray]]]] = [[]]
    filled = total = 0
    for name, tensor in tensors.items():
        array = tensor()
        slot = Slot(name, array.dtype, array.shape, "")
        if shards[-1] and filled + slot.bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((slot, tensor))
        filled, total = filled + slot.bytes, total + slot.bytes
    if len(shards) == 1:
        _write(folder / "model.safetensors", shards[0])
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
        return
    where = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write(folder / name, shard)
        where.update({slot.name: name for slot, _ in shard})
    index = {"metadata": {"total_size": total}, "weight_map": where}
    write_atomic(folder / "model.safetensors.index.json", (json.dumps(index, indent=1) + "\n").encode())
    (folder / "model.safetensors").unlink(missing_ok=True)


def _write(path: Path, shard: list[tuple[Slot, Callable[[], np.ndarray]]]) -> None:
    try:
        with replacing(path) as descriptor:
            write_tree(descriptor, list(_asked(shard)), {"format": "pt"})
    except OSError as error:
        raise BellmarkError(f"{path} was not written: {reason(error)}") from None


def _asked(shard: list[tuple[Slot, Callable[[], np.ndarray]]]) -> Iterator[tuple[Slot, Any]]:
    for slot, tensor in shard:
        yield slot, _Late(tensor)


class _Late:
    """An array that is made when it is converted: what `write_tree` does leaf by leaf."""

    def __init__(self, make: Callable[[], np.ndarray]):
        self.make = make

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.make(), dtype)
