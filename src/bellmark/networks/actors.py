"""Actors on a bounded Box: how a network's outputs become an action of any shape and any bounds.

    unit action in (−1, 1)^D     what networks and critics see, one flat vector
    action of the Box            low + (unit + 1)/2 · (high − low), in the Box's own shape

    SquashedHead                 tanh of a Gaussian whose mean and deviation the network gives        SAC
    NoisyHead                    tanh of the network's outputs, with Gaussian noise while exploring    TD3, DDPG

Both can be told to act uniformly at random instead (`uniform`), with the same noise: before learning starts a network
that has learned nothing explores worse than that.  Both can hold their noise for several steps.
"""

import dataclasses
import math
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.special import erf

from bellmark.errors import BadInput
from bellmark.maths.distributions import SquashedGaussian
from bellmark.networks.heads import HostAct
from bellmark.networks.mlp import MLP, Activation
from bellmark.types import Key

LEAST_LOG_STD, MOST_LOG_STD = -20.0, 2.0
"""Haarnoja et al. (2018): beyond these a deviation is as good as none, or tanh saturates everywhere."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """A bounded Box as what stands in a module's static field."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]

    @staticmethod
    def of(space: gymnasium.Space, name: str) -> "Bounds":
        """The bounds of an action space, which algorithm `name` wants; `BadInput` where it has none."""
        described = " ".join(str(space).split())
        if not isinstance(space, gymnasium.spaces.Box):
            raise BadInput(
                f"{name} acts in continuous spaces, so the action space must be a Box; it is {described}"
            )
        if not np.issubdtype(space.dtype, np.floating):
            raise BadInput(f"the action space {described} is a Box of {space.dtype}; {name} allows floats")
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise BadInput(
                f"the action space {described} has no bounds; finite ones are needed, to which {name} scales"
            )
        low, high = (np.asarray(bound, np.float32).ravel().tolist() for bound in (space.low, space.high))
        return Bounds(tuple(low), tuple(high), tuple(space.shape))

    @property
    def size(self) -> int:
        return len(self.low)

    def action(self, unit: Any) -> Any:
        """Unit actions [*B, D] as actions of the Box [*B, *shape]; NumPy arrays stay NumPy arrays."""
        low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
        stretched = low + (unit + np.float32(1.0)) * (np.float32(0.5) * (high - low))
        return stretched.reshape(*unit.shape[:-1], *self.shape)

    def unit(self, action: Any) -> Any:
        """Actions of the Box [*B, *shape] as unit actions [*B, D]."""
        low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
        flat = action.reshape(*action.shape[: action.ndim - len(self.shape)], self.size)
        # where there is only one action to take, it is any number between −1 and 1
        return (flat - low) * (np.float32(2.0) / np.maximum(high - low, np.float32(1e-30))) - np.float32(1.0)


def squashed(outputs: Float[Array, "*B K"]) -> SquashedGaussian:
    """The distribution of unit actions that 2D outputs stand for."""
    mean, log_std = jnp.split(outputs, 2, axis=-1)
    return SquashedGaussian(mean, jnp.clip(log_std, LEAST_LOG_STD, MOST_LOG_STD))


