"""From two Python functions to a `FiniteMDP`, by breadth-first exploration of whatever can be reached."""

import math
import sys
import time
from array import array
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bellmark.errors import BadInput
from bellmark.mdp.builders import Names, assemble
from bellmark.mdp.model import FiniteMDP, Transition


def from_function(
    initial_states: Iterable[Hashable] | Mapping[Hashable, float],
    actions: Callable[[Any], Iterable[Hashable]],
    transitions: Callable[[Any, Any], Iterable[Transition]],
    *,
    limit: int,
    progress: bool | None,
    name: str,
    discount: float | None,
) -> FiniteMDP:
    """See `FiniteMDP.from_function`.

    queue ← initial states
    while the queue is not empty: take s; for each a in actions(s), record transitions(s, a);
        each s' entered without termination joins the queue, unless it has been there before
    """
    start = _start(initial_states)
    found = Numbering("state", limit)
    moves = Numbering("action", limit)
    queue = [found.number(state) for state in start]
    queued = set(queue)
    rows: dict[int, dict[int, tuple[int, int]]] = {}  # state → action → its slice of the arrays below
    successors, probabilities, rewards, ended = array("i"), array("d"), array("d"), array("b")
    with _Progress(progress) as shown:
        for state in queue:  # the list grows while it is read: breadth first
            named = found.names[state]
            shown.report(len(queue), len(found.names))
            rows[state] = {}
            for action in _iterate(actions(named), "actions", named):
                began = len(successors)
                merged = outcomes_of(named, action, transitions(named, action), found)
                for (successor, reward, terminated), probability in merged.items():
                    successors.append(successor)
                    probabilities.append(probability)
                    rewards.append(reward)
                    ended.append(terminated)
                    if not terminated and successor not in queued:
                        queued.add(successor)
                        queue.append(successor)
                number = moves.number(action)
                if number in rows[state]:
                    raise BadInput(f"actions({named!r}) yields {action!r} twice")
                rows[state][number] = (began, len(successors))
    if not moves.names:
        raise BadInput("the model is empty: no state that can be reached has an action")
    order, offsets, available = _pair_order(rows, len(found.names), len(moves.names))
    initial = np.zeros(len(found.names))
    for state_name, weight in start.items():
        initial[found.number(state_name)] = weight
    return assemble(
        available.shape,
        np.frombuffer(successors, np.int32)[order] if successors else np.zeros(0, np.int32),
        np.frombuffer(probabilities, np.float64)[order] if successors else np.zeros(0),
        offsets,
        np.frombuffer(rewards, np.float64)[order] if successors else np.zeros(0),
        available,
        np.frombuffer(ended, np.int8)[order].astype(np.bool_) if successors else None,
        initial,
        Names(found.names, moves.names, name, discount),
    )


def outcomes_of(
    state: Hashable, action: Hashable, outcomes: Any, found: "Numbering"
) -> dict[tuple[int, float, bool], float]:
    """{(successor, reward, terminated): probability}: equal outcomes are merged, impossible ones dropped."""
    merged: dict[tuple[int, float, bool], float] = {}
    for outcome in _iterate(outcomes, "transitions", state, action):
        try:
            probability, successor, reward, terminated = outcome
            probability, reward, terminated = float(probability), float(reward), bool(terminated)
        except (TypeError, ValueError):
            raise BadInput(
                f"{_call('transitions', state, action)} yields {outcome!r}; "
                "each outcome is (probability, next state, reward, terminated)"
            ) from None
        if not 0.0 <= probability <= 1.0 + 1e-9:
            where = _call("transitions", state, action)
            raise BadInput(f"{where} yields probability {probability}; it must lie in [0, 1]")
        if not math.isfinite(reward):
            where = _call("transitions", state, action)
            raise BadInput(f"{where} yields reward {reward}; rewards must be finite")
        if probability > 0.0:
            key = (found.number(successor), reward, terminated)
            merged[key] = merged.get(key, 0.0) + probability
    total = math.fsum(merged.values())
    if not abs(total - 1.0) <= 1e-9:
        raise BadInput(
            f"the probabilities of state {state!r}, action {action!r} sum to {total:.12g} "
            f"and miss 1 by {total - 1.0:+.3g}"
        )
    return merged


def _pair_order(
    rows: dict[int, dict[int, tuple[int, int]]], states: int, actions: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(where each transition of the final order was recorded, offsets [S·A + 1], available [S, A])."""
    begins = np.zeros(states * actions, np.int64)
    sizes = np.zeros(states * actions, np.int64)
    available = np.zeros(states * actions, np.bool_)
    for state, pairs in rows.items():
        for action, (began, ended) in pairs.items():
            pair = state * actions + action
            begins[pair], sizes[pair], available[pair] = began, ended - began, True
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    order = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], sizes)
    return order, offsets, available.reshape(states, actions)


def _start(initial_states: Any) -> dict[Hashable, float]:
    if isinstance(initial_states, Mapping):
        start = dict(initial_states)
    else:
        try:
            names = list(dict.fromkeys(_iterate(initial_states, "initial_states")))
        except TypeError as error:
            raise BadInput(f"states must be hashable: {error}") from None
        start = dict.fromkeys(names, 1.0 / len(names)) if names else {}
    if not start:
        raise BadInput("initial_states is empty; exploration needs a state to begin from")
    return start


def _iterate(given: Any, name: str, *arguments: Any) -> Iterable[Any]:
    try:
        return iter(given)
    except TypeError:
        raise BadInput(f"{_call(name, *arguments)} must be iterable, got {type(given).__name__}") from None


def _call(name: str, *arguments: Any) -> str:
    """How the call is written, for an error; spelling it out for every pair would take most of the time."""
    return f"{name}({', '.join(repr(argument) for argument in arguments)})" if arguments else name


class Numbering:
    """Names numbered in order of first appearance, up to a limit."""

    def __init__(self, kind: str, limit: int) -> None:
        self.kind = kind
        self.limit = limit
        self.names: list[Hashable] = []
        self.numbers: dict[Hashable, int] = {}

    def number(self, name: Hashable) -> int:
        try:
            found = self.numbers.get(name)
        except TypeError as error:
            raise BadInput(f"{self.kind}s must be hashable, got {name!r}: {error}") from None
        if found is not None:
            return found
        if len(self.names) >= self.limit:
            raise BadInput(
                f"more than {self.limit:,} {self.kind}s can be reached (the next is {name!r}); "
                "raise `limit` if that is meant"
            )
        self.numbers[name] = len(self.names)
        self.names.append(name)
        return self.numbers[name]


class _Progress:
    """A counter on stderr that appears after a second and is wiped at the end."""

    def __init__(self, wanted: bool | None) -> None:
        self.visible = sys.stderr.isatty() if wanted is None else wanted
        self.next = time.monotonic() + (0.0 if wanted else 1.0)
        self.width = 0

    def report(self, explored: int, found: int) -> None:
        if not self.visible or (now := time.monotonic()) < self.next:
            return
        self.next = now + 0.2
        line = f"exploring: {found:,} states found, {explored:,} queued"
        print(f"\r{line:<{self.width}}", end="", file=sys.stderr, flush=True)
        self.width = len(line)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.width:
            print(f"\r{'':<{self.width}}\r", end="", file=sys.stderr, flush=True)
