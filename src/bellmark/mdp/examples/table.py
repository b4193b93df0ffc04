"""From a list of states and a function of their outcomes to a model, keeping the order in which they were
listed."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bellmark.errors import BadInput
from bellmark.mdp.builders import Names, assemble
from bellmark.mdp.explore import Numbering, outcomes_of
from bellmark.mdp.layout import GridLayout
from bellmark.mdp.model import FiniteMDP, Transition


def tabulate(
    states: Sequence[Hashable],
    actions: Sequence[Hashable],
    outcomes: Callable[[Any, Any], Iterable[Transition]],
    *,
    initial: Mapping[Any, float] | None = None,
    name: str = "",
    discount: float | None = None,
    layout: GridLayout | None = None,
) -> FiniteMDP:
    """The model whose pair (s, a) has `outcomes(s, a)`: (probability, next state, reward, terminated), named.

    No outcomes at all means that the action is not available there. `initial` maps states to probabilities;
    by default every state in which something can be done is equally likely.
    """
    known = Numbering("state", len(states))
    for state in states:
        known.number(state)
    rows: list[tuple[int, float, bool, float]] = []
    offsets, available = [0], []
    for state in states:
        for action in actions:
            listed = list(outcomes(state, action))
            if listed:
                merged = outcomes_of(state, action, listed, known)
                rows.extend((*outcome, probability) for outcome, probability in merged.items())
            available.append(bool(listed))
            offsets.append(len(rows))
    start = None
    if initial is not None:
        start = np.zeros(len(states))
        for state, probability in initial.items():
            start[known.number(state)] = probability
    successors, rewards, ended, probabilities = zip(*rows, strict=True)
    return assemble(
        (len(states), len(actions)),
        np.array(successors, np.int32),
        np.array(probabilities, np.float64),
        np.array(offsets, np.int64),
        np.array(rewards, np.float64),
        np.array(available, np.bool_).reshape(len(states), len(actions)),
        np.array(ended, np.bool_),
        start,
        Names(states, actions, name, discount, layout),
    )


def probability(value: float, name: str) -> float:
    """`value` itself. **Raises** `BadInput` outside [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise BadInput(f"{name} is {value}; it is a probability and must lie in [0, 1]")
    return float(value)


def at_least(value: int, smallest: int, name: str) -> int:
    """`value` itself. **Raises** `BadInput` below `smallest`."""
    if value < smallest:
        raise BadInput(f"{name} is {value}; it must be at least {smallest}")
    return int(value)
