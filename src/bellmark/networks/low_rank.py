"""Low-rank adapters: learning a small correction to every projection while the weights themselves rest.

E. Hu, Y. Shen, P. Wallis, Z. Allen-Zhu, Y. Li, S. Wang, L. Wang, W. Chen, "LoRA: low-rank adaptation of large
language models", 2022.

    W ← W + (α/r) AB,   A ∈ ℝ^{in×r} drawn from N(0, 1/in), B ∈ ℝ^{r×out} zero

At the start the correction is zero, so the adapted model is the model; with the adapters off it is again, at any time,
which is what a KL penalty compares with.  What learns is (A, B) of every layer; merged, they leave a plain model.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bellmark.networks.transformer import LowRank, Projection, Transformer
from bellmark.types import Key

PROJECTIONS = ("query", "key", "value", "attention_output", "gate", "up", "down")
"""Every projection of a layer gets an adapter; embeddings, norms and the head rest."""


def with_adapters(transformer: Transformer, rank: int, alpha: float, key: Key) -> Transformer:
    """The same function, ready to learn a correction of this rank, scaled by α/r."""
    layers = transformer.layers
    for name, one in zip(PROJECTIONS, jax.random.split(key, len(PROJECTIONS)), strict=True):
        projection = getattr(layers, name)
        if projection is None:
            continue
        depth, inputs, outputs = projection.weight.shape
        dtype = projection.weight.dtype
        down = jax.random.normal(one, (depth, inputs, rank), dtype) / math.sqrt(inputs)
        adapter = LowRank(down, jnp.zeros((depth, rank, outputs), dtype), alpha / rank)
        layers = eqx.tree_at(_adapter_of(name), layers, adapter, is_leaf=_nothing)
    return eqx.tree_at(lambda t: t.layers, transformer, layers)


def _adapter_of(name: str) -> Callable[[Any], Any]:
    return lambda layers: getattr(layers, name).adapter


def _nothing(x) -> bool:
    return x is None


def has_adapters(transformer: Transformer) -> bool:
    return transformer.layers.query.adapter is not None


def learned_and_resting(transformer: Transformer) -> tuple[Transformer, Transformer]:
    """(the adapters alone, everything else): `eqx.combine` joins them again, and the second acts with adapters off."""

    def learns(x) -> object:
        if isinstance(x, LowRank):
            return jax.tree.map(lambda _: True, x)
        return jax.tree.map(lambda _: False, x)

    chosen = jax.tree.map(learns, transformer, is_leaf=lambda x: isinstance(x, LowRank))
    return eqx.partition(transformer, chosen)


def merged(transformer: Transformer) -> Transformer:
    """A plain model with the same function: W + s AB in place of every adapted projection."""

    def merge(x):
        if not isinstance(x, Projection) or x.adapter is None:
            return x
        if x.adapter.down is None or x.adapter.up is None:
            return Projection(x.weight, x.bias)
        added = x.adapter.scale * jnp.matmul(x.adapter.down, x.adapter.up)
        return Projection((x.weight + added).astype(x.weight.dtype), x.bias)

    return jax.tree.map(merge, transformer, is_leaf=lambda x: isinstance(x, Projection))
