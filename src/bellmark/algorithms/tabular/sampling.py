"""A finite model prepared for sampling: alias tables, so that a successor costs one random number and no search.

Row (s, a) with K successors is cut into K columns of equal weight; column j keeps its own successor with probability
`threshold[j]` and gives the rest to `alias[j]` (A. J. Walker, 1977; the linear-time construction of M. D. Vose, 1991).
Drawing is u·K = j + f, then j if f < threshold[j], else alias[j].

Everything here is read-only and shared by all seeds.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bellmark.mdp.model import FiniteMDP

from .generator import uniform
from .kernels import inlined, kernel


class Tables(NamedTuple):
    """What the sampling loop reads.

    - `successors`: int32 [nnz], s′, or −1 − s′ where the transition ends the episode.
    - `rewards`: float64 [nnz]; `threshold`: float64 [nnz]; `alias`: int32 [nnz], a place within the row.
    - `offsets`: int64 [S·A + 1]; `branching`: K where every row has K entries, else 0.
    - `start_threshold`, `start_alias`: the same alias table over the states in which episodes begin.
    """

    successors: NDArray[np.int32]
    rewards: NDArray[np.float64]
    threshold: NDArray[np.float64]
    alias: NDArray[np.int32]
    offsets: NDArray[np.int64]
    branching: int
    start_threshold: NDArray[np.float64]
    start_alias: NDArray[np.int32]


def sampling_tables(mdp: FiniteMDP) -> Tables:
    """`mdp` prepared for sampling, in time linear in its transitions."""
    ended = mdp.terminal[mdp.successors]
    if mdp.terminations is not None:
        ended = ended | mdp.terminations
    if mdp.transition_rewards is None:
        rewards = np.repeat(mdp.rewards.reshape(-1), np.diff(mdp.offsets))
    else:
        rewards = np.ascontiguousarray(mdp.transition_rewards)
    threshold, alias = _aliases(mdp.probabilities, mdp.offsets)
    start = _aliases(mdp.initial_distribution, np.array([0, mdp.num_states]))
    return Tables(
        np.where(ended, -1 - mdp.successors, mdp.successors).astype(np.int32),
        rewards,
        threshold,
        alias,
        np.ascontiguousarray(mdp.offsets, np.int64),
        mdp.branching or 0,
        *start,
    )


def _aliases(
    probabilities: NDArray[np.float64], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    threshold, alias = np.ones(len(probabilities)), np.zeros(len(probabilities), np.int32)
    longest = int(np.diff(offsets).max(initial=1))
    work = np.empty((2, longest), np.int64)
    build_aliases(np.ascontiguousarray(probabilities, np.float64), offsets, threshold, alias, work)
    return threshold, alias


@kernel
def build_aliases(probabilities: Any, offsets: Any, threshold: Any, alias: Any, work: Any) -> None:
    """Vose's construction, row by row; `work` int64 [2, longest row] holds the small and the large columns."""
    small, large = work[0], work[1]
    for row in range(len(offsets) - 1):
        begin = offsets[row]
        count = offsets[row + 1] - begin
        total = 0.0
        for j in range(count):
            total += probabilities[begin + j]
        if total <= 0.0:
            continue
        few, many = 0, 0
        for j in range(count):
            threshold[begin + j] = probabilities[begin + j] / total * count
            alias[begin + j] = j
            if threshold[begin + j] < 1.0:
                small[few] = j
                few += 1
            else:
                large[many] = j
                many += 1
        while few > 0 and many > 0:
            few -= 1
            j, k = small[few], large[many - 1]
            alias[begin + j] = k
            threshold[begin + k] -= 1.0 - threshold[begin + j]
            if threshold[begin + k] < 1.0:
                many -= 1
                small[few] = k
                few += 1
        # What is left is 1 but for rounding; a column that had no probability keeps none.
        for left in range(few):
            j = small[left]
            if probabilities[begin + j] > 0.0:
                threshold[begin + j] = 1.0
        for left in range(many):
            threshold[begin + large[left]] = 1.0


@inlined
def draw(offsets: Any, branching: int, threshold: Any, alias: Any, pair: int, state: Any) -> Any:
    """The place of a transition of `pair` (unsigned), drawn with its probability."""
    if branching > 0:
        begin, count = pair * np.uint64(branching), branching
    else:
        begin = np.uint64(offsets[pair])
        count = offsets[pair + np.uint64(1)] - offsets[pair]
    if count == 1:
        return begin
    x = uniform(state) * count
    own = np.int64(x)
    place = begin + np.uint64(own)
    # arithmetic instead of a branch, which would be mispredicted half of the time
    other = np.int64(alias[place])
    return begin + np.uint64(other + np.int64(x - own < threshold[place]) * (own - other))


@inlined
def draw_start(threshold: Any, alias: Any, state: Any) -> Any:
    """The state in which an episode begins (unsigned)."""
    x = uniform(state) * len(threshold)
    own = np.int64(x)
    return np.uint64(own) if x - own < threshold[own] else np.uint64(alias[own])
