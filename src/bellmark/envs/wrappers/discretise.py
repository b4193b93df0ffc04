"""Numbered states from what an environment shows: discrete observations as they are, continuous ones by bins.

    index = ravel(component₁, component₂, …),    component = how many of its edges lie at or below x

A component with finite bounds is cut into equal bins. An unbounded one is cut where x/(1 + |x|) crosses equal
bins of (−1, 1): fine around 0 and ever coarser outwards. `Discretise` takes edges of your own.
"""

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from bellmark.errors import BadInput

MOST_STATES = 100_000_000
"""A table of more rows than this fits no memory that a tabular method is meant for."""

_ENDLESS = 1e30
"""Bounds beyond this are no bounds: Gymnasium's CartPole declares the largest float32 for its velocities."""


class StateIndex:
    """Observations to state numbers 0, …, size − 1; NumPy and JAX arrays with any leading axes alike.

    **Fields:** `size`; `parts`: for each component the number of its bins, its first value (discrete) or its edges
    (continuous), in the order in which `flattened` yields components.
    """

    def __init__(self, space: gymnasium.Space, parts: Sequence[tuple[int, int | NDArray[np.float64]]]):
        self.space = space
        # rounded once to what observations are rounded to
        self.parts = tuple(
            (count, rule if isinstance(rule, int) else rule.astype(np.float32).astype(np.float64))
            for count, rule in parts
        )
        self.size = math.prod(count for count, _ in self.parts)
        if self.size > MOST_STATES:
            shape = " × ".join(str(count) for count, _ in self.parts)
            raise BadInput(
                f"{shape} bins make {self.size:,} states; at most {MOST_STATES:,} are allowed: use fewer bins"
            )

    @staticmethod
    def of(
        space: gymnasium.Space, bins: Sequence[int] = (), edges: Sequence[ArrayLike] | None = None
    ) -> "StateIndex":
        """The index of `space`; every continuous component takes the next of `bins`, or of `edges`.

        A single number in `bins` serves all components. **Raises** `BadInput` for a continuous space without bins.
        """
        wanted = _components(space)
        continuous = [part for part in wanted if isinstance(part, tuple)]
        if edges is not None:
            cuts = [_checked_edges(place, given) for place, given in enumerate(edges)]
        else:
            cuts = _uniform(space, continuous, bins)
        if len(cuts) != len(continuous):
            raise BadInput(
                f"{len(cuts)} rows of edges were given; {space} has {len(continuous)} continuous components"
            )
        left = iter(cuts)
        parts: list[tuple[int, int | NDArray[np.float64]]] = []
        for part in wanted:
            if isinstance(part, tuple):
                cut = next(left)
                parts.append((len(cut) + 1, cut))
            else:
                parts.append((part.stop - part.start, part.start))
        return StateIndex(space, parts)

    def __call__(self, observation: Any) -> Any:
        index: Any = 0
        for (count, rule), value in zip(self.parts, _flattened(self.space, observation), strict=True):
            component = value - rule if isinstance(rule, int) else _edges_below(rule, value)
            index = index * count + component
        return index


