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
    return assemble(
        (states, actions),
        targets.reshape(-1),
        _probabilities(probabilities, targets.shape, "probabilities", offsets),
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
    states, actions, _ = table.shape
    kept = table != 0.0  # NaN is kept, so that validation can name it
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=2).reshape(-1))]).astype(np.int64)
    pays = _shaped(rewards, (states, actions), "rewards", alternative=table.shape)
    return assemble(
        (states, actions),
        np.nonzero(kept)[2].astype(np.int32),
        _probabilities(table[kept], (int(kept.sum()),), "transition", offsets),
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
    return assemble(
        (states, actions),
        _integers(matrix.indices, "transition"),
        _probabilities(matrix.data, matrix.data.shape, "transition", offsets),
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
        raise BadInput(
            f"{name} publishes no transition table `P`; it can be learnt by sampling, but not solved"
        )
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
                    f"{name}: P[{state}][{action}] must be a list of "
                    f"(probability, next state, reward, done): {error}"
                ) from None
            available[state, action] = len(successors) > offsets[-1]
            offsets.append(len(successors))
    names = Names(name=name, layout=_grid_of(inner, states, actions))
    return assemble(
        (states, actions),
        _integers(successors, "successors"),
        np.asarray(probabilities),
        np.asarray(offsets, np.int64),
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
    marks: dict[int, str] = {}
    cliffs: tuple[int, ...] = ()
    if letters is not None:
        flat = [letter.decode() for letter in np.asarray(letters).reshape(-1)]
        marks = {state: letter for state, letter in enumerate(flat) if letter in "SGH"}
    if getattr(inner, "_cliff", None) is not None:
        cliffs = tuple(int(state) for state in np.flatnonzero(inner._cliff))
        marks = {int(np.argmax(inner.initial_state_distrib)): "S", states - 1: "G"}
    frozen_lake = (
        letters is not None
    )  # it orders its moves left, down, right, up; cliff walking up, right, down, left
    directions = ((0, -1), (1, 0), (0, 1), (-1, 0)) if frozen_lake else ((-1, 0), (0, 1), (1, 0), (0, -1))
    return GridLayout((int(shape[0]), int(shape[1])), rows, columns, (), directions, marks, cliffs)


# ----------------------------------------------------------------------------------------------- shared parts


def assemble(
    shape: tuple[int, int],
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
    """The last step of every builder: take expectations of rewards per transition, clear unavailable pairs.

    `shape` is (S, A); `rewards` is [S, A] or has one entry per transition.
    """
    usable = np.ones(shape, np.bool_) if available is None else _flags(available, shape, "available")
    transition_rewards = None
    if rewards.shape != shape:
        rewards = rewards.reshape(-1)
        transition_rewards, rewards = _expected(rewards, probabilities, offsets, shape)
    if not usable.all():
        hidden = ~usable
        if rewards[hidden].any():
            rewards = np.where(usable, rewards, 0.0)
        if row_sums(probabilities, offsets)[hidden.reshape(-1)].any():
            repeated = np.repeat(usable.reshape(-1), np.diff(offsets))
            probabilities = np.where(repeated, probabilities, 0.0)
    if initial_distribution is None:
        initial = usable.any(axis=1).astype(np.float64)
        # A model of nothing but terminal states is legal, if dull; it has to begin somewhere.
        initial = initial / initial.sum() if initial.any() else np.full(shape[0], 1.0 / shape[0])
    else:
        initial = _shaped(initial_distribution, (shape[0],), "initial_distribution")
    if terminations is not None:
        terminations = terminations.reshape(-1)
    return FiniteMDP(
        successors=successors,
        probabilities=probabilities.reshape(-1),
        offsets=offsets,
        rewards=rewards,
        available=usable,
        initial_distribution=initial,
        transition_rewards=transition_rewards,
        terminations=terminations if terminations is not None and terminations.any() else None,
        counts=counts,
        states=names.states,
        actions=names.actions,
        name=names.name,
        discount=names.discount,
        layout=names.layout,
    )


def _expected(
    rewards: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    offsets: NDArray[np.int64],
    shape: tuple[int, int],
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """(rewards per transition, their expectation [S, A]); None for the former where rows pay one reward."""
    sizes = np.diff(offsets)
    filled = sizes > 0
    first = np.zeros(len(sizes))
    first[filled] = rewards[offsets[:-1][filled]]
    if np.array_equal(np.repeat(first, sizes), rewards):
        return None, first.reshape(shape)
    # r(s, a) = r₀ + Σ p·(r − r₀) rather than Σ p·r: exact where the row's rewards are all but equal.
    means = first + row_sums(probabilities * (rewards - np.repeat(first, sizes)), offsets)
    return rewards, means.reshape(shape)


def _probabilities(
    given: ArrayLike, shape: tuple[int, ...], what: str, offsets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """float64 [nnz], normalised only where the source was of lower precision and so could not sum to one."""
    source = np.asarray(given)
    values = _shaped(source, shape, what).reshape(-1)
    if source.dtype not in (np.float32, np.float16):
        return values
    sums = row_sums(values, offsets)
    near = np.abs(sums - 1.0) <= SINGLE_PRECISION_TOLERANCE
    return values / np.repeat(np.where(near, sums, 1.0), np.diff(offsets))


def _integers(given: ArrayLike, what: str) -> NDArray[np.int32]:
    array = np.asarray(given)
    if array.dtype == np.int32:
        return np.ascontiguousarray(array)
    if array.dtype.kind not in "iu":
        raise BadInput(f"{what} must hold integers, got {array.dtype}")
    limits = np.iinfo(np.int32)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise BadInput(f"{what} has indices up to {array.max()}; at most {limits.max} fits")
    return array.astype(np.int32)


def _shaped(
    given: ArrayLike, shape: tuple[int, ...], what: str, alternative: tuple[int, ...] | None = None
) -> NDArray[np.float64]:
    """float64 of this shape (or the alternative), without a copy where it already is."""
    array = np.asarray(given)
    if array.dtype.kind not in "iufb":
        raise BadInput(f"{what} must hold numbers, got {array.dtype}")
    if array.shape not in (shape, alternative):
        either = f" or {list(alternative)}" if alternative is not None else ""
        raise BadInput(f"{what} must have shape {list(shape)}{either}, got {list(array.shape)}")
    return np.ascontiguousarray(array, dtype=np.float64)


def _flags(given: ArrayLike, shape: tuple[int, ...], what: str) -> NDArray[np.bool_]:
    array = np.asarray(given)
    if array.dtype != np.bool_ or array.shape != shape:
        raise BadInput(f"{what} must be bool {list(shape)}, got {array.dtype} {list(array.shape)}")
    return np.ascontiguousarray(array)
