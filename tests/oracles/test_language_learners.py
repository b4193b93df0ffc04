"""The learners' own losses, on a tiny transformer, against gradients summed over all 31 texts of a language."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.algorithms.language.dpo import DPO
from bellmark.algorithms.language.grpo import GRPO, PRESETS, Rows, grpo_preset
from bellmark.algorithms.language.ppo import (
    Critic,
    Data,
    LanguagePPO,
    answer_advantages,
    judged,
)
from bellmark.algorithms.language.weights import gradient_of
from bellmark.experience.texts import answer_log_probs
from bellmark.maths import losses, means
from bellmark.maths.token_losses import token_weights
from language_worlds import ROWS, SCORE, TEXTS, World, all_close, text_log_probs, transformer

POLICY, OTHER, REFERENCE = transformer(0), transformer(1), transformer(2)
SCORES = jnp.asarray(SCORE)


@jax.jit
def log_probs(model):
    return answer_log_probs(model, ROWS)[0]


def expected_score(model):
    return jnp.sum(jnp.exp(text_log_probs(model)) * SCORES)


def divergence(model):
    log_prob = text_log_probs(model)
    return jnp.sum(jnp.exp(log_prob) * (log_prob - text_log_probs(REFERENCE)))


_gradient = eqx.filter_jit(lambda learner, rows: jax.grad(lambda m: learner.loss(m, rows)[0])(POLICY))
gradient = jax.jit(jax.grad(lambda f, model: f(model), argnums=1), static_argnums=0)


def expected_gradient(learner, advantage, old=None, reference=None):
    """E over the texts of π_old of the gradient of the learner's own loss, each text with its probability as weight.

    The batch's weights are replaced: a batch of all texts, each as often as it is drawn.
    """
    drew = POLICY if old is None else old
    chance = jnp.exp(text_log_probs(drew))
    length = learner.constant_length or learner.max_new_tokens
    one = jax.vmap(lambda mask: token_weights(mask[None], learner.averaging, length)[0])(ROWS.mask)
    rows = Rows(
        ROWS,
        None if old is None else log_probs(old),
        None if reference is None else log_probs(reference),
        advantage,
        chance[:, None] * one,
        chance[:, None] * ROWS.mask,
    )
    return jax.tree.map(jnp.negative, _gradient(learner, rows))


def test_one_text_of_the_language_is_certain():
    np.testing.assert_allclose(jnp.exp(text_log_probs(POLICY)).sum(), 1, rtol=1e-5)
    assert len(TEXTS) == 31


@pytest.mark.parametrize("name", ["rloo", "reinforce"])
def test_relatives_of_reinforce_follow_the_policy_gradient(name):
    learner = grpo_preset(name, kl_weight=0.0, max_new_tokens=4)
    all_close(expected_gradient(learner, SCORES), gradient(expected_score, POLICY))


def test_dr_grpo_follows_the_policy_gradient_and_grpo_2024_does_not():
    four = lambda tree: jax.tree.map(lambda x: 4 * x, tree)  # noqa: E731
    constant = grpo_preset("dr_grpo", max_new_tokens=4)
    want = gradient(expected_score, POLICY)
    all_close(four(expected_gradient(constant, SCORES)), want)
    by_length = four(expected_gradient(grpo_preset("grpo_2024", kl_weight=0.0, max_new_tokens=4), SCORES))
    far = max(
        float(jnp.abs(g - w).max())
        for g, w in zip(jax.tree.leaves(by_length), jax.tree.leaves(want), strict=True)
    )
    assert far > 1e-2


def test_clipping_stops_what_is_already_far():
    """Off-policy, against the surrogate written out by hand."""
    learner = GRPO(averaging="constant", constant_length=1, kl_weight=0.0, clip=0.2, clip_high=0.3)
    chance = jnp.exp(text_log_probs(OTHER))

    def by_hand(model):
        ratio = jnp.exp(log_probs(model) - log_probs(OTHER))
        held = jnp.clip(ratio, 0.8, 1.3)
        gain = jnp.minimum(ratio * SCORES[:, None], held * SCORES[:, None])
        return jnp.sum(chance[:, None] * jnp.where(ROWS.mask, gain, 0.0))

    all_close(expected_gradient(learner, SCORES, old=OTHER), jax.jit(jax.grad(by_hand))(POLICY))


def test_a_penalty_in_the_loss_pulls_towards_the_reference_at_the_states_visited():
    learner = GRPO(averaging="constant", constant_length=1, kl_weight=0.3, clip=None)
    chance = jnp.exp(text_log_probs(POLICY))

    def per_state(model):
        """Σ_t KL(π(·|s_t) ‖ π_ref(·|s_t)) at the states that π visits, exactly."""

        def distributions(which):
            hidden = which.hidden(ROWS.tokens)
            places = ROWS.start[:, None] - 1 + jnp.arange(ROWS.answer.shape[1])
            states = jnp.take_along_axis(hidden, places[..., None] % hidden.shape[1], axis=1)
            return jax.nn.log_softmax(which.unembed(states))

        ours, theirs = distributions(model), distributions(REFERENCE)
        each = jnp.sum(jnp.exp(ours) * (ours - theirs), axis=-1)
        return jnp.sum(chance[:, None] * jnp.where(ROWS.mask, each, 0.0))

    want = jax.tree.map(lambda x: -0.3 * x, jax.jit(jax.grad(per_state))(POLICY))
    for estimator in ("k2", "k3"):
        learner = dataclasses.replace(learner, kl_estimator=estimator)
        all_close(expected_gradient(learner, jnp.zeros(31), reference=REFERENCE), want)


def test_a_penalty_in_the_reward_is_the_divergence_of_whole_answers():
    """What `collect` does with scores, by hand here; the learner's loss gives the gradient."""
    learner = grpo_preset("rloo", max_new_tokens=4, kl_weight=0.3)
    assert learner.penalised
    score = SCORES - 0.3 * (text_log_probs(POLICY) - text_log_probs(REFERENCE))
    want = jax.jit(jax.grad(lambda model: expected_score(model) - 0.3 * divergence(model)))(POLICY)
    all_close(expected_gradient(learner, score), want)


