"""The sampler: log-probabilities of what was drawn, and everything that must not change an answer."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.experience.generation import Sampling, chunks
from bellmark.language import Architecture, CharacterTokenizer, LanguageModel
from bellmark.networks.transformer import Transformer

ARCHITECTURE = Architecture(
    vocabulary=12,
    width=16,
    layers=2,
    heads=4,
    key_value_heads=2,
    head_size=4,
    feed_forward=24,
    context=64,
    tied=False,
)
PROMPTS = ["12+7", "9", "0123456789+0123456789", "12+7"]


def model_of(**fields):
    architecture = dataclasses.replace(ARCHITECTURE, **fields)
    model = LanguageModel.start(architecture, CharacterTokenizer("0123456789+"), seed=1)
    # sharper than at the start, so that tokens differ clearly in probability
    sharper = jax.tree.map(lambda x: 1.5 * x, model.transformer)
    return model.with_transformer(sharper)


@pytest.fixture(scope="module")
def model():
    return model_of()


def log_probs_after(model, tokens, temperature=1.0):
    """[T, V]: by one pass over the whole text, without a cache; rows of one width, so that one program serves all."""
    row = np.zeros((1, 48), int)
    row[0, : len(tokens)] = tokens
    return np.asarray(jax.nn.log_softmax(model.logits(row) / temperature))[0, : len(tokens)]


def recomputed(model, completion, temperature):
    """The log-probabilities of an answer's tokens."""
    log_probs = log_probs_after(model, [*completion.prompt, *completion.tokens], temperature)
    first = len(completion.prompt) - 1
    return log_probs[np.arange(first, len(log_probs) - 1), completion.tokens]


LEARNED = {
    "positions": "learned",
    "normalisation": "layer",
    "gate": "none",
    "key_value_heads": 4,
    "query_key_value_bias": True,
    "attention_output_bias": True,
    "feed_forward_bias": True,
}


@pytest.mark.parametrize(
    ("fields", "temperature"),
    [({}, 1.0), ({}, 0.6), (LEARNED, 1.3)],
    ids=["rotary", "cool", "learned positions"],
)
def test_log_probabilities_are_those_of_the_distribution_drawn_from(fields, temperature):
    transformer = model_of(**fields)
    answers = transformer.sample(PROMPTS, max_new_tokens=20, temperature=temperature, group=3)
    assert len(answers) == 12
    for answer in answers:
        np.testing.assert_allclose(answer.log_probs, recomputed(transformer, answer, temperature), atol=5e-5)


