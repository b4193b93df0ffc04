"""Memory of policies: it travels with the episodes in flight, and is zeros wherever an episode begins.

    action, remembered          = policy(observation, randomness, mask)              without memory
    action, remembered, memory  = policy(observation, randomness, mask, memory)      with memory

A policy with memory has `initial_memory(count)`, one array [count, …] of zeros or a tree of them.  Whoever steps
environments, compiled or on the host, carries the memory along and clears it where an episode ends; as a part of
`Episodes` it is in every checkpoint.  None stands for no memory, and then nothing here costs anything.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from bellmark.types import Episodes

Memory = Any


def initial_memory(policy: Any, count: int) -> Memory:
    """What `policy` remembers at the start of `count` episodes; None where it remembers nothing."""
    begin = getattr(policy, "initial_memory", None)
    return None if begin is None else begin(count)


def begun(episodes: Episodes, policy: Any) -> Episodes:
    """Fresh episodes with what `policy` remembers at their start."""
    return dataclasses.replace(episodes, memory=initial_memory(policy, episodes.length.shape[0]))


def act(policy: Any, observation: Any, randomness: Any, mask: Any, memory: Memory) -> tuple[Any, Any, Memory]:
    """Action, what the policy returns beside it, and the memory that follows."""
    if memory is None:
        return (*policy(observation, randomness, mask), None)
    return policy(observation, randomness, mask, memory)


def mode(policy: Any, observation: Any, mask: Any, memory: Memory) -> tuple[Any, Memory]:
    """The most probable action, and the memory that follows."""
    if memory is None:
        return policy.mode(observation, mask), None
    return policy.mode(observation, mask, memory)


def forget(memory: Memory, where: Bool[Array | np.ndarray, " B"]) -> Memory:
    """`memory` [B, …] with zeros where an episode has ended; of NumPy arrays when it is made of them."""
    return jax.tree.map(lambda x: _cleared(x, where), memory)


def _cleared(x: Any, where: Any) -> Any:
    xp = np if isinstance(x, np.ndarray) else jnp
    return xp.where(where.reshape(where.shape + (1,) * (x.ndim - 1)), xp.zeros((), x.dtype), x)
