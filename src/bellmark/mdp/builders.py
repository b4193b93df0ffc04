"""From arrays, tables and matrices to a `FiniteMDP`, copying nothing whose type is already right."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bellmark.errors import BadInput
from bellmark.mdp.layout import GridLayout
from bellmark.mdp.model import FiniteMDP
from bellmark.mdp.validation import row_sums

if TYPE_CHECKING:
    import gymnasium

SINGLE_PRECISION_TOLERANCE = 1e-5
"""float32 rows that miss 1 by less than this are normalised; by more, the table itself is wrong."""


@dataclass(frozen=True)
class Names:
    """What the parts of a model are called; every builder passes it on."""

    states: Sequence[Hashable] = ()
    actions: Sequence[Hashable] = ()
    name: str = ""
    discount: float | None = None
    layout: GridLayout | None = None


def from_arrays(
    successors: ArrayLike,
    probabilities: ArrayLike,
    rewards: ArrayLike,
    available: ArrayLike | None,
    terminations: ArrayLike | None,
    initial_distribution: ArrayLike | None,
    names: Names,
) -> FiniteMDP:
    """See `FiniteMDP.from_arrays`."""
    targets = _integers(successors, "successors")
    if targets.ndim != 3:
        raise BadInput(f"successors must have shape [states, actions, branches], got {list(targets.shape)}")
    states, actions, branches = targets.shape
    if 0 in targets.shape:
        raise BadInput(f"the model is empty: successors have shape {list(targets.shape)}")
    offsets = np.arange(states * actions + 1, dtype=np.int64) * branches
    return _assemble(
        _in_range(targets.reshape(-1), states, offsets, actions, names),
        _shaped(probabilities, targets.shape, "probabilities"),
        offsets,
        _shaped(rewards, (states, actions), "rewards", alternative=targets.shape),
        available,
        None if terminations is None else _flags(terminations, targets.shape, "terminations"),
        initial_distribution,
        names,
    )


def from_dense(
    transition: ArrayLike,
    rewards: ArrayLike,
    available: ArrayLike | None,
    terminations: ArrayLike | None,
    initial_distribution: ArrayLike | None,
    names: Names,
) -> FiniteMDP:
    """See `FiniteMDP.from_dense`."""
    table = np.asarray(transition)
    if table.ndim != 3 or table.shape[0] != table.shape[2] or 0 in table.shape:
        raise BadInput(f"transition must have shape [states, actions, states], got {list(table.shape)}")
    table = _shaped(table, table.shape, "transition")
    states, actions, _ = table.shape
    kept = table != 0.0  # NaN is kept, so that validation can name it
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=2).reshape(-1))]).astype(np.int64)
    pays = _shaped(rewards, (states, actions), "rewards", alternative=table.shape)
    return _assemble(
        np.nonzero(kept)[2].astype(np.int32),
        table[kept],
        offsets,
        pays if pays.ndim == 2 else pays[kept],
        available,
        None if terminations is None else _flags(terminations, table.shape, "terminations")[kept],
        initial_distribution,
        names,
    )


def from_sparse(
    transition: Any,
    rewards: ArrayLike,
    available: ArrayLike | None,
    terminations: ArrayLike | None,
    initial_distribution: ArrayLike | None,
    names: Names,
) -> FiniteMDP:
    """See `FiniteMDP.from_sparse`."""
    if not hasattr(transition, "tocsr"):
        raise BadInput(f"transition must be a SciPy sparse matrix, got {type(transition).__name__}")
    matrix = transition.tocsr()
    pairs, states = matrix.shape
    if states == 0 or pairs == 0 or pairs % states:
        raise BadInput(f"transition must have shape [states · actions, states], got {list(matrix.shape)}")
    actions = pairs // states
    pays = np.asarray(rewards)
    if pays.shape != (states, actions) and pays.shape != (matrix.nnz,):
        raise BadInput(
            f"rewards must have shape [{states}, {actions}] or [{matrix.nnz}] (one per stored entry), "
            f"got {list(pays.shape)}"
        )
    offsets = matrix.indptr.astype(np.int64, copy=False)
    return _assemble(
        _in_range(matrix.indices, states, offsets, actions, names),
        _shaped(matrix.data, matrix.data.shape, "transition"),
        offsets,
        _shaped(pays, pays.shape, "rewards"),
        available,
        None if terminations is None else _flags(terminations, (matrix.nnz,), "terminations"),
        initial_distribution,
        names,
    )


def from_gymnasium(environment: "gymnasium.Env[Any, Any]") -> FiniteMDP:
    """See `FiniteMDP.from_gymnasium`."""
    inner = getattr(environment, "unwrapped", environment)
    specification = getattr(environment, "spec", None)
    name = specification.id if specification is not None else type(inner).__name__
    table = getattr(inner, "P", None)
    if not isinstance(table, dict | list) or not table:
        raise BadInput(f"{name} publishes no transition table `P`; it can be learnt by sampling, but not solved")
    states = len(table)
    actions = max(len(table[state]) for state in range(states))
    successors, probabilities, rewards, terminations, offsets = [], [], [], [], [0]
    available = np.zeros((states, actions), bool)
    for state in range(states):
        for action in range(actions):
            try:
                for probability, successor, reward, done in table[state].get(action, ()):
                    successors.append(int(successor))
                    probabilities.append(float(probability))
                    rewards.append(float(reward))
                    terminations.append(bool(done))
            except (TypeError, ValueError, AttributeError) as error:
                raise BadInput(
                    f"{name}: P[{state}][{action}] must be a list of (probability, next state, reward, done): {error}"
                ) from None
            available[state, action] = len(successors) > offsets[-1]
            offsets.append(len(successors))
    bounds = np.asarray(offsets, np.int64)
    names = Names(name=name, layout=_grid_of(inner, states, actions))
    return _assemble(
        _in_range(_integers(successors, "successors"), states, bounds, actions, names),
        np.asarray(probabilities),
        bounds,
        np.asarray(rewards),
        available,
        np.asarray(terminations),
        getattr(inner, "initial_state_distrib", None),
        names,
    )


def _grid_of(inner: Any, states: int, actions: int) -> GridLayout | None:
    """Gymnasium's toy-text grids number their states row by row and keep `nrow`/`ncol` or a `shape`."""
    shape = getattr(inner, "shape", None) or (getattr(inner, "nrow", 0), getattr(inner, "ncol", 0))
    if len(shape) != 2 or shape[0] * shape[1] != states or actions != 4:
        return None
    rows, columns = np.divmod(np.arange(states), shape[1])
    letters = getattr(inner, "desc", None)
    marks, cliffs = {}, ()
    if letters is not None:
        flat = [letter.decode() for letter in np.asarray(letters).reshape(-1)]
        marks = {state: letter for state, letter in enumerate(flat) if letter in "SGH"}
    if getattr(inner, "_cliff", None) is not None:
        cliffs = tuple(int(state) for state in np.flatnonzero(inner._cliff))
        marks = {int(np.argmax(inner.initial_state_distrib)): "S", states - 1: "G"}
    frozen_lake = letters is not None  # it orders its moves left, down, right, up; cliff walking up, right, down, left
    directions = ((0, -1), (1, 0), (0, 1), (-1, 0)) if frozen_lake else ((-1, 0), (0, 1), (1, 0), (0, -1))
    return GridLayout((int(shape[0]), int(shape[1])), rows, columns, (), directions, marks, cliffs)


# ------------------------------------------------------------------------------------------------- shared parts


def _assemble(
    successors: NDArray[np.int32],
    probabilities: NDArray[np.float64],
    offsets: NDArray[np.int64],
    rewards: NDArray[np.float64],
    available: ArrayLike | None,
    terminations: NDArray[np.bool_] | None,
    initial_distribution: ArrayLike | None,
    names: Names,
    counts: NDArray[np.int64] | None = None,
) -> FiniteMDP:
    """The last step of every builder: rewards per transition become expectations, and defaults are filled in.

    `rewards` is [S, A], or anything with one entry per transition.
    """
    states_count = names.states and len(names.states)
    per_pair = rewards.ndim == 2 and rewards.size * 1 == len(offsets) - 1
    pairs = len(offsets) - 1
    if per_pair:
        states, actions = rewards.shape
    else:
        actions = np.asarray(available).shape[1] if available is not None else 0
        states = pairs // actions if actions else int(states_count or 0)
    raise NotImplementedError