def ppo_data(learner, score=SCORES):
    old = judged(POLICY, Critic(None, jnp.zeros(8), jnp.zeros(())), ROWS, 1.0, 64)
    return Data(ROWS, score, jnp.zeros(31, bool), old, log_probs(REFERENCE), {})


class State(eqx.Module):
    kl_weight: jax.Array


def test_ppo_without_a_critic_follows_the_gradient_of_score_and_divergence():
    """λ = 1, V = 0: advantages are the rewards to go, β KL of whole answers included, once."""
    learner = LanguagePPO(trace_decay=1.0, whiten=False, value_weight=0.0, clip=1e6)
    rows = learner.rows(State(jnp.float32(0.3)), ppo_data(learner))
    chance = jnp.exp(text_log_probs(POLICY))
    rows = eqx.tree_at(lambda r: r.weight, rows, chance[:, None] * ROWS.mask)
    critic = Critic(None, jnp.zeros(8), jnp.zeros(()))
    got = jax.jit(jax.grad(lambda model: learner.loss(model, critic, rows)[0]))(POLICY)
    want = jax.jit(jax.grad(lambda model: expected_score(model) - 0.3 * divergence(model)))(POLICY)
    all_close(jax.tree.map(jnp.negative, got), want)


def test_ppo_rewards_returns_and_whitening():
    learner = LanguagePPO(trace_decay=1.0)
    rows = learner.rows(State(jnp.float32(0.3)), ppo_data(learner))
    whole = SCORES - 0.3 * (text_log_probs(POLICY) - text_log_probs(REFERENCE))
    # the first token's return is the whole answer's reward: the score came once, the penalty once per token
    np.testing.assert_allclose(rows.value_target[:, 0], whole, atol=1e-4)
    # returns are not whitened, advantages are, over real tokens only
    inside = np.asarray(rows.advantage)[np.asarray(ROWS.mask)]
    np.testing.assert_allclose([inside.mean(), inside.std()], [0, 1], atol=1e-4)
    assert (np.asarray(rows.advantage)[~np.asarray(ROWS.mask)] == 0).all()


