"""Policies: from what an environment shows to what it is sent.

A policy is a module `(observation, randomness, action_mask) -> (action, remembered)`, batched over leading axes, with
`randomness(key, shape)` drawing what `shape` actions need.  So a rollout draws all its random numbers in one call
before its loop, and a host process acts on the very numbers that a compiled one would.  The parts are an `Inputs`
(observation to features, with the running normalisation that belongs to checkpoint and exported policy), a network and
a head.
"""

import dataclasses
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bellmark.envs import spaces
from bellmark.maths.distributions import Distribution
from bellmark.maths.moments import Moments
from bellmark.networks.convolution import Convolution
from bellmark.networks.heads import Head
from bellmark.networks.mlp import MLP, Activation
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
        return pixels.astype(np.float32) / 255.0

    def __call__(self, observation: Observation) -> Float[Array, "*B F"]:
        features = self.raw(observation)
        return features if self.moments is None else self.moments.normalise(features)

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
    ) -> MLP | Convolution:
        """A network for these features: convolutional for images, fully connected for the rest."""
        if self.image:
            shape = self.fixed.space.shape
            assert shape is not None
            height, width, channels = shape if len(shape) == 3 else (*shape, 1)
            return Convolution.start(
                (height, width, channels), hidden, outputs, key, activation=activation, last_scale=last_scale
            )
        size = spaces.flat_size(self.fixed.space)
        return MLP.start(size, hidden, outputs, key, activation=activation, last_scale=last_scale)


def batched(network: MLP | Convolution, features: Array) -> Float[Array, "*B outputs"]:
    """Apply a per-sample network over all leading axes of `features`, flattened to one."""
    rank = 3 if isinstance(network, Convolution) else 1
    lead = features.shape[: features.ndim - rank]
    flat = features.reshape(-1, *features.shape[features.ndim - rank :])
    outputs = jax.vmap(network)(flat)
    return outputs.reshape(*lead, outputs.shape[-1])


class StochasticPolicy(eqx.Module):
    """π(a|s) from inputs, a network and a head.

    It remembers the network's outputs, the parameters of the distribution that was really sampled from, whichever
    engine computed them; log-probabilities are taken of a whole rollout at once.
    """

    inputs: Inputs
    network: MLP | Convolution
    head: Head

    def distribution(self, observation: Observation, mask: Array | None = None) -> Distribution:
        return self.head.distribution(batched(self.network, self.inputs(observation)), mask)

    def randomness(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*B K"]:
        """The noise of `shape` actions, drawn in one call."""
        return self.head.noise(key, shape)

    def __call__(
        self, observation: Observation, randomness: Array, mask: Array | None = None
    ) -> tuple[Action, Float[Array, "*B outputs"]]:
        outputs = batched(self.network, self.inputs(observation))
        return self.head.act(outputs, randomness, mask), outputs

    def mode(self, observation: Observation, mask: Array | None = None) -> Action:
        """The most probable action."""
        return self.distribution(observation, mask).mode()

    def on_host(self) -> "HostPolicy | None":
        """The same policy on NumPy arrays; None where only the compiled one exists (images)."""
        return HostPolicy.of(self) if isinstance(self.network, MLP) else None


_noise = jax.jit(lambda head, key, shape: head.noise(key, shape), static_argnums=2)


class HostPolicy:
    """A `StochasticPolicy` on NumPy arrays: twice the steps per second of a compiled call per step."""

    def __init__(self, space: gymnasium.Space, moments: Any, forward: Any, head: Head, device_head: Head):
        self._space = space
        self._moments = moments
        self._forward = forward
        self._head = head
        self._device_head = device_head

    @staticmethod
    def of(policy: StochasticPolicy) -> "HostPolicy":
        moments = policy.inputs.moments
        if moments is not None:
            mean = np.asarray(moments.mean)
            moments = (mean, np.sqrt(np.asarray(moments.variance) + np.float32(1e-8)))
        head = jax.tree.map(np.asarray, policy.head)
        assert isinstance(policy.network, MLP)
        return HostPolicy(policy.inputs.fixed.space, moments, policy.network.on_host(), head, policy.head)

    def randomness(self, key: Key, shape: tuple[int, ...]) -> np.ndarray:
        """All the noise of a rollout, [T, B, …], in one compiled call."""
        return np.asarray(_noise(self._device_head, key, shape))

    def __call__(
        self, observation, randomness: np.ndarray | float, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions [B] and network outputs for observations [B, …]; `randomness` 0 gives the most probable ones."""
        features = spaces.flatten(self._space, observation)
        if self._moments is not None:
            mean, deviation = self._moments
            features = np.clip((features - mean) / deviation, -10.0, 10.0)
        outputs = self._forward(features)
        return self._head.act(outputs, randomness, mask), outputs


def value(network: MLP | Convolution, features: Array) -> Float[Array, "*B"]:
    """V(s) from a network with one output."""
    return batched(network, features)[..., 0]


def count_parameters(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree) if isinstance(leaf, jnp.ndarray))
