"""Random numbers inside the kernels: a Weyl sequence, hashed by one wide product; two words of state per seed.

    z ← z + γ (mod 2⁶⁴),    p = z · (z ⊕ c) in 128 bits,    u = (p's high half ⊕ its low half) / 2⁶⁴

Every number is a hash of a counter, so numbers do not wait for each other in the processor's pipeline, and the state
that a checkpoint needs is the counter and its odd increment γ. Each seed has an increment of its own: two seeds whose
counters meet still draw different numbers. The hash is half the work of SplitMix64's, which has two products and three
shifts: that is a tenth of Q-learning's time.

Y. Wang, D. Diego Barrio, "wyhash and wyrand", 2021 (final version 4; its γ is a constant); a counter with an increment
for each stream: G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", 2014.
"""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .kernels import inlined

_MASK = np.uint64(0x8BB84B93962EACC9)
_11 = np.uint64(11)
_ULP = 2.0**-53


def _folded_product(typing_context: Any, first: Any, second: Any) -> Any:
    """The two halves of the 128 bits of a product, one upon the other: one instruction of the processor, and an xor."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, wide = ir.IntType(64), ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), word)
        return builder.xor(high, builder.trunc(product, word))

    return types.uint64(types.uint64, types.uint64), generate


folded_product: Any = intrinsic(_folded_product)


def generator(seed: int) -> NDArray[np.uint64]:
    """The generator of a run's seed: uint64 [2], counter and increment."""
    counter, increment = (int(word) for word in np.random.SeedSequence(seed).generate_state(2, np.uint64))
    increment |= 1
    # an increment of few bit changes mixes badly (Steele, Lea and Flood, section 5)
    if (increment ^ (increment >> 1)).bit_count() < 24:
        increment ^= 0xAAAAAAAAAAAAAAAA
    return np.array([counter, increment], np.uint64)


@inlined
def uniform(state: Any) -> float:
    """The next number of [0, 1), a multiple of 2⁻⁵³."""
    state[0] += state[1]
    # signed, because converting an unsigned word to a float takes two more instructions
    return np.float64(np.int64(folded_product(state[0], state[0] ^ _MASK) >> _11)) * _ULP


@inlined
def below(state: Any, count: int) -> Any:
    """A number of 0, …, count − 1, each equally likely (to 2⁻⁵³)."""
    return np.int64(uniform(state) * count)
