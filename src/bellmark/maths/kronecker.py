"""Kronecker-factored curvature of fully connected layers.

J. Martens, R. Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", ICML 2015.

A layer y = Wᵀa, its bias being the weight of a constant 1 at the end of a, has the gradient a gᵀ with g = ∂log p/∂y.
Its block of the Fisher matrix, E[aaᵀ ⊗ ggᵀ], is approximated by A ⊗ S with A = E[aaᵀ] and S = E[ggᵀ]: two small
matrices, exact where g's spread does not depend on a.  Then

    (A ⊗ S + λI)⁻¹ vec(V)  ≈  (A + π√λ I)⁻¹ V (S + √λ/π I)⁻¹,      π² = mean eigenvalue of A / mean eigenvalue of S
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bellmark.types import Scalar


class Factors(eqx.Module):
    """A and S of every layer, averaged over batches; `count` says over how many."""

    inputs: tuple[Float[Array, "_i _i"], ...]
    slopes: tuple[Float[Array, "_o _o"], ...]
    count: Int[Array, ""]

    @staticmethod
    def start(sizes: tuple[tuple[int, int], ...]) -> "Factors":
        """Of layers with so many (inputs, outputs); what is in them counts for nothing once a batch was seen."""
        return Factors(
            tuple(jnp.zeros((i + 1, i + 1)) for i, _ in sizes),
            tuple(jnp.zeros((o, o)) for _, o in sizes),
            jnp.array(0, jnp.int32),
        )

    def seen(
        self,
        inputs: tuple[Float[Array, "N _i"], ...],
        slopes: tuple[Float[Array, "N _o"], ...],
        decay: Scalar,
    ) -> "Factors":
        """The factors after one more batch: a plain average at first, with a horizon of 1/(1 − decay) later on."""
        share = jnp.minimum(decay, 1.0 - 1.0 / (self.count + 1.0))

        def blend(old, new):
            return share * old + (1.0 - share) * new

        return Factors(
            tuple(blend(a, second_moment(with_one(x))) for a, x in zip(self.inputs, inputs, strict=True)),
            tuple(blend(s, second_moment(g)) for s, g in zip(self.slopes, slopes, strict=True)),
            self.count + 1,
        )


def with_one(x: Float[Array, "N i"]) -> Float[Array, "N i+1"]:
    """A constant 1 at the end: what a bias is the weight of."""
    return jnp.concatenate([x, jnp.ones((x.shape[0], 1), x.dtype)], axis=1)


def second_moment(x: Float[Array, "N D"]) -> Float[Array, "D D"]:
    """E[xxᵀ] over the batch."""
    return x.T @ x / x.shape[0]


def preconditioned(
    gradient: Float[Array, "i o"],
    inputs: Float[Array, "i i"],
    slopes: Float[Array, "o o"],
    damping: Scalar,
) -> Float[Array, "i o"]:
    """(A + π√λ I)⁻¹ V (S + √λ/π I)⁻¹ for a layer's gradient V."""
    ratio = jnp.sqrt(_mean_eigenvalue(inputs) / _mean_eigenvalue(slopes))
    root = jnp.sqrt(damping)
    return _damped_inverse(inputs, ratio * root) @ gradient @ _damped_inverse(slopes, root / ratio)


def _mean_eigenvalue(matrix: Float[Array, "D D"]) -> Float[Array, ""]:
    # a layer whose units are all dead has none: then the damping alone must stand
    return jnp.maximum(jnp.trace(matrix) / matrix.shape[0], 1e-12)


def _damped_inverse(matrix: Float[Array, "D D"], by: Scalar) -> Float[Array, "D D"]:
    return inverse(matrix + by * jnp.eye(matrix.shape[0]))


def inverse(matrix: Float[Array, "D D"]) -> Float[Array, "D D"]:
    """The inverse of a symmetric positive definite matrix by Gauss and Jordan's sweeps, which then need no pivoting.

    At these sizes LAPACK's triangular solves are no quicker (0.1 ms at 65 × 65), and where other threads keep the
    cores busy its own threads wait for each other: 16 ms were measured.
    """

    def sweep(k, m):
        row, column, pivot = m[k] / m[k, k], m[:, k], m[k, k]
        m = m - jnp.outer(column, row)
        return m.at[k].set(row).at[:, k].set(-column / pivot).at[k, k].set(1.0 / pivot)

    return jax.lax.fori_loop(0, matrix.shape[0], sweep, matrix)


def natural_direction(
    factors: Factors, gradients: tuple[Float[Array, "_i _o"], ...], damping: Scalar
) -> tuple[Float[Array, "_i _o"], ...]:
    """F̂⁻¹ times the gradient, layer by layer."""
    return jax.tree.map(
        lambda gradient, a, s: preconditioned(gradient, a, s, damping),
        gradients,
        factors.inputs,
        factors.slopes,
    )
