"""A finite model prepared for sampling: alias tables, so that a successor costs one random number and no search.

Row (s, a) with K successors is cut into K columns of equal weight; column j keeps its own successor with probability
`threshold` and gives the rest to another one (A. J. Walker, 1977; the linear-time construction of M. D. Vose, 1991).
Drawing is u·K = j + f, then the column's own successor if f < threshold, else the other.

A column holds both successors with their rewards in 32 bytes, half of a cache line: what is drawn is there as soon as
its column is. Rows are padded with columns that keep nothing to the longest row's length, unless that would take much
more room, so that a row's place needs no look-up.

Everything here is read-only and shared by all seeds.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bellmark.mdp.model import FiniteMDP

from .generator import uniform
from .kernels import inlined, kernel

THRESHOLD, REWARD, OTHER_REWARD, CODES = range(4)
"""The words of a column, 8 bytes each; the last one holds two int32, the column's own code and the other. A code is s′,
or −1 − s′ where the transition ends the episode."""

_4, _8, _REWARD, _CODE = np.uint64(4), np.uint64(8), np.uint64(REWARD), np.uint64(2 * CODES)

MOST_PADDING, SMALL = 2, 4096
"""Rows are padded up to this many times the model's transitions, or wherever there are fewer columns than this."""


class Tables(NamedTuple):
    """What the sampling loop reads.

    - `columns`: float64 [columns · 4], and `codes`, the same memory as int32 [columns · 8].
    - `offsets`: int64 [S·A + 1], where rows begin; `branching`: K where every row has K columns, else 0.
    - `starts`, `start_codes`: columns for the states in which episodes begin, without rewards.
    """

    columns: NDArray[np.float64]
    codes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    branching: int
    starts: NDArray[np.float64]
    start_codes: NDArray[np.int32]


def sampling_tables(mdp: FiniteMDP) -> Tables:
    """`mdp` prepared for sampling, in time linear in its transitions."""
    ended = mdp.terminal[mdp.successors]
    if mdp.terminations is not None:
        ended = ended | mdp.terminations
    if mdp.transition_rewards is None:
        rewards = np.repeat(mdp.rewards.reshape(-1), np.diff(mdp.offsets))
    else:
        rewards = mdp.transition_rewards
    codes = np.where(ended, -1 - mdp.successors, mdp.successors)
    offsets, probabilities = np.ascontiguousarray(mdp.offsets, np.int64), mdp.probabilities
    longest, pairs = int(np.diff(offsets).max(initial=1)), len(offsets) - 1
    branching = mdp.branching or 0
    if not branching and pairs * longest <= max(SMALL, MOST_PADDING * len(codes)):
        place = np.arange(len(codes)) + np.repeat(np.arange(pairs) * longest - offsets[:-1], np.diff(offsets))
        probabilities, rewards, codes = (
            _spread(x, place, pairs * longest) for x in (probabilities, rewards, codes)
        )
        offsets, branching = np.arange(pairs + 1) * longest, longest
    begun = np.flatnonzero(mdp.initial_distribution)
    start = mdp.initial_distribution[begun]
    columns = _columns(probabilities, offsets, rewards, codes)
    starts = _columns(start, np.array([0, len(begun)]), np.zeros(len(begun)), begun)
    return Tables(columns, columns.view(np.int32), offsets, branching, starts, starts.view(np.int32))


def _spread(values: NDArray[Any], place: NDArray[np.int64], size: int) -> NDArray[Any]:
    out = np.zeros(size, values.dtype)
    out[place] = values
    return out


def _columns(
    probabilities: NDArray[np.float64],
    offsets: NDArray[np.int64],
    rewards: NDArray[np.float64],
    codes: NDArray[Any],
) -> NDArray[np.float64]:
    threshold, alias = aliases(probabilities, offsets)
    other = alias + np.repeat(offsets[:-1], np.diff(offsets))
    columns = np.zeros((len(codes), 4))
    columns[:, THRESHOLD] = threshold
    columns[:, REWARD], columns[:, OTHER_REWARD] = rewards, rewards[other]
    columns[:, CODES] = np.stack([codes, codes[other]], axis=1).astype(np.int32).view(np.float64)[:, 0]
    return columns.reshape(-1)


def aliases(
    probabilities: NDArray[np.float64], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Every column's share of its own, float64, and the place within its row of what gets the rest, int32."""
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
def draw(columns: Any, codes: Any, offsets: Any, branching: int, pair: int, state: Any) -> Any:
    """(reward, code) of a transition of `pair` (unsigned), drawn with its probability."""
    if branching == 1:
        return columns[pair * _4 + _REWARD], codes[pair * _8 + _CODE]
    if branching > 0:
        begin, count = pair * np.uint64(branching), branching
    else:
        begin = np.uint64(offsets[pair])
        count = offsets[pair + np.uint64(1)] - offsets[pair]
    x = uniform(state) * count
    j = np.int64(x)
    column = begin + np.uint64(j)
    # a place is computed in the stead of a branch, which would be mispredicted half of the time
    other = np.uint64(x - j >= columns[column * _4])
    return columns[column * _4 + _REWARD + other], codes[column * _8 + _CODE + other]


@inlined
def draw_start(starts: Any, codes: Any, state: Any) -> Any:
    """The state in which an episode begins (unsigned)."""
    count = len(codes) // 8
    if count == 1:
        return np.uint64(codes[_CODE])
    x = uniform(state) * count
    j = np.int64(x)
    column = np.uint64(j)
    return np.uint64(codes[column * _8 + _CODE + np.uint64(x - j >= starts[column * _4])])
