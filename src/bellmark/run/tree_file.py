"""A PyTree of arrays in one safetensors file, bit for bit, and back.

A file is: the header's length (8 bytes, little-endian), a JSON header of names, dtypes, shapes and offsets,
the arrays. Names are the leaves' paths (`.policy.layers[0].weight`).  Typed PRNG keys are stored as their
uint32 data, with the generator's name in the header's metadata.  Reading needs a template: it says which
leaves, shapes and dtypes are expected, so a file can neither add anything nor make the reader allocate more
than the template holds.

The safetensors package writes a file in one piece and hashes nothing; its NumPy reader (0.8) has no
bfloat16.  Here both directions stream, and the SHA-256 is computed on the way.  Format:
https://github.com/huggingface/safetensors
"""

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bellmark.errors import BadInput, BellmarkError, CorruptFile
from bellmark.run.disk import reason, replacing, write_all

_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
_LONGEST_HEADER = 100_000_000
_CHUNK = 1 << 20


class Misfit(CorruptFile):
    """The file is what was written, but it holds another tree than the template."""


class Slot(NamedTuple):
    """What one leaf looks like in a file; `generator` is the PRNG's name for a key, or empty."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    generator: str

    @property
    def code(self) -> str:
        return _CODES[self.dtype.name]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        kind = f"PRNG key ({self.generator})" if self.generator else self.dtype.name
        return f"{kind} {list(self.shape)}"


def save_tree(path: str | os.PathLike[str], tree: Any) -> str:
    """Write `tree` to `path` atomically and return the file's SHA-256.

    Raises: `BadInput` naming a leaf that is not an array, `BellmarkError` where the disk refuses.
    """
    path = Path(path)
    leaves = slots(tree)
    try:
        with replacing(path) as descriptor:
            return write_tree(descriptor, leaves)
    except OSError as error:
        raise BellmarkError(f"{path} was not written: {reason(error)}") from None


def load_tree(path: str | os.PathLike[str], template: Any, sha256: str | None = None) -> Any:
    """The tree in `path`, in the structure of `template`, whose leaves may be `jax.ShapeDtypeStruct`s.

    NumPy leaves come back as NumPy arrays, all others as JAX arrays.  Nothing in the file is executed.
    Raises: `CorruptFile` saying what is wrong, and with which leaf; `Misfit` (a `CorruptFile`) where the
    file is sound but the template is another tree's.
    """
    expected = slots(template)
    with _opened(Path(path)) as descriptor:
        reader = _Reader(descriptor, Path(path), os.fstat(descriptor).st_size)
        return reader.tree(expected, jax.tree_util.tree_structure(template), sha256)


def slots(tree: Any) -> list[tuple[Slot, Any]]:
    """Every leaf of `tree` with its place in a file, in the tree's own order."""
    found: list[tuple[Slot, Any]] = []
    names = set()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path) or "."
        if name in names:
            raise BadInput(f"two leaves of the state are called {name}; they cannot be told apart in a file")
        names.add(name)
        found.append((_slot(name, leaf), leaf))
    return found


def write_tree(
    descriptor: int, leaves: list[tuple[Slot, Any]], metadata: dict[str, str] | None = None
) -> str:
    """Stream the leaves to an open file and return its SHA-256; `metadata` joins the header's."""
    # Wide dtypes first, as the format asks: every array then starts at a multiple of its item size.
    ordered = sorted(leaves, key=lambda pair: -pair[0].dtype.itemsize)
    entries: dict[str, Any] = {}
    generators = {slot.name: slot.generator for slot, _ in ordered if slot.generator}
    if generators or metadata:
        entries["__metadata__"] = {**(metadata or {}), **generators}
    offset = 0
    for slot, _ in ordered:
        span = [offset, offset + slot.bytes]
        entries[slot.name] = {"dtype": slot.code, "shape": list(slot.shape), "data_offsets": span}
        offset += slot.bytes
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    digest = hashlib.sha256()
    _put(descriptor, memoryview(len(header).to_bytes(8, "little") + header), digest)
    for slot, leaf in ordered:
        array = np.asarray(jax.random.key_data(leaf) if slot.generator else leaf)
        little = np.ascontiguousarray(array, slot.dtype.newbyteorder("<"))
        _put(descriptor, little.reshape(-1).view(np.uint8).data, digest)
    return digest.hexdigest()


