"""Policies: from what an environment shows to what it is sent.

A policy is a module `(observation, randomness, action_mask) -> (action, remembered)`, batched over leading axes, with
`randomness(key, shape)` drawing what `shape` actions need.  So a rollout draws all its random numbers in one call
before its loop, and a host process acts on the very numbers that a compiled one would.  The parts are an `Inputs`
(observation to features, with the running normalisation that belongs to checkpoint and exported policy), a network and
a head.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bellmark.envs import spaces
from bellmark.maths.distributions import Categorical, Gaussian, MultiCategorical
from bellmark.maths.moments import Moments
from bellmark.networks.actors import BoxHead, NoisyHead, SquashedHead
from bellmark.networks.convolution import Convolution
from bellmark.networks.heads import Head
from bellmark.networks.mlp import MLP, Activation
from bellmark.networks.recurrent import GRU, Recurrent
from bellmark.networks.values import ValueHead
from bellmark.types import Action, Key, Observation


@dataclasses.dataclass(frozen=True)
class FixedSpace:
    """A Gymnasium space that can stand in a module's static field (spaces compare, but do not hash)."""

    space: gymnasium.Space

    def __hash__(self) -> int:
        return hash(repr(self.space))


class Inputs(eqx.Module):
    """Observations to features: images to [height, width, channels] in [0, 1], everything else to one flat vector.

    With `moments`, vectors are normalised by the running mean and variance of the observations seen so far.
    """

    moments: Moments | None
    fixed: FixedSpace = eqx.field(static=True)

    @staticmethod
    def start(space: gymnasium.Space, normalise: bool = False) -> "Inputs":
        moments = None
        if normalise and not spaces.is_image(space):
            moments = Moments.start((spaces.flat_size(space),))
        return Inputs(moments, FixedSpace(space))

    @property
    def image(self) -> bool:
        return spaces.is_image(self.fixed.space)

    def raw(self, observation: Observation) -> Float[Array, "*B F"]:
        """Features before normalisation: what the moments are taken of."""
        if not self.image:
            return spaces.flatten(self.fixed.space, observation)
        pixels = observation[..., None] if len(self.fixed.space.shape) == 2 else observation  # type: ignore
        bright = 1.0 if self.fixed.space.dtype == np.bool_ else 255.0
        return pixels.astype(np.float32) / bright

    def __call__(self, observation: Observation) -> Float[Array, "*B F"]:
        features = self.raw(observation)
        return features if self.moments is None else self.moments.normalise(features)

    def on_host(self) -> Callable[[Any], np.ndarray]:
        """The same function of NumPy observations."""
        space, moments = self.fixed.space, self.moments
        plain = (
            isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 and space.dtype == np.float32
        )
        raw = (lambda x: x) if plain else (lambda x: spaces.flatten(space, x))
        if moments is None:
            return raw
        on_host = jax.tree.map(np.asarray, moments)
        return lambda x: on_host.normalise(raw(x))

    def seen(self, observation: Observation) -> "Inputs":
        """The inputs after the observations of a rollout [T, B, …] were counted."""
        if self.moments is None:
            return self
        features = self.raw(observation)
        moments = self.moments.add(features.reshape(-1, features.shape[-1]))
        return Inputs(moments, self.fixed)

    def network(
        self,
        hidden: tuple[int, ...],
        outputs: int,
        key: Key,
        *,
        activation: Activation = "tanh",
        last_scale: float = 1.0,
        normalised: bool = False,
    ) -> MLP | Convolution:
        """A network for these features: convolutional for images, fully connected for the rest."""
        how: Any = {"activation": activation, "last_scale": last_scale, "normalised": normalised}
        if self.image:
            shape = self.fixed.space.shape
            assert shape is not None
            height, width, channels = shape if len(shape) == 3 else (*shape, 1)
            return Convolution.start((height, width, channels), hidden, outputs, key, **how)
        size = spaces.flat_size(self.fixed.space)
        return MLP.start(size, hidden, outputs, key, **how)

    def recurrent(
        self, hidden: tuple[int, ...], memory: int, key: Key, *, activation: Activation = "tanh"
    ) -> Recurrent:
        """A network with `memory` numbers of memory for these features, encoded by the layers `hidden`."""
        encoder_key, memory_key = jax.random.split(key)
        *before, last = hidden
        encoder = self.network(
            tuple(before), last, encoder_key, activation=activation, last_scale=math.sqrt(2.0)
        )
        return Recurrent(encoder, GRU.start(last, memory, memory_key), activation)


