"""Metrics of several iterations as one row, exactly as if the episodes and losses had been averaged at once."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from bellmark.types import Metrics

COUNT = "episode/count"
BROKEN = "broken/"
PARAMETERS = "broken/parameters"
ITERATIONS, EPISODES = "", "#"
"""Weights that travel with the parts and are no metrics themselves."""


def weigh(metrics: Metrics) -> Metrics:
    """Metrics in a form that `merge` can join: sums, except that episodes keep their mean and squared deviations.

    Sums of squares would lose the spread of returns that are large and alike (10 000 ± 1) in float32.
    """
    count = metrics.get(COUNT, jnp.array(1.0))
    parts = {ITERATIONS: jnp.array(1.0), EPISODES: count}
    for name, value in metrics.items():
        if _averaged_over_episodes(name):
            value = value**2 * count if name.endswith("_std") else value
            value = jnp.where(count > 0, value, 0.0)
        parts[name] = value
    return parts


def merge(first: Metrics, second: Metrics) -> Metrics:
    """The two together (Chan, Golub & LeVeque, 1983, for the squared deviations)."""
    total = jnp.maximum(first[EPISODES] + second[EPISODES], 1.0)
    joined = {}
    for name in first:
        joined[name] = first[name] + second[name]
        if _averaged_over_episodes(name):
            mean = name.removesuffix("_std")
            shift = second[mean] - first[mean]
            if name.endswith("_std"):
                joined[name] += shift**2 * _share(first, total) * second[EPISODES]
            else:
                joined[name] = first[name] + shift * _share(second, total)
    return joined


def average(parts: Metrics) -> Metrics:
    """The row that the merged parts stand for; NaN for episodes where none ended."""
    iterations, count = parts[ITERATIONS], parts[EPISODES]
    row = {}
    for name, value in parts.items():
        if _averaged_over_episodes(name):
            value = jnp.sqrt(value / jnp.maximum(count, 1.0)) if name.endswith("_std") else value
            row[name] = jnp.where(count > 0, value, jnp.nan)
        elif name == COUNT or name.startswith(BROKEN):
            row[name] = value
        elif name not in (ITERATIONS, EPISODES):
            row[name] = value / iterations
    return row


def _averaged_over_episodes(name: str) -> bool:
    return name.startswith("episode/") and name != COUNT


def _share(parts: Metrics, total: Float[Array, ""]) -> Float[Array, ""]:
    return parts[EPISODES] / total
