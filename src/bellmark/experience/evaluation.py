"""Whole episodes with a fixed policy, compiled or on the host."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bellmark.envs import spaces
from bellmark.envs.base import AbstractEnvironment
from bellmark.envs.gymnasium import HostEnvironments
from bellmark.experience import memory as memories
from bellmark.experience.host_rollout import actor_for, at
from bellmark.types import Key


@eqx.filter_jit
def play(
    environment: AbstractEnvironment,
    policy: Any,
    key: Key,
    episodes: int,
    limit: int,
    deterministic: bool,
) -> tuple[Float[Array, " E"], Int[Array, " E"]]:
    """Play `episodes` side by side, each once, for at most `limit` steps: undiscounted returns and lengths.

    A length of `limit` with the episode still going is reported as -1.
    """
    reset_key, key = jax.random.split(key)
    state = jax.vmap(environment.reset)(jax.random.split(reset_key, episodes))

    def going_on(carry):
        _, _, length, over, _, step, _ = carry
        del length
        return (step < limit) & ~jnp.all(over)

    def step(carry):
        state, total, length, over, key, count, memory = carry
        key, policy_key, step_key = jax.random.split(key, 3)
        observation = jax.vmap(environment.observe)(state)
        mask = jax.vmap(environment.action_mask)(state)
        if deterministic:
            action, memory = memories.mode(policy, observation, mask, memory)
        else:
            noise = policy.randomness(policy_key, (episodes,))
            action, _, memory = memories.act(policy, observation, noise, mask, memory)
        sent = spaces.clip_action(environment.action_space, action)
        state, outcome = jax.vmap(environment.step)(state, sent, jax.random.split(step_key, episodes))
        total = jnp.where(over, total, total + outcome.reward)
        length = jnp.where(over, length, length + 1)
        over = over | outcome.terminated | outcome.truncated
        return state, total, length, over, key, count + 1, memory

    nothing = jnp.zeros(episodes)
    memory = memories.initial_memory(policy, episodes)
    start = (
        state,
        nothing,
        jnp.zeros(episodes, jnp.int32),
        jnp.zeros(episodes, bool),
        key,
        jnp.int32(0),
        memory,
    )
    _, total, length, over, _, _, _ = jax.lax.while_loop(going_on, step, start)
    return total, jnp.where(over, length, -1)


def play_on_host(
    environments: HostEnvironments, policy: Any, key: Key, episodes: int, limit: int, deterministic: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The same with Gymnasium environments: each plays its share of the `episodes`, one after another.

    The shares are fixed beforehand: were the first episodes to finish counted, short ones would be over-represented.
    """
    count = environments.count
    actor = actor_for(policy)
    first_key, key = jax.random.split(key)
    seeds = np.asarray(jax.random.randint(first_key, (count,), 0, 2**31 - 1))
    observation = environments.reset(seeds=seeds)
    quota = np.array([len(range(index, episodes, count)) for index in range(count)])
    played = np.zeros(count, int)
    total, length = np.zeros(count), np.zeros(count, int)
    returns: list[list[float]] = [[] for _ in range(count)]
    lengths: list[list[int]] = [[] for _ in range(count)]
    block, randomness = 256, None
    step = 0
    memory = jax.tree.map(np.asarray, memories.initial_memory(policy, count))
    while (played < quota).any():
        if deterministic:
            noise: Any = 0.0
        else:
            if step % block == 0:
                key, noise_key = jax.random.split(key)
                randomness = actor.randomness(noise_key, (block, count))
            noise = at(randomness, step % block)
        mask = environments.action_masks()
        action, memory = act(actor, policy, observation, noise, mask, deterministic, memory)
        observation, reward, terminated, truncated = environments.step(
            spaces.clip_action(environments.action_space, action)
        )
        step += 1
        total, length = total + reward, length + 1
        over = terminated | truncated | (length >= limit)
        if over.any():
            for index in np.flatnonzero(over):
                if played[index] < quota[index]:
                    returns[index].append(float(total[index]))
                    cut = not (terminated[index] or truncated[index])
                    lengths[index].append(-1 if cut else int(length[index]))
                    played[index] += 1
            total[over], length[over] = 0.0, 0
            memory = memories.forget(memory, over)
            observation = environments.reset(mask=over)
    order = [
        (index, turn) for turn in range(int(quota.max())) for index in range(count) if turn < quota[index]
    ]
    return (
        np.array([returns[index][turn] for index, turn in order]),
        np.array([lengths[index][turn] for index, turn in order]),
    )


def act(
    actor: Any, policy: Any, observation: Any, noise: Any, mask: Any, deterministic: bool, memory: Any = None
) -> tuple[np.ndarray, Any]:
    """One action per observation, and the memory that follows.

    The host form takes zero noise as the mode, the compiled one has its own call.
    """
    if deterministic and not hasattr(actor, "zero_noise_is_mode"):
        return jax.tree.map(np.asarray, _mode(policy, observation, mask, memory))
    action, _, memory = memories.act(actor, observation, noise, mask, memory)
    return action, memory


_mode = eqx.filter_jit(memories.mode)
