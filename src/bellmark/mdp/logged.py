"""From logged experience to the maximum-likelihood `FiniteMDP`.

    p(s' | s, a) = n(s, a, s') / n(s, a),    r(s, a, s') = mean of the rewards seen there

Counting is vectorised: names become integers once, and one sort groups equal transitions, so ten million
logged steps take seconds. (The certainty-equivalent model; see Sutton & Barto, 2018, section 6.3.)
"""

import contextlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bellmark.errors import BadInput
from bellmark.mdp.builders import Names, assemble
from bellmark.mdp.model import FiniteMDP

COLUMNS = ("state", "action", "reward", "next_state", "terminated")


def from_transitions(
    logged: Iterable[tuple[Hashable, Hashable, float, Hashable, bool]] | Mapping[str, ArrayLike],
    initial_distribution: ArrayLike | Mapping[Hashable, float] | None,
    *,
    states: Sequence[Hashable],
    actions: Sequence[Hashable],
    name: str,
    discount: float | None,
) -> FiniteMDP:
    """See `FiniteMDP.from_transitions`."""
    state, action, reward, successor, terminated = _columns(logged)
    known_states, (s, n) = _number(states, {"state": state, "next_state": successor})
    known_actions, (a,) = _number(actions, {"action": action})
    shape = (len(known_states), len(known_actions))
    pair = s * shape[1] + a
    # One key per distinct (pair, successor, terminated): np.unique groups them and sorts into pair order.
    key = (pair * shape[0] + n) * 2 + terminated
    groups, group_of, counts = np.unique(key, return_inverse=True, return_counts=True)
    paid = np.bincount(group_of, weights=reward, minlength=len(groups)) / counts
    pairs, rest = np.divmod(groups, 2 * shape[0])
    tried = np.bincount(pairs, weights=counts, minlength=shape[0] * shape[1])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(pairs, minlength=shape[0] * shape[1]))])
    return assemble(
        shape,
        (rest // 2).astype(np.int32),
        counts / tried[pairs],
        offsets.astype(np.int64),
        paid,
        (tried > 0).reshape(shape),
        (rest % 2).astype(np.bool_),
        _initial(initial_distribution, known_states),
        Names(_names(known_states), _names(known_actions), name, discount),
        counts.astype(np.int64),
    )


def _columns(logged: Any) -> tuple[Any, Any, NDArray[np.float64], Any, NDArray[np.bool_]]:
    if isinstance(logged, Mapping):
        missing = [column for column in COLUMNS if column not in logged]
        if missing:
            raise BadInput(f"logged transitions lack {missing}; the columns are {list(COLUMNS)}")
        columns = [
            logged[name] if isinstance(logged[name], np.ndarray) else list(logged[name]) for name in COLUMNS
        ]
    else:
        rows = list(logged)
        for index, row in enumerate(rows):
            if not isinstance(row, Sequence) or len(row) != len(COLUMNS):
                raise BadInput(f"logged transition {index} is {row!r}; it must be ({', '.join(COLUMNS)})")
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in COLUMNS]
    sizes = [len(column) for column in columns]
    if len(set(sizes)) != 1:
        raise BadInput(f"the logged columns have different lengths: {dict(zip(COLUMNS, sizes, strict=True))}")
    if sizes[0] == 0:
        raise BadInput("there are no logged transitions to learn from")
    state, action, reward, successor, terminated = columns
    paid = np.asarray(reward, np.float64)
    if not np.isfinite(paid).all():
        index = int(np.argmin(np.isfinite(paid)))
        raise BadInput(f"logged transition {index} has reward {paid[index]}; rewards must be finite")
    return state, action, paid, successor, np.asarray(terminated, np.bool_)


def _number(
    given: Sequence[Hashable], columns: dict[str, Any]
) -> tuple[dict[Hashable, int], list[NDArray[np.int64]]]:
    """({name: number}, each column as numbers). The names are `given`, or else all that occur, sorted if possible."""
    arrays = [column for column in columns.values() if isinstance(column, np.ndarray) and column.ndim == 1]
    if len(arrays) == len(columns) and not len(given):
        # One sort in C instead of a dictionary look-up per step.
        names, codes = np.unique(np.concatenate(arrays), return_inverse=True)
        known: dict[Hashable, int] = {name: index for index, name in enumerate(names.tolist())}
        return known, np.split(codes.astype(np.int64), np.cumsum([len(array) for array in arrays])[:-1])
    listed = {
        kind: column.tolist() if isinstance(column, np.ndarray) else column
        for kind, column in columns.items()
    }
    known = {name: index for index, name in enumerate(given or _seen(listed))}
    return known, [_look_up(column, known, kind) for kind, column in listed.items()]


def _seen(columns: dict[str, list[Any]]) -> list[Hashable]:
    try:
        seen = list(dict.fromkeys(name for column in columns.values() for name in column))
    except TypeError as error:
        raise BadInput(f"{next(iter(columns))}s must be hashable: {error}") from None
    with contextlib.suppress(TypeError):  # names of mixed kinds have no order: first seen, first numbered
        seen.sort()
    return seen


def _look_up(column: list[Any], numbers: dict[Hashable, int], kind: str) -> NDArray[np.int64]:
    try:
        return np.fromiter((numbers[name] for name in column), np.int64, len(column))
    except KeyError as error:
        raise BadInput(f"a logged {kind} is {error.args[0]!r}, which is not among the names given") from None


def _names(numbers: dict[Hashable, int]) -> Sequence[Hashable]:
    """A range where the names are 0, 1, 2, …, so that looking a state up costs nothing."""
    names = list(numbers)
    return range(len(names)) if names == list(range(len(names))) else names


def _initial(given: Any, numbers: dict[Hashable, int]) -> Any:
    if not isinstance(given, Mapping):
        return given
    initial = np.zeros(len(numbers))
    for state, weight in given.items():
        if state not in numbers:
            raise BadInput(f"the initial distribution names {state!r}, which is not a state of the model")
        initial[numbers[state]] = weight
    return initial
