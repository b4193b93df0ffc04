"""Conjugate gradients: Ax = b for a symmetric positive definite A that is known only by its products.

M. R. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving linear systems", 1952.

    x ← 0,  r ← p ← b
    until ‖r‖² ≤ tolerance · ‖b‖², at most K times
        α ← rᵀr / pᵀAp;   x ← x + αp;   r ← r − αAp
        p ← r + (r′ᵀr′ / rᵀr) p
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bellmark.types import Scalar


class Solved(eqx.Module):
    """x with what is left of b, r = b − Ax, after so many iterations.

    `sound` is False where the iteration broke down: a number that is not finite, or a direction p with pᵀAp ≤ 0, along
    which A is not positive definite.  x is then the last sound one, which is 0 if b itself is not finite.
    """

    x: Float[Array, " D"]
    residual: Float[Array, " D"]
    iterations: Int[Array, ""]
    sound: Bool[Array, ""]


def conjugate_gradient(
    product: Callable[[Float[Array, " D"]], Float[Array, " D"]],
    target: Float[Array, " D"],
    iterations: int,
    tolerance: Scalar = 1e-10,
) -> Solved:
    """Solve Ax = `target` with at most `iterations` products, stopping at ‖r‖² ≤ `tolerance` · ‖target‖²."""
    goal = tolerance * jnp.vdot(target, target)

    def going_on(carry):
        solved, _, squares = carry
        return solved.sound & (solved.iterations < iterations) & (squares > goal)

    def iterate(carry):
        solved, direction, squares = carry
        image = product(direction)
        curvature = jnp.vdot(direction, image)
        share = squares / curvature
        x = solved.x + share * direction
        residual = solved.residual - share * image
        new_squares = jnp.vdot(residual, residual)
        sound = (curvature > 0) & jnp.isfinite(new_squares) & jnp.all(jnp.isfinite(x))
        now = Solved(
            x=jnp.where(sound, x, solved.x),
            residual=jnp.where(sound, residual, solved.residual),
            iterations=solved.iterations + 1,
            sound=sound,
        )
        return now, residual + (new_squares / squares) * direction, new_squares

    squares = jnp.vdot(target, target)
    start = Solved(jnp.zeros_like(target), target, jnp.array(0, jnp.int32), jnp.isfinite(squares))
    return jax.lax.while_loop(going_on, iterate, (start, target, squares))[0]
