"""What an exact method returns: values, a policy, and the proof that goes with them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass
class Record:
    """What every sweep left behind, kept when `record=True`: for plots and animations.

    - `values`, `lower`, `upper`: lists of float64 [S], one entry per sweep. Bounds are those proved at that
      sweep; ±inf where the method proves none until it ends.
    """

    values: list[Float] = field(default_factory=list)
    lower: list[Float] = field(default_factory=list)
    upper: list[Float] = field(default_factory=list)

    def add(self, values: Float, lower: Float | None = None, upper: Float | None = None) -> None:
        self.values.append(values.copy())
        self.lower.append(np.full(len(values), -np.inf) if lower is None else lower.copy())
        self.upper.append(np.full(len(values), np.inf) if upper is None else upper.copy())


@dataclass(frozen=True, eq=False)
class Solution:
    """A solved finite model.

    **Fields:**

    - `values`: float64 [S]; `policy`: int64 [S], greedy for them, 0 in terminal states.
    - `lower`, `upper`: float64 [S] with `lower <= V* <= upper` whatever was rounded on the way.
    - `iterations`: sweeps over the model (a method's own page says what counts as one).
    - `seconds`, `method`, `reason`: how long it took, by which method, and why `auto` took that one.
    - `residuals`: float64 [iterations], the largest |change| in each.
    - `converged`: whether `upper - lower` came down to the tolerance; `interrupted`: whether Ctrl-C ended it.
    - `discount`, `tolerance`: what was asked for.
    - `action_probabilities`: float64 [S, A] for stochastic policies, else None.
    - `gain`: float, the average reward per step, for `average_reward` only; None if it was
      interrupted before anything was known.
    - `record`: every sweep's values and bounds, if they were asked for.
    """

    values: Float
    policy: NDArray[np.int64]
    lower: Float
    upper: Float
    iterations: int
    seconds: float
    method: str
    residuals: Float
    discount: float
    tolerance: float
    converged: bool
    backup: Callable[[Float], Float] = field(repr=False)
    reason: str = ""
    interrupted: bool = False
    action_probabilities: Float | None = None
    gain: float | None = None
    record: Record | None = None

    @cached_property
    def action_values(self) -> Float:
        """float64 [S, A]: one exact backup of `values`; −inf where an action is not available. Computed when
        asked for. For `average_reward` less the gain, so that the best of a state is its value.
        """
        return self.backup(self.values)

    @cached_property
    def ties(self) -> dict[int, tuple[int, ...]]:
        """State → the actions that cannot be told apart there, for every state that has more than one.

        Two actions are tied when their values differ by no more than the bounds' width leaves open.
        """
        q = self.action_values
        open_width = self.discount * float(np.max(self.upper - self.lower, initial=0.0))
        rounding = 64 * np.finfo(float).eps * max(1.0, float(np.max(np.abs(self.values), initial=0.0)))
        near = q >= q.max(axis=1, keepdims=True) - (open_width + rounding)
        near &= np.isfinite(q)
        states = np.flatnonzero(near.sum(axis=1) > 1)
        return {int(s): tuple(int(a) for a in np.flatnonzero(near[s])) for s in states}

    @property
    def gap(self) -> float:
        """The proved error: the largest distance between `upper` and `lower`."""
        return float(np.max(self.upper - self.lower, initial=0.0))

    def __repr__(self) -> str:
        ending = "interrupted, " if self.interrupted else "" if self.converged else "not converged, "
        return (
            f"Solution({len(self.values):,} states, {self.method}, {ending}{self.iterations} iterations, "
            f"{self.seconds:.3g} s, error <= {self.gap:.2g})"
        )
