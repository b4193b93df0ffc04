"""Is this a Markov decision process? Every model passes here once, in a few passes over its arrays.

Vectorised NumPy in streaming passes: the only temporary that grows with the model is one float per pair.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bellmark.errors import BadInput

if TYPE_CHECKING:
    from bellmark.mdp.model import FiniteMDP

ROW_TOLERANCE = 1e-9
"""How far from 1 a row may sum: thousands of roundings of float64, far below one of float32."""


def row_sums(values: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 [rows]: Σ of each row's slice `values[offsets[i] : offsets[i + 1]]`; 0 for an empty row."""
    sums = np.zeros(len(offsets) - 1)
    filled = offsets[1:] > offsets[:-1]
    if filled.all():
        if len(values):
            np.add.reduceat(values, offsets[:-1], out=sums)
    elif filled.any():
        # reduceat returns values[start] for an empty slice, so it may only see the filled rows.
        sums[filled] = np.add.reduceat(values, offsets[:-1][filled])
    return sums


def check_model(mdp: "FiniteMDP") -> None:
    """**Raises** `BadInput` unless `mdp` is a well-formed finite Markov decision process."""
    _check_shapes(mdp)
    _check_names(mdp)
    _check_successors(mdp)
    _check_probabilities(mdp)
    _check_rewards(mdp)
    _check_initial_distribution(mdp)
    if mdp.discount is not None and not 0.0 <= mdp.discount <= 1.0:
        raise BadInput(f"discount is {mdp.discount}; it must lie in [0, 1]")


def _check_shapes(mdp: "FiniteMDP") -> None:
    if mdp.rewards.ndim != 2 or 0 in mdp.rewards.shape:
        raise BadInput(
            f"the model is empty: rewards have shape {list(mdp.rewards.shape)}; "
            "at least one state and one action are needed"
        )
    states, actions = mdp.rewards.shape
    transitions = len(mdp.successors)
    wanted = {
        "successors": (np.int32, (transitions,)),
        "probabilities": (np.float64, (transitions,)),
        "offsets": (np.int64, (states * actions + 1,)),
        "rewards": (np.float64, (states, actions)),
        "available": (np.bool_, (states, actions)),
        "initial_distribution": (np.float64, (states,)),
        "transition_rewards": (np.float64, (transitions,)),
        "terminations": (np.bool_, (transitions,)),
        "counts": (np.int64, (transitions,)),
    }
    for name, (kind, shape) in wanted.items():
        array = getattr(mdp, name)
        if array is None and name in ("transition_rewards", "terminations", "counts"):
            continue
        if not isinstance(array, np.ndarray) or array.dtype != kind or array.shape != shape:
            given = (
                f"{array.dtype} {list(array.shape)}"
                if isinstance(array, np.ndarray)
                else type(array).__name__
            )
            raise BadInput(f"{name} must be {np.dtype(kind).name} {list(shape)}, got {given}")
        if not array.flags.c_contiguous:
            raise BadInput(f"{name} must be contiguous in memory")
    if mdp.offsets[0] != 0 or mdp.offsets[-1] != transitions or np.any(mdp.offsets[1:] < mdp.offsets[:-1]):
        raise BadInput(f"offsets must rise from 0 to the number of transitions, {transitions}")


def _check_names(mdp: "FiniteMDP") -> None:
    for kind, names, size in (
        ("state", mdp.states, mdp.num_states),
        ("action", mdp.actions, mdp.num_actions),
    ):
        if len(names) != size:
            raise BadInput(f"{len(names)} {kind} names were given for {size} {kind}s")
        if isinstance(names, range):
            continue
        try:
            seen = set(names)
        except TypeError as error:
            raise BadInput(f"{kind} names must be hashable: {error}") from None
        if len(seen) != size:
            once: set[object] = set()
            twice = next(name for name in names if name in once or once.add(name))  # type: ignore[func-returns-value]
            raise BadInput(f"two {kind}s are both called {twice!r}")