class Discretise(gymnasium.ObservationWrapper, gymnasium.utils.RecordConstructorArgs):
    """A Gymnasium environment whose observations are state numbers.

    **Arguments:** `bins`, how many per continuous component (or one number for all), or `edges`, an increasing list of
    cuts per component: k cuts make k + 1 bins.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        bins: Sequence[int] = (),
        edges: Sequence[ArrayLike] | None = None,
    ):
        gymnasium.utils.RecordConstructorArgs.__init__(self, bins=bins, edges=edges)
        gymnasium.ObservationWrapper.__init__(self, env)
        self.index = StateIndex.of(env.observation_space, bins, edges)
        self.observation_space = spaces.Discrete(self.index.size)

    def observation(self, observation: Any) -> np.int64:
        return np.int64(self.index(_as_arrays(self.env.observation_space, observation)))


def _components(space: gymnasium.Space) -> list[range | tuple[float, float]]:
    """Each component as a range of whole numbers, or as the bounds (low, high) of a continuous one."""
    if isinstance(space, spaces.Discrete):
        return [range(int(space.start), int(space.start + space.n))]
    if isinstance(space, spaces.MultiDiscrete):
        return [range(int(n)) for n in space.nvec.ravel()]
    if isinstance(space, spaces.MultiBinary):
        return [range(2)] * int(np.prod(space.shape))
    if isinstance(space, spaces.Tuple):
        return [part for inner in space.spaces for part in _components(inner)]
    if isinstance(space, spaces.Dict):
        return [part for key in sorted(space.spaces) for part in _components(space.spaces[key])]
    if isinstance(space, spaces.Box):
        bounds = zip(space.low.ravel().tolist(), space.high.ravel().tolist(), strict=True)
        return [(float(low), float(high)) for low, high in bounds]
    raise BadInput(
        f"the observation space is {space}; a table needs Discrete, MultiDiscrete or binned Box parts"
    )


def _uniform(
    space: gymnasium.Space, continuous: list[tuple[float, float]], bins: Sequence[int]
) -> list[NDArray[np.float64]]:
    if not continuous:
        if len(bins) > 0:
            raise BadInput(f"bins is {tuple(bins)}; {space} is discrete already: give none")
        return []
    if len(bins) == 0:
        example = ",".join(["10"] * min(len(continuous), 4)) + (",…" if len(continuous) > 4 else "")
        raise BadInput(
            f"the observation space is continuous, {space}; a table needs bins, one number per component "
            f"(--bins {example}), or an environment wrapped in bellmark.envs.wrappers.discretise.Discretise"
        )
    counts = list(bins) * len(continuous) if len(bins) == 1 else list(bins)
    if len(counts) != len(continuous):
        raise BadInput(
            f"bins is {tuple(bins)}; {space} has {len(continuous)} continuous components: give one number for each, "
            "or one for all"
        )
    for count in counts:
        if isinstance(count, bool) or count != int(count) or count < 1:
            raise BadInput(f"bins is {tuple(bins)}; whole numbers of at least 1 are allowed")
    return [_cuts(low, high, int(count)) for (low, high), count in zip(continuous, counts, strict=True)]


def _cuts(low: float, high: float, count: int) -> NDArray[np.float64]:
    inner = np.arange(1, count) / count
    if low > -_ENDLESS and high < _ENDLESS:
        return low + (high - low) * inner
    squashed = 2 * inner - 1
    return squashed / (1 - np.abs(squashed))


def _checked_edges(place: int, given: ArrayLike) -> NDArray[np.float64]:
    edges = np.asarray(given, np.float64)
    if edges.ndim != 1 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise BadInput(
            f"edges of component {place} are {edges.tolist()}; an increasing list of numbers is allowed"
        )
    return edges


def _edges_below(edges: NDArray[np.float64], value: Any) -> Any:
    """How many edges lie at or below `value`, both as float32; one search on the host, one comparison per edge else."""
    if isinstance(value, np.ndarray | np.generic):
        return np.searchsorted(edges, value.astype(np.float32), side="right")
    return (value[..., None] >= edges.astype(np.float32)).sum(axis=-1)


def _flattened(space: gymnasium.Space, observation: Any) -> list[Any]:
    """The components [*B] of an observation, in the order of `_components`."""
    if isinstance(space, spaces.Discrete):
        return [observation]
    if isinstance(space, spaces.Tuple):
        pairs = zip(space.spaces, observation, strict=True)
        return [part for inner, x in pairs for part in _flattened(inner, x)]
    if isinstance(space, spaces.Dict):
        return [
            part for key in sorted(space.spaces) for part in _flattened(space.spaces[key], observation[key])
        ]
    shape = space.shape or ()
    flat = observation.reshape(*observation.shape[: observation.ndim - len(shape)], -1)
    return [flat[..., place] for place in range(flat.shape[-1])]


def _as_arrays(space: gymnasium.Space, observation: Any) -> Any:
    if isinstance(space, spaces.Tuple):
        return tuple(_as_arrays(inner, x) for inner, x in zip(space.spaces, observation, strict=True))
    if isinstance(space, spaces.Dict):
        return {key: _as_arrays(inner, observation[key]) for key, inner in space.spaces.items()}
    return np.asarray(observation, space.dtype)