class StochasticPolicy(eqx.Module):
    """π(a|s) from inputs, a network and a head.

    It remembers the network's outputs, the parameters of the distribution that was really sampled from, whichever
    engine computed them; log-probabilities are taken of a whole rollout at once.
    """

    inputs: Inputs
    network: MLP | Convolution
    head: Head | ValueHead | BoxHead

    def distribution(
        self, observation: Observation, mask: Array | None = None
    ) -> Categorical | MultiCategorical | Gaussian:
        assert not isinstance(self.head, SquashedHead | NoisyHead)
        return self.head.distribution(self.network(self.inputs(observation)), mask)

    def randomness(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*B K"]:
        """The noise of `shape` actions, drawn in one call."""
        return self.head.noise(key, shape)

    def __call__(
        self, observation: Observation, randomness: Array, mask: Array | None = None
    ) -> tuple[Action, Float[Array, "*B outputs"]]:
        outputs = self.network(self.inputs(observation))
        return self.head.act(outputs, randomness, mask), outputs

    def mode(self, observation: Observation, mask: Array | None = None) -> Action:
        """The most probable action."""
        if isinstance(self.head, SquashedHead | NoisyHead):
            return self.head.mode(self.network(self.inputs(observation)))
        return self.distribution(observation, mask).mode()

    def on_host(self) -> "HostPolicy | None":
        """The same policy on NumPy arrays; None where only the compiled one exists (images)."""
        return HostPolicy(self) if isinstance(self.network, MLP) else None


_randomness = jax.jit(lambda policy, key, shape: policy.randomness(key, shape), static_argnums=2)


class HostPolicy:
    """A policy on NumPy arrays: twice the steps per second of a compiled call per step.

    Only the random numbers come from JAX, a rollout's in one call: they are those that the compiled policy would use.
    """

    zero_noise_is_mode = True

    def __init__(self, policy: StochasticPolicy):
        assert isinstance(policy.network, MLP)
        self._policy = policy
        self._features = policy.inputs.on_host()
        self._forward = policy.network.on_host()
        self._act = policy.head.on_host()

    def randomness(self, key: Key, shape: tuple[int, ...]) -> np.ndarray:
        return np.asarray(_randomness(self._policy, key, shape))

    def __call__(
        self, observation, randomness: np.ndarray | float, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions [B] and network outputs for observations [B, …]; `randomness` 0 gives the most probable ones."""
        outputs = self._forward(self._features(observation))
        return self._act(outputs, randomness, mask), outputs


class RecurrentPolicy(eqx.Module):
    """π(a | what was seen of the episode so far): a policy with memory (`bellmark.experience.memory`).

    Remembers, beside its action, the parameters of the distribution, as `StochasticPolicy` does.
    """

    inputs: Inputs
    core: Recurrent
    actor: MLP
    head: Head | ValueHead

    def initial_memory(self, count: int) -> Float[Array, "count H"]:
        return jnp.zeros((count, self.core.size))

    def randomness(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*B K"]:
        """The noise of `shape` actions, drawn in one call."""
        return self.head.noise(key, shape)

    def __call__(
        self,
        observation: Observation,
        randomness: Array | float,
        mask: Array | None,
        memory: Float[Array, "*B H"],
    ) -> tuple[Action, Float[Array, "*B outputs"], Float[Array, "*B H"]]:
        memory = self.core(self.inputs(observation), memory)
        outputs = self.actor(memory)
        return self.head.act(outputs, randomness, mask), outputs, memory

    def mode(
        self, observation: Observation, mask: Array | None, memory: Float[Array, "*B H"]
    ) -> tuple[Action, Float[Array, "*B H"]]:
        """The most probable action, which is the one without noise, and the memory that follows."""
        action, _, memory = self(observation, 0.0, mask, memory)
        return action, memory

    def on_host(self) -> "HostRecurrentPolicy | None":
        """The same policy on NumPy arrays; None where only the compiled one exists (images)."""
        return HostRecurrentPolicy(self) if isinstance(self.core.encoder, MLP) else None


class HostRecurrentPolicy:
    """A policy with memory on NumPy arrays (see `HostPolicy`)."""

    zero_noise_is_mode = True

    def __init__(self, policy: RecurrentPolicy):
        advance = policy.core.on_host()
        assert advance is not None
        self._policy, self._advance = policy, advance
        self._features = policy.inputs.on_host()
        self._actor = policy.actor.on_host()
        self._act = policy.head.on_host()

    def randomness(self, key: Key, shape: tuple[int, ...]) -> np.ndarray:
        return np.asarray(_randomness(self._policy, key, shape))

    def __call__(
        self, observation, randomness: np.ndarray | float, mask: np.ndarray | None, memory: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Actions [B], outputs and the memory [B, H] that follows; `randomness` 0 gives the most probable actions."""
        memory = self._advance(self._features(observation), memory)
        outputs = self._actor(memory)
        return self._act(outputs, randomness, mask), outputs, memory


def value(network: MLP | Convolution, features: Array) -> Float[Array, "*B"]:
    """V(s) from a network with one output."""
    return network(features)[..., 0]
