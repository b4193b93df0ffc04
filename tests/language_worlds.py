"""A language of three tokens, the last of which ends a text, and texts of at most four: all 31 are enumerated."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from bellmark.algorithms.language.problem import Example, Pair, Question, Scores
from bellmark.experience.packing import rows_of
from bellmark.experience.texts import answer_log_probs
from bellmark.language.model import LanguageModel
from bellmark.language.scratch import from_scratch
from bellmark.networks.transformer import Architecture, Transformer

VOCABULARY, END, LENGTH = 3, 2, 4
PROMPT = (0, 1)
ARCHITECTURE = Architecture(
    vocabulary=VOCABULARY,
    width=8,
    layers=2,
    heads=2,
    key_value_heads=1,
    head_size=4,
    feed_forward=8,
    context=32,
    tied=False,
)


def enumerate_texts():
    texts = []
    for length in range(1, LENGTH + 1):
        texts += [(*body, END) for body in itertools.product(range(END), repeat=length - 1)]
    return texts + list(itertools.product(range(END), repeat=LENGTH))


TEXTS = enumerate_texts()
ROWS = rows_of([(PROMPT, text) for text in TEXTS], 32)
SCORE = np.random.default_rng(0).normal(0.3, 1, len(TEXTS)).astype(np.float32)
NUMBER = {text: i for i, text in enumerate(TEXTS)}


def transformer(seed):
    """Random weights: every text has a probability worth mentioning."""
    return Transformer.start(ARCHITECTURE, jax.random.key(seed))


@jax.jit
def text_log_probs(model):
    """log π of all 31 texts, after the prompt."""
    return jnp.sum(answer_log_probs(model, ROWS)[0], axis=1)


def tiny_model():
    """Next to nothing, with the tokenizer of the named small models: for runs, not for what they come to."""
    tokenizer = from_scratch("tiny-characters").tokenizer
    return LanguageModel.start(Architecture(tokenizer.size, 16, 1, 2, 2, 8, 16, 64), tokenizer)


class World:
    """The problem whose reward is a table by text; a third argument makes rewards fail."""

    budget, end_tokens, stop, turns = 10, (END,), (), 1

    def __init__(self, model, score=SCORE, fail=()):
        self.transformer, self.table, self.fail = model, score, set(fail)

    def questions(self, iteration, count, attempt=0):
        return [Question(i, PROMPT) for i in range(count)]

    def draw_seed(self, iteration, attempt=0):
        return 100 * iteration + attempt

    def decode(self, tokens):
        return ""

    def examples(self, iteration, count):
        return [Example(PROMPT, TEXTS[(iteration * count + i) % len(TEXTS)]) for i in range(count)]

    def pairs(self, iteration, count):
        return [Pair(PROMPT, TEXTS[i % 31], TEXTS[(3 * i + 5) % 31]) for i in range(count)]

    def score(self, questions, answers, iteration):
        numbers = [NUMBER[tuple(a.tokens.tolist())] for a in answers]
        failed = np.array([n in self.fail for n in numbers])
        score = np.where(failed, np.nan, self.table[numbers])
        return Scores(score, failed, {"table": score})


def all_close(got, want, atol=2e-5):
    """Two trees of arrays, leaf by leaf; at least one leaf is not about zero."""
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True))
    assert max(float(jnp.abs(w).max()) for _, w in pairs) > 1e-3
    for g, w in pairs:
        np.testing.assert_allclose(g, w, atol=atol)