def _put(descriptor: int, data: memoryview, digest: Any) -> None:
    for start in range(0, data.nbytes, _CHUNK):
        # Hashed while it is in the processor's cache, and before the write, which may be slow.
        piece = data[start : start + _CHUNK]
        digest.update(piece)
        write_all(descriptor, piece)


def _slot(name: str, leaf: Any) -> Slot:
    if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
        raise BadInput(f"{name} is {type(leaf).__name__} {str(leaf)[:60]!r}; only arrays can be saved")
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jax.eval_shape(jax.random.key_data, leaf)
        return Slot(name, np.dtype(data.dtype), tuple(data.shape), _generator(leaf))
    dtype = np.dtype(leaf.dtype)
    if dtype.name not in _CODES:
        raise BadInput(f"{name} has dtype {dtype.name}, which cannot be saved; allowed: {', '.join(_CODES)}")
    return Slot(name, dtype, tuple(leaf.shape), "")


def _generator(key: Any) -> str:
    found: list[Any] = []
    jax.eval_shape(lambda traced: found.append(jax.random.key_impl(traced)), key)
    return str(found[0])


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A regular file, opened for reading; neither a link nor a pipe that would never answer."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise CorruptFile(f"{path} cannot be read: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CorruptFile(f"{path} is not a regular file")
        yield descriptor
    except OSError as error:
        raise CorruptFile(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def read_small(path: Path, limit: int) -> bytes:
    """A whole file of at most `limit` bytes.  Raises: `CorruptFile`."""
    with _opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise CorruptFile(f"{path} has {size:,} bytes; at most {limit:,} are expected")
        data = bytearray(size)
        if _fill(descriptor, memoryview(data)) != size:
            raise CorruptFile(f"{path} changed while it was read")
        return bytes(data)


def _fill(descriptor: int, target: memoryview) -> int:
    filled = 0
    while filled < target.nbytes:
        count = os.readv(descriptor, [target[filled : filled + _CHUNK]])
        if count == 0:
            break
        filled += count
    return filled


class _Reader:
    """One pass over a file: everything that is read is hashed."""

    def __init__(self, descriptor: int, path: Path, size: int):
        self.descriptor = descriptor
        self.path = path
        self.size = size
        self.digest = hashlib.sha256()

    def take(self, target: memoryview) -> None:
        """Fill `target`, or say that the file ends too early."""
        for start in range(0, target.nbytes, _CHUNK):
            piece = target[start : start + _CHUNK]
            if _fill(self.descriptor, piece) != piece.nbytes:
                raise CorruptFile(f"{self.path} is cut short")
            self.digest.update(piece)

    def tree(self, expected: list[tuple[Slot, Any]], structure: Any, sha256: str | None) -> Any:
        try:
            header, data_bytes = self.header()
            spans = _spans(header, data_bytes, expected)
        except Misfit as misfit:
            self.rest()
            self.verify(sha256)
            raise Misfit(f"{self.path} does not fit: {misfit}") from None
        except CorruptFile as problem:
            raise CorruptFile(f"{self.path} is damaged: {problem}") from None
        arrays: dict[str, Any] = {}
        for _, slot, leaf in sorted(spans, key=lambda span: span[0]):
            # what is mapped from a file may be larger than memory: it is filled where it lies
            mapped = isinstance(leaf, np.memmap) and slot.dtype == slot.dtype.newbyteorder("<")
            buffer = leaf if mapped else np.empty(slot.shape, slot.dtype.newbyteorder("<"))
            self.take(buffer.reshape(-1).view(np.uint8).data)
            arrays[slot.name] = _restored(buffer.astype(slot.dtype, copy=False), slot, leaf)
        self.verify(sha256)
        return structure.unflatten([arrays[slot.name] for slot, _ in expected])

    def header(self) -> tuple[dict[str, Any], int]:
        length = bytearray(8)
        self.take(memoryview(length))
        count = int.from_bytes(length, "little")
        if count > min(_LONGEST_HEADER, self.size - 8):
            raise CorruptFile(f"its header claims {count:,} bytes, and the file has {self.size:,}")
        text = bytearray(count)
        self.take(memoryview(text))
        header = parse_json(bytes(text), "its header")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise CorruptFile("its header's metadata is not a table")
        for name, entry in header.items():
            _check_entry(name, entry)
            entry["generator"] = metadata.get(name, "")
        return header, self.size - 8 - count

    def rest(self) -> None:
        while piece := os.read(self.descriptor, _CHUNK):
            self.digest.update(piece)

    def verify(self, sha256: str | None) -> None:
        if sha256 is not None and self.digest.hexdigest() != sha256:
            raise CorruptFile(f"{self.path} is damaged: its SHA-256 is not the one that was written")


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object.  Raises: `CorruptFile` for anything else, however deeply nested."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise CorruptFile(f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise CorruptFile(f"{what} is not a JSON object")
    return value


def whole(value: Any) -> bool:
    """Whether `value` is a whole number that is not negative (JSON's true is not)."""
    return type(value) is int and 0 <= value < 1 << 63


def _check_entry(name: str, entry: Any) -> None:
    sound = (
        isinstance(entry, dict)
        and isinstance(entry.get("dtype"), str)
        and isinstance(entry.get("shape"), list)
        and all(map(whole, entry["shape"]))
        and isinstance(entry.get("data_offsets"), list)
        and len(entry["data_offsets"]) == 2
        and all(map(whole, entry["data_offsets"]))
    )
    if not sound:
        raise CorruptFile(f"its header's entry for {name[:80]} is malformed")


def _spans(
    header: dict[str, Any], data_bytes: int, expected: list[tuple[Slot, Any]]
) -> list[tuple[int, Slot, Any]]:
    """Where each expected leaf lies, after checking that the file holds those leaves and not a byte more."""
    missing = [slot.name for slot, _ in expected if slot.name not in header]
    surplus = sorted(header.keys() - {slot.name for slot, _ in expected})
    if missing or surplus:
        words = [f"it lacks {_some(missing)}"] if missing else []
        words += [f"it also holds {_some(surplus)}"] if surplus else []
        raise Misfit(" and ".join(words))
    for slot, _ in expected:
        entry = header[slot.name]
        kind = f"PRNG key ({entry['generator']})" if entry["generator"] else _dtype_name(entry["dtype"])
        held = f"{kind} {entry['shape']}"
        if held != str(slot):
            raise Misfit(f"{slot.name} is {held[:120]} in the file, {slot} is expected")
    spans = [(header[slot.name]["data_offsets"], slot, leaf) for slot, leaf in expected]
    end = 0
    for span, slot, _ in sorted(spans, key=lambda entry: entry[0]):
        if span != [end, end + slot.bytes]:
            raise CorruptFile(f"the bytes of {slot.name} are not where they should be")
        end += slot.bytes
    if end != data_bytes:
        raise CorruptFile(f"it has {data_bytes:,} bytes of arrays; {end:,} are expected")
    return [(span[0], slot, leaf) for span, slot, leaf in spans]


def _dtype_name(code: str) -> str:
    return next((name for name, known in _CODES.items() if known == code), code[:20])


def _some(names: list[str]) -> str:
    return ", ".join(name[:80] for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )


def _restored(array: np.ndarray, slot: Slot, leaf: Any) -> Any:
    """The leaf as the template has it: NumPy or JAX, a key or its data, where it was."""
    if isinstance(leaf, np.ndarray | np.generic):
        return array[()] if isinstance(leaf, np.generic) else array
    if slot.generator:
        value = jax.random.wrap_key_data(jnp.array(array), impl=slot.generator)
    elif getattr(leaf, "weak_type", False):
        value = _weakly_typed(array)
    else:
        value = jnp.array(array)
    return jax.device_put(value, leaf.sharding) if getattr(leaf, "committed", False) else value


def _weakly_typed(array: np.ndarray) -> Any:
    """An array that promotes as `jnp.full(3, 0.0)` does: to JAX another type than float32."""
    zero = {"f": 0.0, "i": 0, "c": 0j}.get(array.dtype.kind)
    weak = None if zero is None else jnp.full(array.shape, zero)
    return jnp.array(array) if weak is None or weak.dtype != array.dtype else weak.at[...].set(array)
