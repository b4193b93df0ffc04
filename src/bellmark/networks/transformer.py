"""A decoder-only transformer: the policy whose actions are the tokens of a text.

A. Vaswani et al., "Attention is all you need", 2017, in the forms that today's open families have given it:

    x ← embedding[token] (+ position[t])
    for every layer                                        pre-normalisation (A. Radford et al., GPT-2, 2019)
        x ← x + W_o attention(q, k, v)                     q, k, v = W_q n(x), W_k n(x), W_v n(x)
        x ← x + W_down (silu(W_gate n(x)) ⊙ W_up n(x))     or W_down gelu(W_up n(x))
    logits ← n(x) W_head                                   W_head = embeddingᵀ where they are tied

n is layer normalisation (Ba et al., 2016) or its root-mean-square form (Zhang & Sennrich, 2019); positions are learned
or rotary (J. Su et al., "RoFormer", 2021), the latter with the scalings that stretch a context; queries in groups
share keys and values (J. Ainslie et al., "GQA", 2023); the gated unit is SwiGLU (N. Shazeer, 2020).  `Architecture`
says which.

All layers lie in one set of arrays with a leading axis and run under one `lax.scan`, so a model of thirty layers
compiles as fast as one of one.  Sequences are padded on the right, if at all: a causal model never looks there, so no
padding mask is needed and none can be wrong.
"""

