"""Target networks: slow copies, so that what is learned from does not run away with what is learned."""

from typing import TypeVar

import jax

from bellmark.types import Scalar

Network = TypeVar("Network")


def towards(target: Network, online: Network, rate: Scalar) -> Network:
    """(1 − τ) θ̂ + τ θ for every parameter: a copy at τ = 1 exactly, nothing at τ = 0."""
    # not θ̂ + τ (θ − θ̂), which for τ = 1 is θ only up to rounding
    return jax.tree.map(lambda old, new: (1.0 - rate) * old + rate * new, target, online)
