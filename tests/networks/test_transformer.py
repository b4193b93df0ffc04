"""The transformer: what no golden file of another library can tell about it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.errors import BadInput
from bellmark.networks.transformer import (
    Architecture,
    LinearScaling,
    Llama3Scaling,
    Transformer,
    product,
    rotary_frequencies,
)

ROTARY = Architecture(
    vocabulary=11,
    width=12,
    layers=2,
    heads=4,
    key_value_heads=2,
    head_size=6,
    feed_forward=16,
    context=16,
    query_key_norm=True,
    tied=False,
)
LEARNED = dataclasses.replace(
    ROTARY,
    key_value_heads=4,
    normalisation="layer",
    gate="none",
    positions="learned",
    query_key_value_bias=True,
    attention_output_bias=True,
    feed_forward_bias=True,
    query_key_norm=False,
    tied=True,
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 11, (3, 7)))


def shaken(architecture, seed=0):
    """A model none of whose parameters is 0 or 1, where mistakes hide."""
    model = Transformer.start(architecture, jax.random.key(seed))
    leaves, structure = jax.tree.flatten(model)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return structure.unflatten(
        [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


@pytest.fixture(scope="module", params=[ROTARY, LEARNED], ids=["rotary", "learned"])
def model(request):
    return shaken(request.param)


def test_every_leaf_is_an_array_and_matters(model):
    def loss(model):
        return jnp.sum(jnp.sin(jnp.arange(11.0)) * jax.nn.log_softmax(model.logits(TOKENS)))

    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model))
    gradient = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(model))
    for path, leaf in gradient:
        # a bias of the keys adds the same to all scores of a query, which the softmax takes away again
        if "key.bias" not in jax.tree_util.keystr(path):
            assert float(jnp.abs(leaf).max()) > 1e-4, jax.tree_util.keystr(path)


def test_the_future_and_padding_change_nothing(model):
    logits = model.logits(TOKENS)
    np.testing.assert_allclose(model.logits(TOKENS[:, :4]), logits[:, :4], atol=2e-6)
    other = TOKENS.at[:, 4:].set(0)
    np.testing.assert_array_equal(model.logits(other)[:, :4], logits[:, :4])


def test_other_rows_change_nothing(model):
    np.testing.assert_allclose(model.logits(TOKENS[::-1])[::-1], model.logits(TOKENS), atol=2e-6)
    np.testing.assert_allclose(model.logits(TOKENS[1:2])[0], model.logits(TOKENS)[1], atol=2e-6)


def test_packed_texts_do_not_see_each_other(model):
    texts = [TOKENS[0, :4], TOKENS[1, :2], TOKENS[2, :5]]
    segment = jnp.repeat(jnp.arange(3), jnp.array([4, 2, 5]))[None]
    packed = model.unembed(model.hidden(jnp.concatenate(texts)[None], segment))[0]
    alone = jnp.concatenate([model.logits(text[None])[0] for text in texts])
    np.testing.assert_allclose(packed, alone, atol=3e-6)


def test_checkpointing_changes_no_gradient(model):
    def loss(model, checkpoint):
        return jnp.mean(jnp.square(model.hidden(TOKENS, checkpoint=checkpoint)))

    plain, again = (jax.grad(loss)(model, checkpoint) for checkpoint in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, again)


def test_bfloat16_is_near_float32(model):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
    logits = half.logits(TOKENS)
    assert logits.dtype == jnp.float32
    assert half.hidden(TOKENS).dtype == jnp.bfloat16
    want = model.logits(TOKENS)
    # eight bits of mantissa, through two layers
    assert float(jnp.sqrt(jnp.mean(jnp.square(logits - want)))) < 0.05 * float(jnp.std(want))


def test_attention_depends_on_distance_only():
    """Rotary positions: a text that stands later in its row, with nothing visible before it, has the same logits."""
    model = shaken(ROTARY)
    late = jnp.concatenate([TOKENS[1:2, :3], TOKENS[:1]], axis=1)
    hidden = model.hidden(late, jnp.array([[0, 0, 0] + [1] * 7]))
    np.testing.assert_allclose(model.unembed(hidden)[0, 3:], model.logits(TOKENS[:1])[0], atol=3e-6)


def test_scaled_frequencies_by_hand():
    plain = dataclasses.replace(ROTARY, head_size=8, rotary_base=10_000.0)
    frequency = np.array([1.0, 0.1, 0.01, 0.001])
    np.testing.assert_allclose(rotary_frequencies(plain), frequency)
    linear = dataclasses.replace(plain, rotary_scaling=LinearScaling(4.0))
    np.testing.assert_allclose(rotary_frequencies(linear), frequency / 4)
    # waves per 100 tokens: 15.9 (fast), 1.59 (between 1 and 4: (1.5915 − 1)/3 = 0.19718 fast), 0.159 and 0.0159 (slow)
    llama = dataclasses.replace(plain, rotary_scaling=Llama3Scaling(8.0, 1.0, 4.0, 100))
    fast = (100 * 0.1 / (2 * np.pi) - 1) / 3
    between = 0.1 * (fast + (1 - fast) / 8)
    np.testing.assert_allclose(rotary_frequencies(llama), [1.0, between, 0.01 / 8, 0.001 / 8])


def test_how_many_parameters():
    tiny = dataclasses.replace(ROTARY, query_key_norm=False, tied=True, layers=3)
    per_layer = 2 * 12 + 12 * (24 + 12 + 12) + 24 * 12 + 3 * 12 * 16
    assert tiny.parameters == 11 * 12 + 3 * per_layer + 12


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"key_value_heads": 3}, "heads is 4; allowed: a multiple of key_value_heads, 3"),
        ({"head_size": 5}, "head_size is 5; rotary positions need an even one"),
        ({"layers": 0}, "layers is 0"),
    ],
)
def test_impossible_architectures(fields, words):
    with pytest.raises(BadInput, match=words):
        dataclasses.replace(ROTARY, **fields)


def test_texts_longer_than_the_context():
    with pytest.raises(BadInput, match="the text has 17 tokens; this model reads at most 16"):
        shaken(ROTARY).logits(jnp.zeros((1, 17), int))


def test_a_model_goes_through_a_scan():
    model = shaken(ROTARY)
    _, same = jax.lax.scan(lambda carry, _: (carry, carry.norm.weight), model, length=2)
    assert eqx.tree_equal(same[0], model.norm.weight)


@pytest.mark.parametrize("places", [(), (5,), (2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_of_a_product_is_the_matrix_products(places, dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x, weight = jax.random.normal(keys[0], (*places, 4), dtype), jax.random.normal(keys[1], (4, 6))
    wanted = jax.random.normal(keys[2], (*places, 6))
    found, expected = (
        jax.grad(lambda x, w, f=f: jnp.sum(wanted * f(x, w)), (0, 1))(x, weight)
        for f in (product, lambda x, w: x @ w)
    )
    assert [g.dtype for g in found] == [x.dtype, weight.dtype]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            one.astype("float32"), other.astype("float32"), rtol=1e-2 if one.dtype != "float32" else 1e-5
        )
