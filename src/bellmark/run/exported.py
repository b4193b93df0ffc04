"""Trained policies on disk, and how they act: NumPy in, NumPy out.

    policy/policy.json           algorithm, its hyperparameters, the two spaces, the seeds
    policy/policy.safetensors    the policies' arrays, one policy per seed

A policy is rebuilt from these two alone, without its environment; neither can hold code.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from bellmark.algorithms import fields_of, make_algorithm
from bellmark.envs import spaces
from bellmark.errors import BadInput, BellmarkError, CorruptFile
from bellmark.experience.evaluation import act
from bellmark.experience.host_rollout import actor_for
from bellmark.run.checkpoint import load_tree, save_tree
from bellmark.run.disk import reason, remove, temporary_name, write_atomic
from bellmark.types import Episodes


class TrainedPolicy:
    """One trained policy: `action = policy(observation)`.

    Observations and actions are NumPy, single or with leading batch axes; actions are ready for the environment
    (clipped to a Box, offset by a Discrete space's `start`).  `deterministic` takes the most probable action;
    otherwise actions are drawn with a generator that `seed` restarts.

    A policy with memory remembers from call to call what it was shown: call `reset()` when an episode begins, and with
    a batch of observations `reset(mask)` where one does.  `memory` is what it remembers, an array [*batch, size] that
    can be kept and put back, None before the first observation; policies without memory ignore all of this.
    """

    def __init__(self, module: Any, observation_space: gymnasium.Space, action_space: gymnasium.Space):
        self.module = module
        self.observation_space = observation_space
        self.action_space = action_space
        self._actor = actor_for(module)
        self.memory: np.ndarray | None = None
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Restart the random numbers of `deterministic=False`."""
        self._key = jax.random.key(seed)

    @property
    def remembers(self) -> bool:
        """Whether this policy has a memory."""
        return hasattr(self.module, "initial_memory")

    def reset(self, where: Any = None) -> None:
        """Forget the episodes so far: all of them, or those of a batch where the mask `where` is set."""
        if where is None or self.memory is None:
            self.memory = None
            return
        where, lead = np.asarray(where, bool), self.memory.shape[:-1]
        if where.shape != lead:
            raise BadInput(f"reset was given a mask of shape {where.shape}; the memory is of episodes {lead}")
        self.memory = np.where(where[..., None], np.float32(0), self.memory)

    def __call__(self, observation: Any, *, mask: Any = None, deterministic: bool = True) -> Any:
        observation, lead = self._batch(observation)
        size = int(np.prod(lead, dtype=int))
        if mask is not None:
            mask = np.asarray(mask, bool).reshape(size, -1)
        noise: Any = 0.0
        if not deterministic:
            self._key, key = jax.random.split(self._key)
            noise = self._actor.randomness(key, (size,))
        memory = self._flat_memory(lead, size) if self.remembers else None
        action, memory = act(self._actor, self.module, observation, noise, mask, deterministic, memory)
        if memory is not None:
            self.memory = memory.reshape(*lead, -1)
        action = np.asarray(spaces.clip_action(self.action_space, action))
        if self.action_space.dtype is not None:
            action = action.astype(self.action_space.dtype)
        return action.reshape((*lead, *action.shape[1:]))[()]

    def _flat_memory(self, lead: tuple[int, ...], size: int) -> np.ndarray:
        """What is remembered of each observation's episode, [size, H]; nothing at the beginning."""
        if self.memory is None:
            return np.asarray(self.module.initial_memory(size))
        if self.memory.shape[:-1] != lead:
            raise BadInput(
                f"observations of {size} episodes {lead} were given; the memory is of episodes "
                f"{self.memory.shape[:-1]}: reset() begins anew"
            )
        return np.asarray(self.memory, np.float32).reshape(size, -1)

    def _batch(self, observation: Any) -> tuple[Any, tuple[int, ...]]:
        """The observation with its leading axes flattened to one, and those axes; refuses what does not fit."""
        leaves, structure = jax.tree.flatten(_as_arrays(self.observation_space, observation))
        shapes = [space.shape or () for space in _leaf_spaces(self.observation_space)]
        lead: tuple[int, ...] = ()
        flat = []
        for leaf, shape in zip(leaves, shapes, strict=True):
            rank = leaf.ndim - len(shape)
            if rank < 0 or leaf.shape[rank:] != shape:
                raise BadInput(
                    f"the observation has shape {leaf.shape}; this policy reads {self.observation_space}"
                )
            if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
                raise BadInput(f"the observation holds NaN or infinity: {leaf}")
            lead = leaf.shape[:rank]
            flat.append(leaf.reshape(-1, *shape))
        return jax.tree.unflatten(structure, flat), lead


def _leaf_spaces(space: gymnasium.Space) -> list[gymnasium.Space]:
    if isinstance(space, gymnasium.spaces.Dict):
        # in the order in which jax.tree walks a dictionary
        return [leaf for key in sorted(space.spaces) for leaf in _leaf_spaces(space.spaces[key])]
    if isinstance(space, gymnasium.spaces.Tuple):
        return [leaf for inner in space.spaces for leaf in _leaf_spaces(inner)]
    return [space]


def _as_arrays(space: gymnasium.Space, observation: Any) -> Any:
    try:
        if isinstance(space, gymnasium.spaces.Dict):
            return {key: _as_arrays(inner, observation[key]) for key, inner in space.spaces.items()}
        if isinstance(space, gymnasium.spaces.Tuple):
            return tuple(_as_arrays(inner, x) for inner, x in zip(space.spaces, observation, strict=True))
        return np.asarray(observation, space.dtype)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"the observation does not fit {space}: {error}") from None


