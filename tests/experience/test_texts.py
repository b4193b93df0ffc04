"""What the trainer computes of answers, beside what the sampler remembered of them."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.errors import BadInput
from bellmark.experience.generation import Sampling, generate
from bellmark.experience.texts import answer_log_probs, texts_of
from bellmark.networks.transformer import Architecture, Transformer

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 2]]
TEMPERATURE = 0.7

compiled = eqx.filter_jit(answer_log_probs)


@pytest.fixture(scope="module")
def transformer():
    start = Transformer.start(Architecture(12, 16, 2, 4, 2, 4, 24, 64, tied=False), jax.random.key(1))
    larger = jax.tree.map(lambda x: 1.5 * x, start)
    # embeddings of size 1: the first norm divides by their size, and small ones would magnify rounding in its gradient
    return eqx.tree_at(lambda t: t.embedding, larger, 30 * larger.embedding)


@pytest.fixture(scope="module")
def completions(transformer):
    sampling = Sampling(TEMPERATURE)
    return generate(
        transformer, PROMPTS, max_new_tokens=10, group=4, seed=0, sampling=sampling, end_tokens=(11, 0)
    )


@pytest.fixture(scope="module")
def texts(completions):
    return texts_of(completions)


def test_texts_are_prompts_with_answers(completions, texts):
    # the longest has 13 to 17 tokens, the last of which predicts nothing: 16 and one
    assert texts.tokens.shape == (12, 17)
    assert completions.ended.any()
    for row, answer in enumerate(completions):
        text = [*answer.prompt, *answer.tokens]
        np.testing.assert_array_equal(texts.tokens[row, : len(text)], text)
        assert int(texts.start[row]) == len(answer.prompt)
    with pytest.raises(BadInput, match=r"width is 8; the longest text has 1[0-9] tokens"):
        texts_of(completions, width=8)
    longest = int((texts.start + texts.mask.sum(1)).max())
    assert texts_of(completions, context=longest).tokens.shape == (12, longest)


def test_sampler_and_trainer_agree(transformer, texts):
    """Before the first update: the ratio of every token is 1, up to the rounding of two ways to add."""
    log_prob, entropy = compiled(transformer, texts, TEMPERATURE)
    np.testing.assert_allclose(log_prob, texts.log_prob, atol=2e-5)
    assert (np.asarray(log_prob)[~np.asarray(texts.mask)] == 0).all()
    assert (np.asarray(entropy)[np.asarray(texts.mask)] > 0).all()
    # at another temperature they do not: both sides must use the one that was drawn with
    other, _ = compiled(transformer, texts, 1.0)
    assert float(jnp.abs(other - texts.log_prob).max()) > 0.05


def test_padding_order_and_chunks_change_nothing(transformer, completions, texts):
    want, entropy = compiled(transformer, texts, TEMPERATURE)
    wider = texts_of(completions, width=48)
    rubbish = jnp.where(jnp.arange(48) < (wider.start + wider.mask.sum(1))[:, None], wider.tokens, 7)
    for other in (wider, dataclasses.replace(wider, tokens=rubbish)):
        np.testing.assert_allclose(compiled(transformer, other, TEMPERATURE)[0], want, atol=1e-5)
    order = np.random.default_rng(0).permutation(12)
    moved = jax.tree.map(lambda x: x[order], texts)
    np.testing.assert_allclose(compiled(transformer, moved, TEMPERATURE)[0], want[order], atol=1e-5)
    small = compiled(transformer, texts, TEMPERATURE, chunk=7)
    np.testing.assert_allclose(small[0], want, atol=1e-5)
    np.testing.assert_allclose(small[1], entropy, atol=1e-5)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_a_prompt_that_is_read_once_for_its_group(completions, positions):
    """Log-probabilities, entropies and their gradient are those of texts that are read one by one."""
    architecture = Architecture(12, 16, 2, 4, 2, 4, 24, 64, positions=positions, query_key_norm=True)
    model = Transformer.start(architecture, jax.random.key(4))
    model = eqx.tree_at(lambda t: t.embedding, model, 30 * model.embedding)
    alone, together = texts_of(completions), texts_of(completions, shared=True)
    assert (alone.group, together.group, together.widths) == (1, 4, (8, 10))
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(2, *alone.mask.shape)), jnp.float32)

    @eqx.filter_jit
    def gradient(texts, weight, checkpoint=False):
        def total(model):
            made = jnp.stack(answer_log_probs(model, texts, TEMPERATURE, checkpoint=checkpoint))
            return jnp.sum(weight * made), made

        return jax.grad(total, has_aux=True)(model)

    def close(one, other):
        return np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)

    want, made = gradient(alone, weight)
    for checkpoint in (False, True):
        got, same = gradient(together, weight, checkpoint)
        np.testing.assert_allclose(same, made, atol=2e-5)
        jax.tree.map(close, got, want)
    # whole groups may be parted from each other; rows that are not whole groups are read one by one
    for rows in (slice(0, 8), slice(0, 3)):
        _, same = gradient(jax.tree.map(lambda x, p=rows: x[p], together), weight[:, rows])
        np.testing.assert_allclose(same, made[:, rows], atol=2e-5)


def test_how_wide_a_group_is_read(completions):
    assert texts_of(completions, shared=True).tokens.shape == (12, 18)
    assert texts_of(completions, shared=True, context=17).tokens.shape == (12, 17)
    first = {name: getattr(completions, name)[:, :1] for name in ("tokens", "mask", "log_probs")}
    short = texts_of(dataclasses.replace(completions, **first), shared=True)
    assert (short.group, short.widths) == (1, None)  # nothing of such answers is read


def test_gradients_in_parts_add_up(transformer, texts):
    """Micro-batches, chunks and checkpoints change nothing about the gradient of a weighted sum over answers."""
    weight = jnp.asarray(np.random.default_rng(1).normal(size=texts.mask.shape), jnp.float32)

    @eqx.filter_jit
    def gradient(texts, weight, chunk, checkpoint):
        def total(transformer):
            return jnp.sum(
                weight
                * answer_log_probs(transformer, texts, TEMPERATURE, chunk=chunk, checkpoint=checkpoint)[0]
            )

        return jax.grad(total)(transformer)

    whole = gradient(texts, weight, 1024, False)
    halves = [
        gradient(jax.tree.map(lambda x, p=part: x[p], texts), weight[part], 7, True)
        for part in (slice(0, 6), slice(6, 12))
    ]
    added = jax.tree.map(jnp.add, *halves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), added, whole)
