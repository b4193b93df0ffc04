"""Random numbers inside the kernels: SplitMix64, two words of state per seed.

    z ← z + γ (mod 2⁶⁴),    u = mix(z) / 2⁶⁴

Every number is a hash of a counter, so numbers do not wait for each other in the processor's pipeline, and the state
that a checkpoint needs is the counter and its odd increment γ. Each seed has an increment of its own: two seeds whose
counters meet still draw different numbers.

G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", 2014.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import inlined

_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_ULP = 2.0**-53


def generator(seed: int) -> NDArray[np.uint64]:
    """The generator of a run's seed: uint64 [2], counter and increment."""
    counter, increment = (int(word) for word in np.random.SeedSequence(seed).generate_state(2, np.uint64))
    increment |= 1
    # an increment of few bit changes mixes badly (section 5 of the paper)
    if (increment ^ (increment >> 1)).bit_count() < 24:
        increment ^= 0xAAAAAAAAAAAAAAAA
    return np.array([counter, increment], np.uint64)


@inlined
def uniform(state: Any) -> float:
    """The next number of [0, 1), a multiple of 2⁻⁵³."""
    state[0] += state[1]
    z = state[0]
    z = (z ^ (z >> _30)) * _FIRST
    z = (z ^ (z >> _27)) * _SECOND
    # signed, because converting an unsigned word to a float takes two more instructions
    return np.float64(np.int64((z ^ (z >> _31)) >> _11)) * _ULP


@inlined
def below(state: Any, count: int) -> Any:
    """A number of 0, …, count − 1, each equally likely (to 2⁻⁵³)."""
    return np.int64(uniform(state) * count)