class _Spaces(eqx.Module):
    """As much of a problem as an algorithm needs to lay out its state: the two spaces."""

    spaces: Any = eqx.field(static=True)
    budget: int = 1
    time_limit: int | None = 1
    compiled = True

    @property
    def observation_space(self) -> gymnasium.Space:
        return self.spaces[0]

    @property
    def action_space(self) -> gymnasium.Space:
        return self.spaces[1]

    def start(self, key: Any, count: int) -> Episodes:
        del key
        return Episodes(None, None, None, jnp.zeros(count), jnp.zeros(count, jnp.int32))


def save_policies(
    directory: Path,
    algorithm: Any,
    policies: Sequence[Any],
    seeds: Sequence[int],
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
) -> None:
    """Write the policies of a run in the place of earlier ones: a reader finds the old folder, the new one, or none."""
    fresh, old = (directory.with_name(temporary_name(f"{directory.name}-{age}")) for age in ("new", "old"))
    try:
        fresh.mkdir()
        _write_policies(fresh, algorithm, policies, seeds, observation_space, action_space)
        if directory.exists():
            directory.rename(old)
        fresh.rename(directory)
    except OSError as error:
        raise BellmarkError(f"{directory} was not written: {reason(error)}") from None
    finally:
        remove(old)
        remove(fresh)


def _write_policies(directory, algorithm, policies, seeds, observation_space, action_space) -> None:
    digest = save_tree(directory / "policy.safetensors", list(policies))
    description = {
        "format": 1,
        "algorithm": {"name": algorithm.name, "fields": fields_of(algorithm)},
        "observation_space": spaces.to_json(observation_space),
        "action_space": spaces.to_json(action_space),
        "seeds": list(seeds),
        "sha256": digest,
    }
    write_atomic(directory / "policy.json", (json.dumps(description, indent=1) + "\n").encode())


def load_policies(directory: Path) -> list[TrainedPolicy]:
    """The policies of a run, one per seed; `BadInput` where there are none, `CorruptFile` where they are damaged."""
    path = directory / "policy.json"
    if not path.is_file():
        raise BadInput(f"{directory} holds no policy.json; bellmark resume {directory.parent} writes one")
    try:
        description = json.loads(path.read_bytes())
        fields = description["algorithm"]["fields"]
        algorithm = make_algorithm(description["algorithm"]["name"], fields)
        observation_space = spaces.from_json(description["observation_space"])
        action_space = spaces.from_json(description["action_space"])
        count, digest = len(description["seeds"]), description["sha256"]
    except BadInput:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFile(f"{path} is damaged: {type(error).__name__}: {error}") from None
    problem = _Spaces((observation_space, action_space))
    if hasattr(algorithm, "policy_template"):
        template = algorithm.policy_template(observation_space, action_space)
    else:
        template = jax.eval_shape(
            lambda key: algorithm.policy(algorithm.init(problem, key)), jax.random.key(0)
        )
    modules = load_tree(directory / "policy.safetensors", [template] * count, digest)
    return [TrainedPolicy(module, observation_space, action_space) for module in modules]