def test_advantages_of_answers_by_hand():
    """λ = 0.5, γ = 1; the last real token ends the episode, or bootstraps where the answer was cut off."""
    reward = jnp.array([[0.25, 0.5, 9.0], [0.0, 0.0, 1.5]])
    value = jnp.array([[1.0, 2.0, 9.0], [0.5, 0.5, 0.5]])
    mask = jnp.array([[True, True, False], [True, True, True]])
    last = 0.5 - 2.0
    first = 0.25 + 2.0 - 1.0 + 0.5 * last
    got = answer_advantages(reward, value, mask, 0.5)
    np.testing.assert_allclose(got[0], [first, last, 0.0], rtol=1e-6)
    np.testing.assert_allclose(got[1], [0.25, 0.5, 1.0], rtol=1e-6)
    cut = answer_advantages(reward, value, mask, 0.5, jnp.array([4.0, 0.0]))
    np.testing.assert_allclose(cut[0, 1], last + 4.0, rtol=1e-6)


def test_a_gridworld_s_policy_and_a_language_model_have_the_same_losses():
    """The surrogate knows nothing of texts: steps of an environment with the same numbers lose the same."""
    old, now = log_probs(OTHER), log_probs(POLICY)
    advantage = jnp.broadcast_to(SCORES[:, None], now.shape)
    mask = np.asarray(ROWS.mask)
    steps = [jnp.asarray(np.asarray(x)[mask]) for x in (now, old, advantage)]
    as_steps = means.mean(losses.clipped_surrogate(*steps, 0.2))
    rows = Rows(ROWS, old, None, SCORES, token_weights(ROWS.mask, "token"), token_weights(ROWS.mask, "token"))
    as_tokens, metrics = GRPO(kl_weight=0.0).loss(POLICY, rows)
    np.testing.assert_allclose(as_tokens, as_steps, rtol=1e-5)
    outside = np.mean((np.exp(steps[0] - steps[1]) < 0.8) | (np.exp(steps[0] - steps[1]) > 1.2))
    np.testing.assert_allclose(metrics["policy/clipped"], outside, atol=1e-5)


@pytest.mark.parametrize("name", ["grpo", "gspo", "rloo"])
def test_micro_batches_change_nothing(name):
    assert name in PRESETS
    learner = grpo_preset(name)
    weight = token_weights(ROWS.mask, learner.averaging, learner.constant_length or 4)
    rows = Rows(
        ROWS, log_probs(OTHER), log_probs(REFERENCE), SCORES, weight, token_weights(ROWS.mask, "token")
    )
    compiled = jax.jit(lambda size: gradient_of(learner.loss, POLICY, rows, size), static_argnums=0)
    whole, metrics = compiled(64)
    parts, others = compiled(5)
    all_close(parts, whole)
    for key, value in metrics.items():
        np.testing.assert_allclose(others[key], value, rtol=1e-4, atol=1e-5)


def test_dpo_at_the_reference_and_where_it_ends():
    """At the reference every implied reward is 0 and half of the preferences are undecided: the loss is log 2."""
    learner = DPO(kl_weight=0.5, batch_size=31, learning_rate=1e-2, anneal=False, warm_up=0)
    world = World(REFERENCE)
    state = learner.init(world, jax.random.key(0))
    state, data = learner.collect(world, state)
    update = eqx.filter_jit(learner.update)
    np.testing.assert_allclose(update(state, data)[1]["loss/preference"], np.log(2), rtol=1e-5)

    @jax.jit
    def by_hand(model):
        chosen, rejected = (jnp.sum(answer_log_probs(model, t)[0], 1) for t in (data.chosen, data.rejected))
        reference = [jnp.sum(answer_log_probs(REFERENCE, t)[0], 1) for t in (data.chosen, data.rejected)]
        margin = 0.5 * ((chosen - reference[0]) - (rejected - reference[1]))
        return -jnp.mean(jax.nn.log_sigmoid(margin))

    state = eqx.tree_at(lambda s: s.weights.learned, state, POLICY)
    np.testing.assert_allclose(update(state, data)[1]["loss/preference"], by_hand(POLICY), rtol=1e-5)
