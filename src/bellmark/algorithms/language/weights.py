"""What every learner of texts keeps: weights that move, weights that rest, and how the first are moved.

    all of them     the learned weights are the model; the resting ones are the model as it was, for comparison
    adapters        the learned weights are the adapters; the resting ones are the model, with the adapters off

Either way `reference` is the model before any learning.  The resting weights never change: a checkpoint leaves them
out, for a run keeps them once, in its folder `start/`.

What learns, and the optimiser's moments, are float32 whatever the model's numbers are: a step of 1e-5 on a weight of 1
is lost in bfloat16, whose next number is 1.008.  A bfloat16 model draws and is differentiated in bfloat16, by a copy
rounded anew after every step (P. Micikevicius et al., "Mixed precision training", 2018).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from bellmark.algorithms.checks import at_least, fraction, positive
from bellmark.errors import BadInput
from bellmark.networks.low_rank import has_adapters, learned_and_resting, with_adapters
from bellmark.networks.transformer import Transformer
from bellmark.types import Key, Metrics, Scalar


class Weights(eqx.Module):
    """The model that learns, in two parts; `resting` is None where all weights learn and nothing is compared.

    `precision` is the model's, where it is not that of the weights that learn.
    """

    learned: Transformer
    resting: Transformer | None
    precision: str | None = eqx.field(static=True, default=None)

    @property
    def policy(self) -> Transformer:
        return self.with_learned(self.learned)

    def with_learned(self, learned: Transformer) -> Transformer:
        """The model with these learned weights in place of its own: what a gradient is taken of."""
        if self.precision is not None:
            learned = jax.tree.map(lambda x: x.astype(self.precision), learned)
        return learned if self.resting is None else eqx.combine(learned, self.resting)

    def moved(self, learned: Transformer) -> "Weights":
        return Weights(learned, self.resting, self.precision)

    def at_rest(self, resting: Transformer | None) -> "Weights":
        """With these resting weights, or without any."""
        return Weights(self.learned, resting, self.precision)

    @property
    def reference(self) -> Transformer:
        """The model before any learning."""
        if self.resting is None:
            raise ValueError("all weights learn and the reference was not kept")
        return self.resting


def start_weights(transformer: Transformer, rank: int, alpha: float, key: Key, compared: bool) -> Weights:
    """Weights that learn: adapters of this rank, or all where it is 0; `compared` keeps the reference."""
    dtype = transformer.embedding.dtype
    precision = None if dtype == jnp.float32 else str(dtype)
    if rank:
        learned, resting = learned_and_resting(with_adapters(transformer, rank, alpha, key))
        return Weights(in_float32(learned), resting, precision)
    return Weights(in_float32(transformer), transformer if compared else None, precision)


def in_float32(transformer: Transformer) -> Transformer:
    """A copy, always: what learns is given away to be overwritten, what rests is not."""
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), transformer)


def adapted(weights: Weights) -> bool:
    return weights.resting is not None and has_adapters(weights.learned)


def check_settings(learner: Any) -> None:
    """The fields that all learners of texts share."""
    positive(learning_rate=learner.learning_rate, max_gradient_norm=learner.max_gradient_norm)
    at_least(0, weight_decay=learner.weight_decay, warm_up=learner.warm_up, rank=learner.rank)
    at_least(1, micro_batch=learner.micro_batch, chunk=learner.chunk)
    positive(alpha=learner.alpha)
    for name in ("trace_decay", "discount"):
        if hasattr(learner, name):
            fraction(name, getattr(learner, name))


def optimiser_of(learner: Any) -> optax.GradientTransformation:
    """Gradients clipped by their global norm, Adam, decoupled weight decay (Loshchilov & Hutter, 2019)."""
    return optax.chain(
        optax.clip_by_global_norm(learner.max_gradient_norm),
        optax.scale_by_adam(b1=0.9, b2=0.95),
        optax.add_decayed_weights(learner.weight_decay),
    )


def learning_rate_at(learner: Any, iteration: Any, horizon: Any) -> Any:
    """Linear warm-up over the first `warm_up` iterations, then linear annealing to 0 where asked for."""
    rate = learner.learning_rate * jnp.minimum(1.0, (iteration + 1.0) / max(learner.warm_up, 1))
    return rate * jnp.maximum(1.0 - iteration / horizon, 0.0) if learner.anneal else rate * 1.0


Loss = Callable[[Any, Any], tuple[Any, Metrics]]
"""(learned weights, rows) to the rows' share of the batch's loss, and metrics that add up likewise."""


def descended(
    learner: Any, carry: tuple[Any, Any], loss: Loss, rows: Any, rate: Scalar
) -> tuple[tuple[Any, Any], Metrics]:
    """One step down the loss of these rows: new (learned weights, optimiser's state), and what was measured.

    The gradient's norm is the global one, before any clipping.
    """
    learned, optimiser = carry
    gradient, metrics = gradient_of(loss, learned, rows, learner.micro_batch)
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(gradient)))
    direction, optimiser = optimiser_of(learner).update(gradient, optimiser, learned)
    learned = jax.tree.map(lambda p, d: (p - rate * d).astype(p.dtype), learned, direction)
    metrics |= {"optimiser/gradient_norm": norm, "optimiser/learning_rate": jnp.asarray(rate)}
    return (learned, optimiser), metrics


def gradient_of(loss: Loss, learned: Any, rows: Any, micro_batch: int) -> tuple[Any, Metrics]:
    """∇ of a loss that is a sum over rows, with `micro_batch` rows in memory at a time.

    Every row carries its weight in the whole batch, so however the rows are cut, the sums are the same up to rounding.
    Rows of zeros fill the last piece: their weights are zero.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    differentiate = jax.value_and_grad(loss, has_aux=True)

    def both(rows: Any) -> tuple[Any, Metrics]:
        (value, metrics), gradient = differentiate(learned, rows)
        return gradient, {**metrics, "loss/total": value}

    if count <= micro_batch:
        return both(rows)
    filling = -count % micro_batch

    def cut(x: Any) -> Any:
        filled = jnp.concatenate([x, jnp.zeros((filling, *x.shape[1:]), x.dtype)])
        return filled.reshape(-1, micro_batch, *x.shape[1:])

    pieces = jax.tree.map(cut, rows)
    shapes = jax.eval_shape(both, jax.tree.map(lambda x: x[0], pieces))
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: Any, piece: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, both(piece)), None

    return jax.lax.scan(add, nothing, pieces)[0]


def whole_minibatches(rows: int, minibatches: int) -> None:
    if rows % minibatches:
        raise BadInput(
            f"minibatches is {minibatches}, which does not divide the {rows} answers of an iteration"
        )
