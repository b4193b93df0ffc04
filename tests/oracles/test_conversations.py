"""Episodes of two answers with an environment's words between them, all 43 enumerated: what is drawn and learned.

An answer has at most two tokens, of three; the environment says (1,) to one that begins with 0, (0, 1) to one that
begins with 1, and nothing to one that is empty, which ends the episode.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.algorithms.language.drawing import computed_anew, draw
from bellmark.algorithms.language.grpo import Rows, grpo_preset
from bellmark.algorithms.language.ppo import Critic, Data, LanguagePPO, answer_advantages, judged
from bellmark.algorithms.language.problem import Scores
from bellmark.algorithms.language.reward_model import text_scores
from bellmark.experience.conversation import converse
from bellmark.experience.generation import Sampling, generate
from bellmark.experience.packing import rows_of
from bellmark.maths.token_losses import token_rewards
from language_worlds import END, PROMPT, World, all_close, transformer

POLICY, REFERENCE = transformer(0), transformer(2)
ANSWERS = [(END,), *itertools.product(range(END), range(3))]


def said_to(answer):
    return {0: (1,), 1: (0, 1)}.get(answer[0])


def enumerate_episodes():
    """(tokens, which of them are the model's, whether the environment ended it)."""
    episodes = [((END,), (True,), True)]
    for first in ANSWERS[1:]:
        words = said_to(first)
        for second in ANSWERS:
            own = (True,) * len(first) + (False,) * len(words) + (True,) * len(second)
            episodes.append((first + words + second, own, said_to(second) is None))
    return episodes


EPISODES = enumerate_episodes()
NUMBER = {episode[0]: i for i, episode in enumerate(EPISODES)}
ROWS = rows_of([(PROMPT, episode[0]) for episode in EPISODES], 32)
MASK = np.zeros(ROWS.mask.shape, bool)
for place, (_, own, _) in enumerate(EPISODES):
    MASK[place, : len(own)] = own
TEXTS = eqx.tree_at(lambda t: t.mask, ROWS, jnp.asarray(MASK))
SCORES = jnp.asarray(np.random.default_rng(1).normal(0.3, 1, len(EPISODES)), jnp.float32)


class Conversations(World):
    turns = 2

    def __init__(self, model):
        super().__init__(model, np.asarray(SCORES))

    def reply(self, question, turns):
        return said_to(turns[-1])

    def score(self, questions, answers, iteration):
        numbers = [NUMBER[tuple(answer.tokens.tolist())] for answer in answers]
        return Scores(self.table[numbers], np.zeros(len(numbers), bool), {"table": self.table[numbers]})


def token_log_probs(model):
    """log π of every token that follows the prompt, by the model's logits alone, 0 where others speak."""
    logits = jax.nn.log_softmax(model.logits(ROWS.tokens))
    places = len(PROMPT) - 1 + jnp.arange(MASK.shape[1])
    places = jnp.minimum(places, ROWS.tokens.shape[1] - 1)
    chosen = jnp.take_along_axis(logits[:, places], ROWS.answer[..., None], axis=-1)[..., 0]
    return jnp.where(MASK, chosen, 0.0)


@jax.jit
def chances(model):
    return jnp.exp(jnp.sum(token_log_probs(model), axis=1))


@jax.jit
@jax.grad
def exact(model, kl_weight):
    whole = jnp.sum(token_log_probs(model), axis=1)
    against = jnp.sum(token_log_probs(REFERENCE), axis=1)
    return jnp.sum(jnp.exp(whole) * (SCORES - kl_weight * (whole - against)))


@pytest.fixture(scope="module")
def drawn():
    world = Conversations(POLICY)
    return draw(world, POLICY, 0, prompts=2, group=300, max_new_tokens=2, temperature=1.0)


def test_the_environments_words_have_no_probability():
    assert len(EPISODES) == 43
    np.testing.assert_allclose(chances(POLICY).sum(), 1, rtol=1e-5)


def test_what_is_drawn(drawn):
    """Every row is an episode, with its mask, drawn as often as it is probable."""
    numbers = np.array([NUMBER[tuple(answer.tokens.tolist())] for answer in drawn.answers])
    width = drawn.answers.mask.shape[1]
    np.testing.assert_array_equal(drawn.answers.mask, MASK[numbers, :width])
    told = np.asarray(drawn.texts.tokens)
    np.testing.assert_array_equal(told, ROWS.tokens[numbers, : told.shape[1]])
    np.testing.assert_array_equal(drawn.answers.ended, [EPISODES[number][2] for number in numbers])
    found = np.bincount(numbers, minlength=43) / len(numbers)
    chance = np.asarray(chances(POLICY))
    assert (np.abs(found - chance) < 4.5 * np.sqrt(chance * (1 - chance) / len(numbers)) + 1e-9).all()


def test_the_sampler_and_the_trainer_agree(drawn):
    anew = computed_anew(POLICY, drawn.texts, 1.0, 600, 1024)
    np.testing.assert_allclose(drawn.texts.log_prob, anew, atol=1e-5)


def test_one_turn_is_a_plain_answer(drawn):
    settings = {"max_new_tokens": 2, "group": 3, "seed": 0, "sampling": Sampling(), "end_tokens": (END,)}
    plain = generate(POLICY, [PROMPT], **settings)
    once = converse(POLICY, [PROMPT], turns=1, reply=lambda row, turns: (0,), **settings)
    np.testing.assert_array_equal(once.tokens[:, :2], plain.tokens)
    np.testing.assert_array_equal(once.log_probs[:, :2], plain.log_probs)
    assert not once.tokens[:, 2:].any()
    assert not once.ended.any()


def gradient_of(learner, texts):
    chance = chances(POLICY)
    weight = chance[:, None] * texts.mask
    rows = Rows(texts, None, None, SCORES, weight, weight)
    return jax.jit(jax.grad(lambda model: -learner.loss(model, rows)[0]))(POLICY)


def test_the_policy_gradient_of_conversations_leaves_the_environments_words_out():
    learner = grpo_preset("rloo", kl_weight=0.0, max_new_tokens=2)
    want = exact(POLICY, 0.0)
    all_close(gradient_of(learner, TEXTS), want)
    # learning the environment's words too is another gradient
    with pytest.raises(AssertionError):
        all_close(gradient_of(learner, ROWS), want)


def test_ppo_pays_the_score_once_and_steps_over_the_environments_words():
    learner = LanguagePPO(trace_decay=1.0, whiten=False, value_weight=0.0, clip=1e6)
    critic = Critic(None, jnp.zeros(8), jnp.zeros(()))
    old = judged(POLICY, critic, TEXTS, 1.0, 64)
    data = Data(TEXTS, SCORES, jnp.zeros(43, bool), old, token_log_probs(REFERENCE), {})

    class State(eqx.Module):
        kl_weight: jax.Array

    rows = learner.rows(State(jnp.float32(0.3)), data)
    weighted = eqx.tree_at(lambda r: r.weight, rows, chances(POLICY)[:, None] * TEXTS.mask)
    found = jax.jit(jax.grad(lambda model: -learner.loss(model, critic, weighted)[0]))(POLICY)
    all_close(found, exact(POLICY, 0.3))


def test_advantages_by_hand():
    """δ and λ over the model's own tokens, as if nothing stood between them; 0 elsewhere."""
    rng = np.random.default_rng(3)
    value = rng.normal(size=MASK.shape).astype(np.float32)
    bootstrap = rng.normal(size=43).astype(np.float32)
    reward = np.asarray(
        token_rewards(SCORES, jnp.zeros(MASK.shape), jnp.zeros(MASK.shape), jnp.asarray(MASK), 0.5)
    )
    np.testing.assert_allclose(reward.sum(1), SCORES, rtol=1e-6)
    want = np.zeros(MASK.shape)
    for row in range(43):
        ahead, carried = bootstrap[row], 0.0
        for t in reversed(np.flatnonzero(MASK[row])):
            carried = reward[row, t] + ahead - value[row, t] + 0.7 * carried
            want[row, t], ahead = carried, value[row, t]
    found = answer_advantages(*map(jnp.asarray, (reward, value, MASK)), 0.7, jnp.asarray(bootstrap))
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_values_after_an_episode_and_scores_of_it_are_read_at_its_last_token():
    head = jax.random.normal(jax.random.key(0), (8,))
    hidden = np.asarray(POLICY.hidden(ROWS.tokens))
    last = np.array([len(PROMPT) + len(tokens) - 1 for tokens, _, _ in EPISODES])
    want = hidden[np.arange(43), last] @ np.asarray(head)
    np.testing.assert_allclose(text_scores(POLICY, head, TEXTS), want, atol=1e-4)
    final = judged(POLICY, Critic(None, head, jnp.zeros(())), TEXTS, 1.0, 64).final_value
    np.testing.assert_allclose(final, want, atol=1e-4)