class SquashedHead(eqx.Module):
    """tanh N(μ, σ²), 2D outputs: the means, then the logarithms of the deviations."""

    uniform: Bool[Array, ""]
    bounds: Bounds = eqx.field(static=True)
    hold: int = eqx.field(static=True, default=1)

    @property
    def outputs(self) -> int:
        return 2 * self.bounds.size

    def distribution(self, outputs: Float[Array, "*B K"], mask: Any = None) -> SquashedGaussian:
        """Of unit actions."""
        return squashed(outputs)

    def noise(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*B D"]:
        return held_noise(key, (*shape, self.bounds.size), self.hold)

    def mode(self, outputs: Float[Array, "*B K"]) -> Array:
        return self.bounds.action(self.distribution(outputs).mode())

    def act(self, outputs, noise, mask=None):
        unit = self.distribution(outputs).transform(noise)
        return self.bounds.action(jnp.where(self.uniform, uniform_from(noise, jax.lax.erf), unit))

    def on_host(self) -> HostAct:
        bounds, uniform = self.bounds, bool(self.uniform)

        def act(outputs, noise, mask):
            mean, log_std = np.split(outputs, 2, axis=-1)
            if np.ndim(noise) == 0:  # the most probable action is wanted
                return bounds.action(np.tanh(mean))
            if uniform:
                return bounds.action(uniform_from(noise, erf))
            return bounds.action(np.tanh(mean + np.exp(log_std.clip(LEAST_LOG_STD, MOST_LOG_STD)) * noise))

        return act


class NoisyHead(eqx.Module):
    """tanh of D outputs, plus N(0, deviation²), held within the Box."""

    deviation: Float[Array, ""]
    uniform: Bool[Array, ""]
    bounds: Bounds = eqx.field(static=True)
    hold: int = eqx.field(static=True, default=1)

    @property
    def outputs(self) -> int:
        return self.bounds.size

    def noise(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*B D"]:
        return held_noise(key, (*shape, self.bounds.size), self.hold)

    def mode(self, outputs: Float[Array, "*B K"]) -> Array:
        return self.bounds.action(jnp.tanh(outputs))

    def act(self, outputs, noise, mask=None):
        unit = jnp.clip(jnp.tanh(outputs) + self.deviation * noise, -1.0, 1.0)
        return self.bounds.action(jnp.where(self.uniform, uniform_from(noise, jax.lax.erf), unit))

    def on_host(self) -> HostAct:
        bounds, uniform, deviation = self.bounds, bool(self.uniform), np.asarray(self.deviation)

        def act(outputs, noise, mask):
            if np.ndim(noise) == 0:
                return bounds.action(np.tanh(outputs))
            if uniform:
                return bounds.action(uniform_from(noise, erf))
            return bounds.action((np.tanh(outputs) + deviation * noise).clip(-1.0, 1.0))

        return act


BoxHead = SquashedHead | NoisyHead


def held_noise(key: Key, shape: tuple[int, ...], hold: int) -> Float[Array, "*B D"]:
    """Standard normal numbers of `shape`, the same ones for `hold` rows at a time.

    Each action is as it would be with numbers of its own; only that the next ones lean the same way is new, and that
    carries where steps that cancel out do not.
    """
    rows = -(-shape[0] // hold)
    drawn = jax.random.normal(key, (rows, *shape[1:]))
    return drawn if hold == 1 else jnp.repeat(drawn, hold, axis=0)[: shape[0]]


def uniform_from(noise: Any, error_function: Any) -> Any:
    """Standard normal numbers as uniform ones in [−1, 1]: 2Φ(z) − 1."""
    return error_function(noise * np.float32(math.sqrt(0.5)))


class Critic(eqx.Module):
    """Q(s, a) of features and unit actions, side by side."""

    network: MLP

    @staticmethod
    def start(inputs: int, hidden: tuple[int, ...], key: Key, activation: Activation = "relu") -> "Critic":
        return Critic(MLP.start(inputs, hidden, 1, key, activation=activation))

    def value(self, features: Float[Array, "*B F"], unit: Float[Array, "*B D"]) -> Float[Array, "*B"]:
        return self.network(jnp.concatenate([features, unit], axis=-1))[..., 0]


class Critics(eqx.Module):
    """K independent critics.

    One after the other, not as one batched product: on two cores XLA computes both equally fast.
    """

    members: tuple[Critic, ...]

    @staticmethod
    def start(
        count: int, inputs: int, hidden: tuple[int, ...], key: Key, activation: Activation = "relu"
    ) -> "Critics":
        return Critics(
            tuple(Critic.start(inputs, hidden, k, activation) for k in jax.random.split(key, count))
        )

    def __call__(self, features: Float[Array, "*B F"], unit: Float[Array, "*B D"]) -> Float[Array, "K *B"]:
        return jnp.stack([member.value(features, unit) for member in self.members])
