"""What an observation must look like, checked on whole stacks of them.

An observation is a tree of arrays; each array is a `Leaf`.  Leaves are checked stacked, [B, *shape], so that
a check costs once per step of all environments and not once per environment.
"""

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from numpy.typing import NDArray

ROUNDING = 1e-5
"""Relative slack at a Box's bounds: float32 rounding of a float64 state is not a broken environment."""


class Leaf:
    """One array of the observation: where it is in the tree, what it must look like, how to check many."""

    def __init__(self, space: gymnasium.Space, path: tuple, strict: bool):
        self.path = path
        self.name = "observation" + "".join(f"[{key!r}]" for key in path)
        self.shape: tuple[int, ...] = space.shape or ()
        self.dtype = np.dtype(space.dtype)
        self.space = space
        low, high = _limits(space)
        floating = np.issubdtype(self.dtype, np.floating)
        if floating and strict:
            slack = ROUNDING * np.maximum(1, np.maximum(np.abs(low), np.abs(high)))
            low, high = low - np.where(np.isinf(slack), 0, slack), high + np.where(np.isinf(slack), 0, slack)
        elif floating:
            low, high = np.full(self.shape, -np.inf), np.full(self.shape, np.inf)
        if floating:
            # A NaN fails every comparison and an infinity exceeds the largest number: one test for all three.
            largest = np.finfo(self.dtype).max
            low, high = np.clip(low, -largest, largest), np.clip(high, -largest, largest)
        self.low, self.high = low.astype(self.dtype), high.astype(self.dtype)
        if floating:
            self.unbounded = bool((self.low <= -largest).all() and (self.high >= largest).all())
        elif self.dtype == np.bool_:
            self.unbounded = True
        else:
            whole = np.iinfo(self.dtype)
            self.unbounded = bool((self.low == whole.min).all() and (self.high == whole.max).all())
        self._floating = floating

    def get(self, observation: Any) -> Any:
        for key in self.path:
            observation = observation[key]
        return observation

    def fits(self, stacked: NDArray) -> bool:
        """Whether every number of `stacked` [B, *shape] is finite and within its bounds."""
        if not self.unbounded:
            return bool(((stacked >= self.low) & (stacked <= self.high)).all())
        return not self._floating or all_finite(stacked)

    def complaint(self, stacked: NDArray) -> tuple[int, str]:
        """The index of the first environment that does not fit, and what is wrong with it."""
        where = tuple(np.argwhere(~((stacked >= self.low) & (stacked <= self.high)))[0].tolist())
        value, index = stacked[where], where[1:]
        name = self.name + (f"[{', '.join(map(str, index))}]" if index else "")
        if not np.isfinite(value):
            return where[0], f"{name} is {value}; it must be finite"
        low, high = (side[index] for side in _limits(self.space))
        return where[0], f"{name} is {value}, outside its space's [{low}, {high}]"


def all_finite(numbers: NDArray) -> bool:
    """Whether every number is finite.

    A sum of squares is several times quicker than `isfinite`; each number is looked at only if it overflows.
    """
    flat = numbers.reshape(-1)
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())


def _limits(space: gymnasium.Space) -> tuple[NDArray, NDArray]:
    if isinstance(space, Box):
        return space.low, space.high
    if isinstance(space, (Discrete, MultiDiscrete)):
        count = space.n if isinstance(space, Discrete) else space.nvec
        return np.asarray(space.start), np.asarray(space.start + count - 1)
    shape = space.shape or ()
    return np.zeros(shape, np.int8), np.ones(shape, np.int8)


def leaves_of(space: gymnasium.Space, strict: bool, path: tuple = ()) -> list[Leaf]:
    if isinstance(space, Dict):
        return [leaf for key, part in space.spaces.items() for leaf in leaves_of(part, strict, (*path, key))]
    if isinstance(space, Tuple):
        return [leaf for i, part in enumerate(space.spaces) for leaf in leaves_of(part, strict, (*path, i))]
    return [Leaf(space, path, strict)]


def assemble(space: gymnasium.Space, arrays: list[NDArray]) -> Any:
    """The observation tree over `arrays`, which are consumed in the order of `leaves_of`."""
    if isinstance(space, Dict):
        return {key: assemble(part, arrays) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(assemble(part, arrays) for part in space.spaces)
    return arrays.pop(0)


def misfit(space: gymnasium.Space, value: Any, name: str = "observation") -> str | None:
    """What is wrong with the structure, types and shapes of one observation; None where nothing is."""
    if isinstance(space, Dict):
        if not isinstance(value, dict) or set(value) != set(space.spaces):
            got = f"a dict of {sorted(value)}" if isinstance(value, dict) else f"a {type(value).__name__}"
            return f"{name} is {got}; its space is a Dict of {sorted(space.spaces)}"
        found = (misfit(inner, value[key], f"{name}[{key!r}]") for key, inner in space.spaces.items())
        return next((what for what in found if what), None)
    if isinstance(space, Tuple):
        if not isinstance(value, tuple) or len(value) != len(space.spaces):
            got = f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"
            return f"{name} is {got}; its space is a Tuple of {len(space.spaces)}"
        found = (misfit(inner, value[i], f"{name}[{i}]") for i, inner in enumerate(space.spaces))
        return next((what for what in found if what), None)
    if isinstance(space, Discrete):
        array = np.asarray(value)
        if array.shape != () or array.dtype.kind not in "iu":
            return f"{name} is {value!r}; it must be an integer"
        return None
    if not isinstance(value, np.ndarray):
        return f"{name} is a {type(value).__name__}; it must be a NumPy array"
    if value.shape != space.shape:
        return f"{name} has shape {value.shape}, its space {space.shape}"
    if value.dtype != space.dtype:
        return f"{name} has dtype {value.dtype}, its space {space.dtype}"
    return None