import dataclasses
import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bellmark.errors import BadInput
from bellmark.types import Key


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor` (S. Chen et al., "Extending context window", 2023)."""

    factor: float


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Slow rotations divided by `factor`, fast ones kept, those between interpolated (Llama 3.1, 2024).

    A rotation is slow where its wave is longer than `original_context / low_frequency_factor`, and fast where it is
    shorter than `original_context / high_frequency_factor`.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What kind of transformer, and how large.  `head_size` need not be width / heads (Qwen3)."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    feed_forward: int
    context: int
    normalisation: Literal["rms", "layer"] = "rms"
    epsilon: float = 1e-5
    gate: Literal["silu", "none"] = "silu"
    positions: Literal["rotary", "learned"] = "rotary"
    rotary_base: float = 10_000.0
    rotary_scaling: LinearScaling | Llama3Scaling | None = None
    query_key_value_bias: bool = False
    attention_output_bias: bool = False
    feed_forward_bias: bool = False
    query_key_norm: bool = False
    tied: bool = True

    def __post_init__(self):
        sizes = (
            "vocabulary",
            "width",
            "layers",
            "heads",
            "key_value_heads",
            "head_size",
            "feed_forward",
            "context",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if self.heads % self.key_value_heads:
            raise BadInput(
                f"heads is {self.heads}; allowed: a multiple of key_value_heads, {self.key_value_heads}"
            )
        if self.positions == "rotary" and self.head_size % 2:
            raise BadInput(f"head_size is {self.head_size}; rotary positions need an even one")

    @property
    def parameters(self) -> int:
        """How many numbers the model learns."""
        shapes = jax.eval_shape(lambda key: Transformer.start(self, key), jax.random.key(0))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def rotary_frequencies(architecture: Architecture) -> np.ndarray:
    """ω_i = base^(−2i/D), i < D/2, in radians per position, scaled as the architecture says; float64."""
    half = architecture.head_size // 2
    frequency = architecture.rotary_base ** (-np.arange(half) / half)
    scaling = architecture.rotary_scaling
    if isinstance(scaling, LinearScaling):
        return frequency / scaling.factor
    if isinstance(scaling, Llama3Scaling):
        # waves per original context: at most `low` is slow, at least `high` is fast
        waves = scaling.original_context * frequency / (2 * np.pi)
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        fast = np.clip((waves - low) / (high - low), 0.0, 1.0)
        return frequency * (fast + (1.0 - fast) / scaling.factor)
    return frequency


class Rotation(eqx.Module):
    """cos(ωt) and sin(ωt) of the positions t, float32."""

    cos: Float[Array, "*B D"]
    sin: Float[Array, "*B D"]

    @staticmethod
    def at(architecture: Architecture, position: Int[Array, "*B"]) -> "Rotation":
        frequency = jnp.asarray(rotary_frequencies(architecture), jnp.float32)
        angle = position[..., None].astype(jnp.float32) * frequency
        return Rotation(jnp.cos(angle), jnp.sin(angle))

    def __call__(self, x: Float[Array, "*B H _"]) -> Float[Array, "*B H _"]:
        """Component i and component i + D/2 of every head turned together by ω_i t."""
        first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        cos, sin = self.cos[..., None, :], self.sin[..., None, :]
        turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return turned.astype(x.dtype)


class Norm(eqx.Module):
    """Root-mean-square normalisation x / √(mean x² + ε) · w; with a bias b: (x − x̄) / √(var x + ε) · w + b.

    The mean and the root are taken in float32 whatever the weights are.
    """

    weight: Float[Array, "*L D"]
    bias: Float[Array, "*L D"] | None
    epsilon: float = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        wide = x.astype(jnp.float32)
        if self.bias is not None:
            wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.epsilon)
        if self.bias is None:
            return wide.astype(x.dtype) * self.weight
        return (wide * self.weight + self.bias).astype(x.dtype)


class LowRank(eqx.Module):
    """x ↦ s xAB: what an adapter adds to a projection (E. Hu et al., "LoRA", 2022).  Arrays that are None are off."""

    down: Float[Array, "*L in rank"] | None
    up: Float[Array, "*L rank out"] | None
    scale: float = eqx.field(static=True)


@jax.custom_vjp
def product(x: Float[Array, "*B in"], weight: Float[Array, "in out"]) -> Float[Array, "*B out"]:
    """xW, with a gradient of W that is written as it should be computed: all places in one, xᵀ dy, nothing transposed.

    Left to itself JAX asks for (dyᵀ x)ᵀ, for which XLA first computes dy, and all that it comes from, a second time in
    transposed order, which a CPU is slow at (`benchmarks/LANGUAGE.md`). Not for forward-mode derivatives.
    """
    return x @ weight


def _product(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ weight, (x, weight)


def _product_gradient(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, weight = kept
    dx = jax.lax.dot_general(dy, weight, (((dy.ndim - 1,), (1,)), ((), ())))
    places, moved = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    gradient = jax.lax.dot_general(places, moved, (((0,), (0,)), ((), ())))
    return dx.astype(x.dtype), gradient.astype(weight.dtype)


product.defvjp(_product, _product_gradient)


@jax.custom_vjp
def likeness(x: Float[Array, "*B W"], table: Float[Array, "V W"]) -> Float[Array, "*B V"]:
    """x tableᵀ in float32: how much each place is like every row; its gradient is written as that of `product` is."""
    return jax.lax.dot_general(
        x, table, (((x.ndim - 1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )


def _likeness(x: Array, table: Array) -> tuple[Array, tuple[Array, Array]]:
    return likeness(x, table), (x, table)


def _likeness_gradient(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, table = kept
    wide = table.astype(dy.dtype)
    dx = jax.lax.dot_general(dy, wide, (((dy.ndim - 1,), (0,)), ((), ())))
    places, moved = x.reshape(-1, x.shape[-1]).astype(dy.dtype), dy.reshape(-1, dy.shape[-1])
    gradient = jax.lax.dot_general(moved, places, (((0,), (0,)), ((), ())))
    return dx.astype(x.dtype), gradient.astype(table.dtype)


likeness.defvjp(_likeness, _likeness_gradient)


class Projection(eqx.Module):
    """x ↦ xW (+ b), W stored (in, out); with an adapter, x ↦ xW + s xAB (+ b)."""

    weight: Float[Array, "*L in out"]
    bias: Float[Array, "*L out"] | None
    adapter: LowRank | None = None

    def __call__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        y = product(x, self.weight)
        if self.adapter is not None and self.adapter.down is not None and self.adapter.up is not None:
            y = y + self.adapter.scale * ((x @ self.adapter.down) @ self.adapter.up)
        return y if self.bias is None else y + self.bias


class Layer(eqx.Module):
    """One block: attention, then the feed-forward part; or all of them, with a leading axis `L` in every array."""

    attention_norm: Norm
    query: Projection
    key: Projection
    value: Projection
    query_norm: Norm | None
    key_norm: Norm | None
    attention_output: Projection
    feed_forward_norm: Norm
    gate: Projection | None
    up: Projection
    down: Projection

    def queries_keys_values(
        self, x: Float[Array, "*B W"], head_size: int, rotation: Rotation | None
    ) -> tuple[Float[Array, "*B H D"], Float[Array, "*B K D"], Float[Array, "*B K D"]]:
        """What attention compares and passes on, by head; q and k normalised and turned where that is the family's."""
        x = self.attention_norm(x)
        query, key, value = (by_head(project(x), head_size) for project in (self.query, self.key, self.value))
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotation(query), rotation(key)
        return query, key, value

    def after_attention(self, x: Float[Array, "*B W"], read: Float[Array, "*B H D"]) -> Float[Array, "*B W"]:
        """The rest of the block, `read` being what attention has read."""
        x = x + self.attention_output(read.reshape(*read.shape[:-2], -1))
        y = self.feed_forward_norm(x)
        if self.gate is None:
            hidden = jax.nn.gelu(self.up(y), approximate=True)
        else:
            hidden = jax.nn.silu(self.gate(y)) * self.up(y)
        return x + self.down(hidden)


def by_head(x: Float[Array, "*B _"], head_size: int) -> Float[Array, "*B H _"]:
    """The last axis cut into heads."""
    return x.reshape(*x.shape[:-1], -1, head_size)


def attention(
    query: Float[Array, "B T H D"],
    key: Float[Array, "B S K D"],
    value: Float[Array, "B S K D"],
    mask: Bool[Array, "*B T S"],
) -> Float[Array, "B T H D"]:
    """softmax(qk/√D) v where `mask` is set, every key head serving H/K query heads; softmax in float32."""
    batch, time, heads, size = query.shape
    shared = key.shape[2]
    grouped = query.reshape(batch, time, shared, heads // shared, size)
    score = jnp.einsum("btkgd,bskd->bkgts", grouped, key, preferred_element_type=jnp.float32)
    # finite, not −∞: rows of padding must stay free of NaN
    score = jnp.where(mask[..., None, None, :, :], score / math.sqrt(size), -1e30)
    weight = jax.nn.softmax(score, axis=-1).astype(value.dtype)
    return jnp.einsum("bkgts,bskd->btkgd", weight, value).reshape(query.shape)


class KeysValues(eqx.Module):
    """What attention remembers of tokens that it has seen: keys (already turned) and values of every layer."""

    key: Float[Array, "L B T K D"]
    value: Float[Array, "L B T K D"]


class Transformer(eqx.Module):
    """Tokens to logits; see the module's docstring.  `head` is None where the embedding serves for it."""

    embedding: Float[Array, "V W"]
    position: Float[Array, "C W"] | None
    layers: Layer
    norm: Norm
    head: Float[Array, "W V"] | None
    architecture: Architecture = eqx.field(static=True)

    @staticmethod
    def start(architecture: Architecture, key: Key, dtype: Any = jnp.float32) -> "Transformer":
        """Random weights: N(0, 1/in) in projections, those back into the residual stream 1/√(2L) of that; N(0, 0.02²)
        in embeddings; norms 1 and biases 0 (Radford et al., 2019)."""
        a = architecture
        keys = iter(jax.random.split(key, 10))

        def normal(deviation: float, *shape: int) -> Array:
            return (deviation * jax.random.normal(next(keys), shape)).astype(dtype)

        def projection(inputs: int, outputs: int, biased: bool, factor: float = 1.0) -> Projection:
            weight = normal(factor / math.sqrt(inputs), a.layers, inputs, outputs)
            return Projection(weight, jnp.zeros((a.layers, outputs), dtype) if biased else None)

        def norm(*shape: int) -> Norm:
            bias = jnp.zeros(shape, dtype) if a.normalisation == "layer" else None
            return Norm(jnp.ones(shape, dtype), bias, a.epsilon)

        queries, keys_values = a.heads * a.head_size, a.key_value_heads * a.head_size
        back = 1.0 / math.sqrt(2 * a.layers)
        head_norms = [
            Norm(jnp.ones((a.layers, a.head_size), dtype), None, a.epsilon) if a.query_key_norm else None
            for _ in range(2)
        ]
        layers = Layer(
            attention_norm=norm(a.layers, a.width),
            query=projection(a.width, queries, a.query_key_value_bias),
            key=projection(a.width, keys_values, a.query_key_value_bias),
            value=projection(a.width, keys_values, a.query_key_value_bias),
            query_norm=head_norms[0],
            key_norm=head_norms[1],
            attention_output=projection(queries, a.width, a.attention_output_bias, back),
            feed_forward_norm=norm(a.layers, a.width),
            gate=projection(a.width, a.feed_forward, a.feed_forward_bias) if a.gate == "silu" else None,
            up=projection(a.width, a.feed_forward, a.feed_forward_bias),
            down=projection(a.feed_forward, a.width, a.feed_forward_bias, back),
        )
        return Transformer(
            embedding=normal(0.02, a.vocabulary, a.width),
            position=normal(0.02, a.context, a.width) if a.positions == "learned" else None,
            layers=layers,
            norm=norm(a.width),
            head=None if a.tied else normal(1 / math.sqrt(a.width), a.width, a.vocabulary),
            architecture=a,
        )

    def layer(self, index: int) -> Layer:
        """One layer, as arrays of its own."""
        return jax.tree.map(lambda x: x[index], self.layers)

    def embed(self, tokens: Int[Array, "*B"], position: Int[Array, "*B"]) -> Float[Array, "*B W"]:
        """What enters the first layer."""
        x = self.embedding[tokens]
        return x if self.position is None else x + self.position[position]

    def rotation(self, position: Int[Array, "*B"]) -> Rotation | None:
        return Rotation.at(self.architecture, position) if self.position is None else None

    def unembed(self, hidden: Float[Array, "*B W"]) -> Float[Array, "*B V"]:
        """Logits of normalised hidden states, summed in float32."""
        if self.head is None:
            return likeness(hidden, self.embedding)
        return jnp.matmul(hidden, self.head, preferred_element_type=jnp.float32)

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        segment: Int[Array, "B T"] | None = None,
        *,
        checkpoint: bool = False,
    ) -> Float[Array, "B T W"]:
        """Hidden states after the last norm: what `unembed` turns into the logits of the token that follows.

        `segment` numbers the texts that were packed into a row: each sees itself only and counts its positions from 0.
        For the gradient the products with weights are kept, and what lies between them is computed again, which is
        quicker on a CPU than to write and read it, and needs less than half of the room; with `checkpoint` only one
        [B, T, W] per layer is kept.
        """
        return self._run(tokens, segment, checkpoint, False)[0]

    def prefill(self, tokens: Int[Array, "B T"]) -> tuple[Float[Array, "B T W"], KeysValues]:
        """`hidden`, and what attention would have to remember in order to go on."""
        hidden, (key, value) = self._run(tokens, None, False, True)
        return hidden, KeysValues(key, value)

    def branches(
        self,
        prompt: Int[Array, "P Q"],
        length: Int[Array, " P"],
        answer: Int[Array, "N A"],
        *,
        checkpoint: bool = False,
    ) -> tuple[Float[Array, "P Q W"], Float[Array, "N A W"]]:
        """`hidden` of prompts and of N/P answers to each in turn, where every prompt is read once for all its answers.

        An answer begins at place `length` of its prompt, and sees what is before that place and itself.  What `hidden`
        computes of whole texts is the same up to rounding, and so is the gradient.
        """
        (prompts, before), (answers, after) = prompt.shape, answer.shape
        group = answers // prompts
        begin = jnp.repeat(length, group)[:, None]
        reading, own = jnp.arange(before), jnp.arange(after)
        mask = jnp.broadcast_to(reading[:, None] >= reading, (prompts, before, before))
        asked = jnp.broadcast_to((reading < begin)[:, None], (answers, after, before))
        said = jnp.broadcast_to(own[:, None] >= own, (answers, after, after))
        both = jnp.concatenate([asked, said], axis=2)
        # products with weights take all tokens of all texts together; attention parts them
        cut = prompts * before

        def parted(flat: Array) -> tuple[Array, Array]:
            rest = flat.shape[1:]
            return flat[:cut].reshape(prompts, before, *rest), flat[cut:].reshape(answers, after, *rest)

        def flat(first: Array, second: Array) -> Array:
            rest = first.shape[2:]
            return jnp.concatenate([first.reshape(-1, *rest), second.reshape(-1, *rest)])

        position = flat(jnp.broadcast_to(reading, prompt.shape), begin + own)
        rotation = self.rotation(position)
        size = self.architecture.head_size

        def block(x: Array, layer: Layer) -> tuple[Array, None]:
            query, key, value = map(parted, layer.queries_keys_values(x, size, rotation))
            keys, values = (
                jnp.concatenate([jnp.repeat(theirs, group, axis=0), own], axis=1)
                for theirs, own in (key, value)
            )
            read = flat(attention(query[0], key[0], value[0], mask), attention(query[1], keys, values, both))
            return layer.after_attention(x, read), None

        x, _ = jax.lax.scan(_kept(block, checkpoint), self.embed(flat(prompt, answer), position), self.layers)
        return parted(self.norm(x))

    def logits(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """log π(next token | text so far), up to a constant, at every place of the text."""
        return self.unembed(self.hidden(tokens))

    def _run(self, tokens, segment, checkpoint: bool, remember: bool):
        if tokens.shape[1] > self.architecture.context:
            raise BadInput(
                f"the text has {tokens.shape[1]} tokens; this model reads at most {self.architecture.context}"
            )
        time = jnp.arange(tokens.shape[1])
        mask = time[:, None] >= time[None, :]
        position = time[None, :]
        if segment is not None:
            mask = mask & (segment[:, :, None] == segment[:, None, :])
            # the place of the first token of one's own segment is where the positions begin
            begins = jnp.concatenate([jnp.ones_like(segment[:, :1]), jnp.diff(segment, axis=1)], axis=1) != 0
            position = time - jax.lax.cummax(jnp.where(begins, time, 0), axis=1)
        mask = jnp.broadcast_to(mask, (tokens.shape[0], *mask.shape[-2:]))
        rotation = self.rotation(position)
        size = self.architecture.head_size

        def block(x: Array, layer: Layer) -> tuple[Array, Any]:
            query, key, value = layer.queries_keys_values(x, size, rotation)
            x = layer.after_attention(x, attention(query, key, value, mask))
            return x, ((key, value) if remember else None)

        x = self.embed(tokens, jnp.broadcast_to(position, tokens.shape))
        x, remembered = jax.lax.scan(_kept(block, checkpoint), x, self.layers)
        return self.norm(x), remembered


def _kept(block: Any, checkpoint: bool) -> Any:
    """A layer that keeps for its gradient the products with weights; with `checkpoint`, nothing but what entered it."""
    products = None if checkpoint else jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    # a scan's body cannot be merged with what computes it again, so nothing has to prevent that
    return jax.checkpoint(block, policy=products, prevent_cse=False)
