"""Log-probabilities and entropies of tokens, without ever holding all logits.

A batch of 16 texts of 512 tokens over 49,152 words has 1.6 GB of float32 logits, and its gradient as much again.  Here
logits exist for `chunk` tokens at a time, forwards and, computed once more, backwards.  Where one chunk holds all
tokens nothing is computed twice: the gradient begins with these very logits, so keeping them costs no room.

With z the logits and π = softmax(z), what goes back to them is written out,

    ∂ log π(y)/∂z_v = 1{v = y} − π_v           ∂H/∂z_v = −π_v (log π_v + H)

so that it is one pass over the vocabulary, and no pass at all for an entropy that is looked at and not learned from.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from bellmark.types import Scalar

Unembed = Callable[[Float[Array, "N W"]], Float[Array, "N V"]]


def log_probs_and_entropies(
    unembed: Unembed,
    hidden: Float[Array, "*N W"],
    tokens: Int[Array, "*N"],
    temperature: Scalar = 1.0,
    chunk: int = 1024,
) -> tuple[Float[Array, "*N"], Float[Array, "*N"]]:
    """log π(token) and −Σ π log π of softmax(unembed(hidden) / temperature), over the full vocabulary.

    `hidden` at a place is what predicts the token that follows it: shift before calling.  The result does not depend
    on `chunk`, the number of tokens whose logits exist together.  Not for forward-mode derivatives.
    """
    width = hidden.shape[-1]
    flat, wanted = hidden.reshape(-1, width), tokens.reshape(-1)
    count = flat.shape[0]

    def piece(states: Array, target: Array) -> tuple[Array, Array]:
        return of_logits(unembed(states) / temperature, target)

    if count <= chunk:
        log_prob, entropy = piece(flat, wanted)
        return log_prob.reshape(tokens.shape), entropy.reshape(tokens.shape)
    filling = -count % chunk
    pieces = jnp.pad(flat, ((0, filling), (0, 0))).reshape(-1, chunk, width)
    targets = jnp.pad(wanted, (0, filling)).reshape(-1, chunk)
    again = jax.checkpoint(piece)
    _, (chosen, entropy) = jax.lax.scan(lambda _, inputs: (None, again(*inputs)), None, (pieces, targets))
    log_prob, entropy = (x.reshape(-1)[:count].reshape(tokens.shape) for x in (chosen, entropy))
    return log_prob, entropy


@jax.custom_vjp
def of_logits(
    logits: Float[Array, "N V"], token: Int[Array, " N"]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """log softmax(z)[token] and the entropy of softmax(z), row by row."""
    # a product that is merged with the maximum over its columns is slower than the two one after the other
    logits = jax.lax.optimization_barrier(logits)
    normaliser = _normaliser(logits)
    chosen = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return chosen - normaliser, _entropy(logits, normaliser)


def _normaliser(logits: Float[Array, "N V"]) -> Float[Array, " N"]:
    top = jnp.max(logits, axis=-1)
    return top + jnp.log(jnp.sum(jnp.exp(logits - top[:, None]), axis=-1))


def _entropy(logits: Float[Array, "N V"], normaliser: Float[Array, " N"]) -> Float[Array, " N"]:
    log_prob = logits - normaliser[:, None]
    return -jnp.sum(jnp.exp(log_prob) * log_prob, axis=-1)


def _forward(logits: Any, token: Any) -> tuple[tuple[Array, Array], Any]:
    z = jax.lax.optimization_barrier(logits.value)
    normaliser = _normaliser(z)
    chosen = jnp.take_along_axis(z, token.value[:, None], axis=-1)[:, 0]
    return (chosen - normaliser, _entropy(z, normaliser)), (z, token.value, normaliser)


def _backward(kept: tuple[Array, Array, Array], come: tuple[Any, Any]) -> tuple[Array, None]:
    z, token, normaliser = kept
    of_log_prob, of_entropy = come
    log_prob = z - normaliser[:, None]
    probability = jnp.exp(log_prob)
    gradient = jnp.zeros_like(z)
    if not isinstance(of_log_prob, SymbolicZero):
        here = jnp.arange(z.shape[1]) == token[:, None]
        gradient = of_log_prob[:, None] * (here - probability)
    if not isinstance(of_entropy, SymbolicZero):
        entropy = _entropy(z, normaliser)
        gradient = gradient - of_entropy[:, None] * probability * (log_prob + entropy[:, None])
    return gradient, None


of_logits.defvjp(_forward, _backward, symbolic_zeros=True)
