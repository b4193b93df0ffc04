"""Metrics of several iterations as one row, exactly as if the episodes and losses had been averaged at once."""

import jax.numpy as jnp

from bellmark.types import Metrics

COUNT = "episode/count"
BROKEN = "broken/"
PARAMETERS = "broken/parameters"


def weigh(metrics: Metrics) -> Metrics:
    """Metrics as sums that can be added up: episodes weighted by their number, everything else by one.

    A standard deviation σ becomes the second moment σ² + mean², which adds up like a mean.
    """
    count = metrics.get(COUNT, jnp.array(1.0))
    sums = {"": jnp.array(1.0)}
    for name, value in metrics.items():
        if name == COUNT or name.startswith(BROKEN):
            sums[name] = value
        elif name.startswith("episode/"):
            value = value if not name.endswith("_std") else value**2 + metrics[name.removesuffix("_std")] ** 2
            sums[name] = jnp.where(count > 0, value * count, 0.0)
        else:
            sums[name] = value
    return sums


def average(sums: Metrics) -> Metrics:
    """The row that the added-up sums stand for; NaN for episodes where none ended."""
    iterations, count = sums[""], sums.get(COUNT, jnp.array(1.0))
    row = {}
    for name, value in sums.items():
        if name == COUNT or name.startswith(BROKEN):
            row[name] = value
        elif name.startswith("episode/"):
            row[name] = jnp.where(count > 0, value / jnp.maximum(count, 1.0), jnp.nan)
        elif name:
            row[name] = value / iterations
    for name in row:
        if name.startswith("episode/") and name.endswith("_std"):
            spread = row[name] - row[name.removesuffix("_std")] ** 2
            row[name] = jnp.sqrt(jnp.maximum(spread, 0.0))
    return row
