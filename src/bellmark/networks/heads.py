"""Heads: how a network's outputs become a distribution over an action space.

A head says how many outputs it needs, turns outputs into a distribution of `bellmark.maths.distributions`, and acts
from noise drawn beforehand, `act(outputs, noise)`: that is how a rollout draws its random numbers in one call.
`on_host` gives `act` for NumPy arrays, so that a host process acts without a compiled call per step.
"""

from collections.abc import Callable

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bellmark.errors import BadInput
from bellmark.maths.distributions import MASKED, Categorical, Gaussian, MultiCategorical, mask_logits
from bellmark.types import Key

HostAct = Callable[[np.ndarray, np.ndarray | float, np.ndarray | None], np.ndarray]
"""`act(outputs, noise, mask)` on NumPy arrays."""


def _masked_on_host(logits: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    return logits if mask is None else np.where(mask, logits, np.float32(MASKED))


class CategoricalHead(eqx.Module):
    """Logits of one discrete action."""

    actions: int = eqx.field(static=True)

    @property
    def outputs(self) -> int:
        return self.actions

    def distribution(
        self, outputs: Float[Array, "*B A"], mask: Bool[Array, "*B A"] | None = None
    ) -> Categorical:
        return Categorical(mask_logits(outputs, mask))

    def noise(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*B A"]:
        return jax.random.gumbel(key, (*shape, self.actions))

    def act(self, outputs, noise, mask=None):
        """A sample by the Gumbel-max trick, or the most probable action where `noise` is 0."""
        return jnp.argmax(mask_logits(outputs, mask) + noise, axis=-1)

    def on_host(self) -> HostAct:
        return lambda outputs, noise, mask: (_masked_on_host(outputs, mask) + noise).argmax(-1)


class MultiCategoricalHead(eqx.Module):
    """Logits of several discrete components, laid end to end."""

    sizes: tuple[int, ...] = eqx.field(static=True)

    @property
    def outputs(self) -> int:
        return sum(self.sizes)

    def distribution(
        self, outputs: Float[Array, "*B L"], mask: Bool[Array, "*B L"] | None = None
    ) -> MultiCategorical:
        return MultiCategorical(mask_logits(outputs, mask), self.sizes)

    def noise(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*B L"]:
        return jax.random.gumbel(key, (*shape, self.outputs))

    def act(self, outputs, noise, mask=None):
        return MultiCategorical(mask_logits(outputs, mask) + noise, self.sizes).mode()

    def on_host(self) -> HostAct:
        cuts = np.cumsum(self.sizes)[:-1]

        def act(outputs, noise, mask):
            parts = np.split(_masked_on_host(outputs, mask) + noise, cuts, axis=-1)
            return np.stack([part.argmax(-1) for part in parts], axis=-1)

        return act


class GaussianHead(eqx.Module):
    """Means from the network, one learned log standard deviation per component, the same in every state."""

    log_std: Float[Array, " D"]

    @property
    def outputs(self) -> int:
        return self.log_std.shape[0]

    def distribution(
        self, outputs: Float[Array, "*B D"], mask: Bool[Array, "*B D"] | None = None
    ) -> Gaussian:
        return Gaussian(outputs, jnp.broadcast_to(self.log_std, outputs.shape))

    def noise(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*B D"]:
        return jax.random.normal(key, (*shape, self.outputs))

    def act(self, outputs, noise, mask=None):
        return outputs + jnp.exp(self.log_std) * noise

    def on_host(self) -> HostAct:
        deviation = np.exp(np.asarray(self.log_std))
        return lambda outputs, noise, mask: outputs + deviation * noise


Head = CategoricalHead | MultiCategoricalHead | GaussianHead


def head_for(action_space: gymnasium.Space, initial_log_std: float = 0.0) -> Head:
    """The head that serves an action space; `BadInput` where none does."""
    if isinstance(action_space, gymnasium.spaces.Discrete):
        return CategoricalHead(int(action_space.n))
    if isinstance(action_space, gymnasium.spaces.MultiDiscrete) and action_space.nvec.ndim == 1:
        return MultiCategoricalHead(tuple(int(n) for n in action_space.nvec))
    if isinstance(action_space, gymnasium.spaces.MultiBinary) and len(action_space.shape) == 1:
        return MultiCategoricalHead((2,) * int(action_space.shape[0]))
    if isinstance(action_space, gymnasium.spaces.Box) and len(action_space.shape) == 1:
        if not np.issubdtype(action_space.dtype, np.floating):
            raise BadInput(
                f"the action space {action_space} is a Box of {action_space.dtype}; floats are allowed"
            )
        return GaussianHead(jnp.full(action_space.shape[0], initial_log_std, jnp.float32))
    described = " ".join(str(action_space).split())  # a matrix of sizes is printed on several lines
    raise BadInput(
        f"no policy head for the action space {described}; allowed: Discrete, one-dimensional MultiDiscrete, "
        "MultiBinary and Box"
    )
