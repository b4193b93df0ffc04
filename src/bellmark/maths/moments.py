"""Running mean and variance, merged batch by batch without loss of digits (Chan, Golub & LeVeque, 1983)."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Moments(eqx.Module):
    """The count, mean and variance of all samples seen; starts as if `count` samples had mean 0 and variance 1."""

    count: Float[Array, ""]
    mean: Float[Array, "*D"]
    variance: Float[Array, "*D"]

    @staticmethod
    def start(shape: tuple[int, ...]) -> "Moments":
        return Moments(jnp.array(1e-4), jnp.zeros(shape), jnp.ones(shape))

    def add(self, batch: Float[Array, "N *D"]) -> "Moments":
        """The moments with `N` more samples."""
        size = batch.shape[0]
        total = self.count + size
        shift = jnp.mean(batch, axis=0) - self.mean
        mean = self.mean + shift * (size / total)
        squares = self.variance * self.count + jnp.var(batch, axis=0) * size
        squares = squares + jnp.square(shift) * (self.count * size / total)
        return Moments(total, mean, squares / total)

    def normalise(self, x: Float[Array | np.ndarray, "*N"], clip: float = 10.0) -> Any:
        """(x − mean)/σ, held within ±clip; of NumPy arrays when the moments are NumPy arrays."""
        return ((x - self.mean) / (self.variance + np.float32(1e-8)) ** np.float32(0.5)).clip(-clip, clip)

    def scale(self, x: Float[Array, "*N"], clip: float = 10.0) -> Float[Array, "*N"]:
        """x/σ, held within ±clip: for rewards, whose sign must survive."""
        return jnp.clip(x / jnp.sqrt(self.variance + 1e-8), -clip, clip)
