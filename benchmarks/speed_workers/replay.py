"""The replay memory as a worker of `benchmarks/speed.py`: bytes written or read per second, beside NumPy's.

    add        rollouts of 2,048 transitions, one after the other, into the ring
    sample     batches of 256 transitions from places drawn at random, every field gathered

A transition is HalfCheetah's: 2 × 17 numbers observed, 6 of action, a reward, two flags.  NumPy copies into, and
gathers from, arrays of the same shapes: what this machine's memory gives.
"""

import json
import sys
import time

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from bellmark.experience.replay import Replay, transition_bytes
from bellmark.types import Episodes, Rollout, Transition

CAPACITY, ROLLOUT, BATCH = 2**19, 2048, 256
OBSERVED, ACTED = gymnasium.spaces.Box(-np.inf, np.inf, (17,)), gymnasium.spaces.Box(-1.0, 1.0, (6,))
SIZE = transition_bytes(OBSERVED, ACTED)


def transitions(count: int) -> Transition:
    rng = np.random.default_rng(0)
    return Transition(
        observation=rng.normal(size=(count, 1, 17)).astype(np.float32),
        action=rng.uniform(-1, 1, (count, 1, 6)).astype(np.float32),
        reward=rng.normal(size=(count, 1)).astype(np.float32),
        terminated=np.zeros((count, 1), bool),
        truncated=np.zeros((count, 1), bool),
        next_observation=rng.normal(size=(count, 1, 17)).astype(np.float32),
    )


def compiled(what: str, times: int):
    episodes = Episodes(None, jnp.zeros((1, 17)), None, jnp.zeros(1), jnp.zeros(1, jnp.int32))
    rollout = Rollout(jax.tree.map(jnp.asarray, transitions(ROLLOUT)), None)
    begun = jnp.zeros(1, bool)

    def add(_, carry):
        replay, total, key = carry
        return replay.add(rollout, begun), total, key

    def sample(_, carry):
        replay, total, key = carry
        key, bits_key = jax.random.split(key)
        batch = replay.take(replay.draw(jax.random.bits(bits_key, (BATCH,))), 0.99)
        return replay, total + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(batch)), key

    body = add if what == "add" else sample
    loop = jax.jit(lambda carry: jax.lax.fori_loop(0, times, body, carry), donate_argnums=0)
    replay = Replay.start(episodes, ACTED, CAPACITY, ROLLOUT)
    fill = jax.jit(lambda c: jax.lax.fori_loop(0, CAPACITY // ROLLOUT, add, c), donate_argnums=0)
    carry = fill((replay, jnp.zeros(()), jax.random.key(0)))
    while True:
        carry = jax.block_until_ready(loop(carry))
        yield


def plain(what: str, times: int):
    ring = [leaf[:, 0] for leaf in jax.tree.leaves(transitions(CAPACITY))]
    new = [leaf[:, 0] for leaf in jax.tree.leaves(transitions(ROLLOUT))]
    rng = np.random.default_rng(1)
    position = 0
    while True:
        for _ in range(times):
            if what == "add":
                for held, leaf in zip(ring, new, strict=True):
                    held[position : position + ROLLOUT] = leaf
                position = (position + ROLLOUT) % CAPACITY
            else:
                places = rng.integers(0, CAPACITY, BATCH, dtype=np.int32)
                for held in ring:
                    held[places].sum()
        yield


def main(engine: str, what: str, times: int) -> None:
    began = time.perf_counter()
    turns = (compiled if engine == "compiled" else plain)(what, times)
    next(turns)
    print(json.dumps({"ready": time.perf_counter() - began}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        next(turns)
        moved = times * SIZE * (ROLLOUT if what == "add" else BATCH)
        print(json.dumps({"seconds": time.perf_counter() - began, "steps": moved}), flush=True)


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
