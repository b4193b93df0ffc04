"""One safe file per model: a safetensors container whose metadata is JSON. Loading it cannot run code.

Names may be text, numbers, truth values, None, and tuples of them; a tuple is written as `{"tuple": [...]}`,
so that it comes back a tuple.
"""

import json
import os
import struct
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bellmark.errors import BadInput, CorruptFile
from bellmark.mdp.layout import GridLayout

if TYPE_CHECKING:
    from bellmark.mdp.model import FiniteMDP

FORMAT = "bellmark-finite-mdp-1"
ARRAYS = ("successors", "probabilities", "offsets", "rewards", "available", "initial_distribution")
OPTIONAL = ("transition_rewards", "terminations", "counts")
FAULTS = (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""What reading a file that somebody else made up can end in, beside the container's own error."""


def save(mdp: "FiniteMDP", path: Path) -> Path:
    """Write atomically: a temporary file beside it, then a rename."""
    from safetensors.numpy import save_file

    present = [name for name in (*ARRAYS, *OPTIONAL) if getattr(mdp, name) is not None]
    arrays = {name: np.ascontiguousarray(getattr(mdp, name)) for name in present}
    metadata: dict[str, Any] = {
        "name": mdp.name,
        "discount": mdp.discount,
        "states": _encode_names(mdp.states, "state"),
        "actions": _encode_names(mdp.actions, "action"),
    }
    if mdp.layout is not None:
        arrays["layout_rows"], arrays["layout_columns"] = mdp.layout.rows, mdp.layout.columns
        metadata["layout"] = {
            "shape": list(mdp.layout.shape),
            "walls": [list(wall) for wall in mdp.layout.walls],
            "directions": [None if way is None else list(way) for way in mdp.layout.directions],
            "marks": [[state, mark] for state, mark in mdp.layout.marks.items()],
            "cliffs": list(mdp.layout.cliffs),
        }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    if not path.parent.is_dir():
        raise BadInput(f"cannot save to {path}: there is no directory {path.parent}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the user's umask has it; the container would make it private
        save_file(arrays, temporary, metadata={"format": FORMAT, "model": json.dumps(metadata)})
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load(path: Path) -> "FiniteMDP":
    """**Raises** `BadInput` if there is no such file, `CorruptFile` if `save` did not write it so."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from bellmark.mdp.model import FiniteMDP

    if not path.is_file():
        raise BadInput(f"there is no model file {path}")
    try:
        header = _header(path)
        arrays = load_file(path)
        metadata = json.loads(header["model"])
        layout = metadata.get("layout")
        tables: dict[str, Any] = {name: arrays[name] for name in ARRAYS}
        tables.update({name: arrays.get(name) for name in OPTIONAL})
        return FiniteMDP(
            **tables,
            states=_decode_names(metadata["states"]),
            actions=_decode_names(metadata["actions"]),
            name=str(metadata["name"]),
            discount=None if metadata["discount"] is None else float(metadata["discount"]),
            layout=None if layout is None else _layout(layout, arrays, len(arrays["rewards"])),
        )
    except (SafetensorError, *FAULTS) as error:
        raise CorruptFile(f"{path} is not a model that Bellmark saved, or it is damaged: {error}") from None


def is_model_file(path: Path) -> bool:
    """Whether the file claims to be one of ours; it may still be damaged."""
    try:
        _header(path)
    except (OSError, *FAULTS):
        return False
    return True


def _header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ValueError("it is too short")
        (length,) = struct.unpack("<Q", prefix)
        # A hostile length must not make us read, or allocate, more than there is.
        if length > path.stat().st_size:
            raise ValueError("its header is longer than the file")
        metadata = json.loads(file.read(length))["__metadata__"]
    if metadata["format"] != FORMAT:
        raise ValueError(f"its format is {metadata['format']!r}, not {FORMAT!r}")
    return metadata


def _layout(saved: dict[str, Any], arrays: dict[str, NDArray[Any]], states: int) -> GridLayout:
    rows, columns = arrays["layout_rows"], arrays["layout_columns"]
    if rows.shape != (states,) or columns.shape != (states,):
        raise ValueError("its layout does not fit its states")
    shape = (int(saved["shape"][0]), int(saved["shape"][1]))
    for cells, size in ((rows, shape[0]), (columns, shape[1])):
        if cells.dtype != np.int64 or cells.min() < -1 or cells.max() >= size:
            raise ValueError("its layout has cells outside the picture")
    marked = [int(state) for state, _ in saved["marks"]] + [int(state) for state in saved["cliffs"]]
    if any(not 0 <= state < states for state in marked) or min(shape) < 1 or shape[0] * shape[1] > 10**7:
        raise ValueError("its layout does not fit its states")
    return GridLayout(
        shape,
        rows,
        columns,
        tuple((int(row), int(column)) for row, column in saved["walls"]),
        tuple(None if way is None else (int(way[0]), int(way[1])) for way in saved["directions"]),
        {int(state): str(mark) for state, mark in saved["marks"]},
        tuple(int(state) for state in saved["cliffs"]),
    )


def _encode_names(names: Sequence[Hashable], kind: str) -> Any:
    if isinstance(names, range) and names == range(len(names)):
        return len(names)
    return [_encode(name, kind) for name in names]


def _encode(name: Any, kind: str) -> Any:
    if isinstance(name, tuple):
        return {"tuple": [_encode(part, kind) for part in name]}
    if isinstance(name, np.generic):
        name = name.item()
    if name is None or isinstance(name, str | bool | int | float):
        return name
    raise BadInput(
        f"the {kind} {name!r} cannot be saved; names may be text, numbers, booleans, None, or tuples of them"
    )


def _decode_names(saved: Any) -> Sequence[Hashable]:
    return range(saved) if isinstance(saved, int) else [_decode(name) for name in saved]


def _decode(saved: Any) -> Hashable:
    if isinstance(saved, dict):
        return tuple(_decode(part) for part in saved["tuple"])
    if isinstance(saved, list):
        raise ValueError("a name is a list")
    return saved
