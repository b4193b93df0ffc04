"""Advantages of answers to one prompt, compared with each other instead of with a critic.

Scores are [P, G]: `G` answers to each of `P` prompts.  The mean of the others is a baseline that does not depend on the
answer's own score; the mean with it included shrinks the gradient, in expectation by (G − 1)/G, and turns it nowhere.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def group_relative(
    score: Float[Array, "P G"], *, divide: bool = True, epsilon: float = 1e-4
) -> Float[Array, "P G"]:
    """(r − mean)/(std + ε) within each group (Z. Shao et al., "DeepSeekMath", 2024; GRPO); without the division where
    `divide` is False (Z. Liu et al., "Understanding R1-Zero-like training", 2025; Dr. GRPO).

    The standard deviation is the population's.  Division weighs prompts by their difficulty, which biases the gradient.
    """
    centred = score - jnp.mean(score, axis=1, keepdims=True)
    if not divide:
        return centred
    return centred / (jnp.sqrt(jnp.mean(jnp.square(centred), axis=1, keepdims=True)) + epsilon)


def leave_one_out(score: Float[Array, "P G"]) -> Float[Array, "P G"]:
    """r − mean of the others' r: unbiased, G ≥ 2 (W. Kool et al., 2019; A. Ahmadian et al., RLOO, 2024)."""
    size = score.shape[1]
    if size < 2:
        raise ValueError(f"a group has {size} answer; leave-one-out needs at least 2")
    return (score - jnp.mean(score, axis=1, keepdims=True)) * (size / (size - 1))


def carries_signal(score: Float[Array, "P G"]) -> Bool[Array, " P"]:
    """Whether a group's scores differ: where they do not, its advantages are zero and nothing is learned from it."""
    return jnp.max(score, axis=1) > jnp.min(score, axis=1)
