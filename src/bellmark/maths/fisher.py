"""Products with the Fisher information matrix of a policy, without ever forming it.

The Fisher matrix F(θ) = E[∇log π ∇log πᵀ] is what the KL divergence curves like: F = ∇²_θ KL(π_old ‖ π_θ) at θ = θ_old
(S. Amari, "Natural gradient works efficiently in learning", 1998).  With π_θ = π(·; z(θ)), z the distribution's own
parameters (logits; means and log standard deviations), the KL's first derivative in z is 0 at θ_old, so the second
derivative of z in θ has no weight there and

    F v = Jᵀ · ∇²_z KL · J v,     J = ∂z/∂θ

exactly.  J v is one pass forwards, Jᵀ one pass backwards, ∇²_z KL the KL differentiated twice, sample by sample.
Against differentiating the KL twice in θ this spares a third of the products, and rounding cannot make it indefinite.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bellmark.maths import means
from bellmark.maths.conjugate_gradient import Solved, conjugate_gradient
from bellmark.maths.distributions import Categorical, Gaussian, MultiCategorical
from bellmark.types import Scalar

D = TypeVar("D", Categorical, MultiCategorical, Gaussian)
Vector = Float[Array, " D"]


def fisher_vector_product(
    distribution: Callable[[Vector], D], parameters: Vector
) -> Callable[[Vector], Vector]:
    """v ↦ F v of a batch of samples at `parameters`; everything that does not depend on v is computed once, here."""
    at_old, forwards = jax.linearize(distribution, parameters)
    backwards = jax.linear_transpose(forwards, parameters)

    def divergence(new):
        return means.mean(at_old.kl(new))

    _, curve = jax.linearize(jax.grad(divergence), at_old)

    def product(vector):
        [image] = backwards(curve(forwards(vector)))
        return image

    return product


def natural_gradient(
    distribution: Callable[[Vector], D],
    parameters: Vector,
    gradient: Vector,
    damping: Scalar,
    iterations: int,
) -> tuple[Solved, Float[Array, ""]]:
    """x = (F + damping · I)⁻¹ g by at most `iterations` conjugate gradients, and the curvature xᵀ(F + damping · I)x."""
    fisher = fisher_vector_product(distribution, parameters)
    solved = conjugate_gradient(lambda v: fisher(v) + damping * v, gradient, iterations)
    # without another product: (F + damping · I)x is what of g the residual has not left
    return solved, jnp.vdot(solved.x, gradient - solved.residual)