def test_what_an_answer_consists_of(model):
    answers = model.sample(PROMPTS, max_new_tokens=20, group=3)
    assert answers.tokens.shape == answers.mask.shape == answers.log_probs.shape == (12, 20)
    assert answers.log_probs.dtype == np.float32
    assert answers.ended.any()
    assert not answers.ended.all()
    lengths = answers.mask.sum(1)
    for row, (length, answer) in enumerate(zip(lengths, answers, strict=True)):
        assert answers.mask[row, :length].all()
        assert (answers.log_probs[row, length:] == 0).all()
        assert (answers.tokens[row, length:] == 0).all()
        assert answer.ended == (answer.tokens[-1] == 11)
        assert (answer.tokens[:-1] != 11).all()
        assert len(answer.tokens) == (length if answer.ended else 20)
        assert answer.text == answers.texts[row] == model.decode(answer.tokens)
        assert answer.prompt == model.encode(PROMPTS[row // 3])
    assert answers[-1].text == answers[11].text


def test_the_same_seed_the_same_answers(model):
    first, again, other = (model.sample(PROMPTS, max_new_tokens=20, group=3, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.tokens, again.tokens)
    np.testing.assert_array_equal(first.log_probs, again.log_probs)
    assert (first.tokens != other.tokens).any()
    # equal prompts at different places, and the answers of one group, are drawn apart
    assert len({tuple(row) for row in first.tokens[[0, 1, 2, 9, 10, 11]]}) > 4


def test_other_prompts_larger_groups_and_longer_answers_change_nothing(model):
    """Up to rounding: other shapes are other programs."""
    all_of_them = model.sample(PROMPTS, max_new_tokens=20, group=3)
    for prompts, group, length in ((PROMPTS[:2], 3, 20), (PROMPTS, 5, 20), (PROMPTS, 3, 7)):
        fewer = model.sample(prompts, max_new_tokens=length, group=group)
        for prompt, answer in itertools.product(range(len(prompts)), range(3)):
            got, want = prompt * group + answer, prompt * 3 + answer
            np.testing.assert_array_equal(fewer.tokens[got], all_of_them.tokens[want, :length])
            np.testing.assert_allclose(fewer.log_probs[got], all_of_them.log_probs[want, :length], atol=5e-5)


def test_how_often_the_host_looks_changes_no_bit(model):
    tokens = [model.encode(prompt) for prompt in PROMPTS]
    seen = []
    for chunk in (1, 5, 16):
        *_, (answers, ended) = chunks(
            model.transformer,
            tokens,
            max_new_tokens=20,
            group=3,
            seed=3,
            sampling=Sampling(),
            end_tokens=(11,),
            chunk=chunk,
        )
        mask = np.asarray(answers.mask)[:, :20]
        seen.append([np.where(mask, np.asarray(x)[:, :20], 0) for x in (answers.tokens, answers.log_probs)])
        np.testing.assert_array_equal(ended, ~np.asarray(answers.running))
    for other in seen[1:]:
        for mine, theirs in zip(seen[0], other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_greedy_answers(model):
    answers = model.sample(PROMPTS, max_new_tokens=20, temperature=0.0, group=3)
    for answer in answers[::3]:
        tokens = list(answer.prompt)
        for token in answer.tokens:
            assert token == int(np.argmax(log_probs_after(model, tokens)[-1]))
            tokens.append(int(token))
    np.testing.assert_array_equal(answers.tokens[0], answers.tokens[1])
    assert (answers.log_probs == 0).all()
    # truncated to the most probable token, a draw is greedy too
    one = model.sample(PROMPTS, max_new_tokens=20, group=3, top_p=1e-6, min_p=0.5)
    np.testing.assert_array_equal(one.tokens, answers.tokens)


def test_truncated_distributions_are_what_is_drawn_from_and_what_is_told(model):
    answers = model.sample(PROMPTS, max_new_tokens=20, group=3, top_k=2)
    for answer in answers:
        first = len(answer.prompt) - 1
        log_probs = log_probs_after(model, [*answer.prompt, *answer.tokens])[first:-1]
        best = np.sort(log_probs, axis=1)[:, -2:]
        chosen = log_probs[np.arange(len(answer.tokens)), answer.tokens]
        assert (chosen >= best[:, 0] - 1e-5).all()
        np.testing.assert_allclose(answer.log_probs, chosen - np.log(np.exp(best).sum(1)), atol=5e-5)


def test_answers_are_drawn_from_the_model():
    """Every answer of length 2 over 3 tokens, against its probability: χ² with 8 degrees of freedom."""
    small = Architecture(3, 8, 1, 2, 1, 4, 8, 16)
    transformer = jax.tree.map(lambda x: 3 * x, Transformer.start(small, jax.random.key(5)))
    model = LanguageModel(transformer)
    count = 4000
    answers = model.sample([[0, 2]], max_new_tokens=2, group=count, seed=7).tokens
    first = np.asarray(jax.nn.softmax(model.logits([[0, 2]])))[0, -1]
    after = np.asarray(jax.nn.softmax(model.logits([[0, 2, token] for token in range(3)])))[:, -1]
    expected = count * (first[:, None] * after).reshape(-1)
    observed = np.bincount(answers[:, 0] * 3 + answers[:, 1], minlength=9)
    statistic = float(((observed - expected) ** 2 / expected).sum())
    assert statistic < 26.1  # exceeded by chance once in 1000; the seed is fixed, so it is not
    assert expected.min() > 5


def test_stop_texts_end_an_answer_where_they_are_complete(model):
    free = model.sample(PROMPTS, max_new_tokens=20, group=3)
    stopped = model.sample(PROMPTS, max_new_tokens=20, group=3, stop=["7", "33"])
    count = 0
    for before, after in zip(free, stopped, strict=True):
        places = [before.text.find(text) + len(text) for text in ("7", "33") if text in before.text]
        assert after.text == (before.text[: min(places)] if places else before.text)
        assert after.ended == (bool(places) or before.ended)
        np.testing.assert_array_equal(after.tokens, before.tokens[: len(after.tokens)])
        np.testing.assert_array_equal(after.log_probs, before.log_probs[: len(after.tokens)])
        count += bool(places)
    assert count > 2


def test_other_end_tokens(model):
    answers = model.sample(PROMPTS, max_new_tokens=20, group=3, end_tokens=(1,))
    for answer in answers:
        assert answer.ended == (answer.tokens[-1] == 1)
        assert 1 not in answer.tokens[:-1]


def test_a_stream_shows_what_a_sample_says(model):
    pieces = list(model.stream(PROMPTS[0], max_new_tokens=20, seed=4))
    assert len(pieces) > 3
    assert "".join(pieces) == model.sample(PROMPTS[0], max_new_tokens=20, group=1, seed=4).texts[0]


def test_no_prompts_no_answers(model):
    assert len(model.sample([], max_new_tokens=4)) == 0


def test_the_tokens_of_a_prompt_are_a_prompt(model):
    texts = model.sample(PROMPTS, max_new_tokens=20, group=3)
    tokens = model.sample([np.array(model.encode(prompt)) for prompt in PROMPTS], max_new_tokens=20, group=3)
    np.testing.assert_array_equal(texts.tokens, tokens.tokens)


def test_bfloat16_models_are_sampled_too(model):
    half = model.with_transformer(jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.transformer))
    answers = half.sample(PROMPTS[:2], max_new_tokens=8, group=2)
    for answer in answers:
        # bfloat16 rounds the sums of the cached and of the whole pass differently
        np.testing.assert_allclose(answer.log_probs, recomputed(half, answer, 1.0), atol=0.3)
