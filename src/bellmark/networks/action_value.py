"""Q(s, a) as a network, for every action space that has a head."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bellmark.maths.action_values import value_of
from bellmark.networks.convolution import Convolution
from bellmark.networks.heads import CategoricalHead, Head, MultiCategoricalHead
from bellmark.networks.mlp import MLP


class ActionValue(eqx.Module):
    """One output per action where these are numbered; elsewhere one output of (features, action) side by side.

    `sizes` are those of a MultiDiscrete action, whose components are laid end to end one-hot; a Box action goes in as
    it was sampled.
    """

    network: MLP | Convolution
    sizes: tuple[int, ...] = eqx.field(static=True)
    numbered: bool = eqx.field(static=True)

    @staticmethod
    def layout(head: Head) -> tuple[int, int]:
        """(inputs that the action takes beside the features, outputs)."""
        return (0, head.outputs) if isinstance(head, CategoricalHead) else (head.outputs, 1)

    @staticmethod
    def of(network: MLP | Convolution, head: Head) -> "ActionValue":
        """`network`, laid out as `layout(head)` says, as the Q of actions that `head` takes."""
        sizes = head.sizes if isinstance(head, MultiCategoricalHead) else ()
        return ActionValue(network, sizes, isinstance(head, CategoricalHead))

    def __call__(self, features: Float[Array, "*B F"], action: Array) -> Float[Array, "*B"]:
        """Q(s, a)."""
        if self.numbered:
            return value_of(self.network(features), action)
        if self.sizes:
            parts = [jax.nn.one_hot(action[..., i], size) for i, size in enumerate(self.sizes)]
            action = jnp.concatenate(parts, axis=-1)
        return self.network(jnp.concatenate([features, action], axis=-1))[..., 0]

    def all(self, features: Float[Array, "*B F"]) -> Float[Array, "*B A"]:
        """Q(s, ·) of numbered actions."""
        assert self.numbered
        return self.network(features)