def _where(mdp: "FiniteMDP", pair: int) -> str:
    state, action = divmod(int(pair), mdp.num_actions)
    return f"state {mdp.states[state]!r}, action {mdp.actions[action]!r}"


def _pair_of(mdp: "FiniteMDP", transition: int) -> int:
    return int(np.searchsorted(mdp.offsets, transition, side="right")) - 1


def _check_successors(mdp: "FiniteMDP") -> None:
    if mdp.num_transitions == 0:
        return
    if mdp.successors.min() >= 0 and mdp.successors.max() < mdp.num_states:
        return
    worst = int(np.argmax((mdp.successors < 0) | (mdp.successors >= mdp.num_states)))
    raise BadInput(
        f"{_where(mdp, _pair_of(mdp, worst))} leads to state index {int(mdp.successors[worst])}; "
        f"indices run from 0 to {mdp.num_states - 1}"
    )


def _check_probabilities(mdp: "FiniteMDP") -> None:
    if mdp.num_transitions and not mdp.probabilities.min() >= 0.0:  # written so that NaN fails it too
        worst = int(np.argmin(mdp.probabilities >= 0.0))
        raise BadInput(
            f"{_where(mdp, _pair_of(mdp, worst))} has probability {mdp.probabilities[worst]}; "
            "probabilities must be numbers in [0, 1]"
        )
    sums = row_sums(mdp.probabilities, mdp.offsets)
    misses = sums - mdp.available.reshape(-1)
    np.abs(misses, out=misses)
    worst = int(np.argmax(misses))
    if misses[worst] <= ROW_TOLERANCE:
        return
    where, total = _where(mdp, worst), float(sums[worst])
    if not mdp.available.reshape(-1)[worst]:
        raise BadInput(f"{where} is not available, yet its probabilities sum to {total:g}; they must be 0")
    wrong = int((misses > ROW_TOLERANCE).sum())
    others = f" ({wrong} rows in all)" if wrong > 1 else ""
    advice = "; if it cannot be taken, say so with `available`" if total == 0.0 else ""
    raise BadInput(
        f"the probabilities of {where} sum to {total:.12g} and miss 1 by {total - 1.0:+.3g}{others}; "
        f"at most {ROW_TOLERANCE:g} is allowed{advice}"
    )


def _check_rewards(mdp: "FiniteMDP") -> None:
    rewards = mdp.rewards.reshape(-1)
    if not np.isfinite(rewards.sum()) and not np.isfinite(rewards).all():
        worst = int(np.argmin(np.isfinite(rewards)))
        raise BadInput(f"{_where(mdp, worst)} has reward {rewards[worst]}; rewards must be finite")
    unavailable = ~mdp.available.reshape(-1)
    if np.any(rewards[unavailable] != 0.0):
        worst = int(np.argmax(unavailable & (rewards != 0.0)))
        raise BadInput(
            f"{_where(mdp, worst)} is not available, yet has reward {rewards[worst]}; it must be 0"
        )
    extra = mdp.transition_rewards
    if extra is not None and not np.isfinite(extra.sum()) and not np.isfinite(extra).all():
        worst = int(np.argmin(np.isfinite(extra)))
        raise BadInput(
            f"{_where(mdp, _pair_of(mdp, worst))} has reward {extra[worst]}; rewards must be finite"
        )


def _check_initial_distribution(mdp: "FiniteMDP") -> None:
    initial = mdp.initial_distribution
    if not initial.min() >= 0.0:
        worst = int(np.argmin(initial >= 0.0))
        raise BadInput(
            f"state {mdp.states[worst]!r} begins with probability {initial[worst]}; it must lie in [0, 1]"
        )
    total = float(initial.sum())
    if not abs(total - 1.0) <= ROW_TOLERANCE:
        raise BadInput(f"the initial distribution sums to {total:.12g} and misses 1 by {total - 1.0:+.3g}")
