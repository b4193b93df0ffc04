"""From drawn answers to what an update sees: groups, failures, truncation, penalties, and one step of each learner."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.algorithms.language.drawing import computed_anew, draw, mismatch
from bellmark.algorithms.language.grpo import GRPO, grpo_preset
from bellmark.algorithms.language.ppo import LanguagePPO
from bellmark.algorithms.language.sft import SFT
from bellmark.algorithms.language.weights import learning_rate_at, start_weights
from bellmark.errors import BadInput, BellmarkError
from bellmark.experience.packing import next_log_probs, pack, padded_to, rows_of
from bellmark.experience.texts import answer_log_probs
from bellmark.networks.low_rank import learned_and_resting, merged, with_adapters
from language_worlds import SCORE, TEXTS, World, text_log_probs, transformer

POLICY = transformer(0)
SIZES = {"prompts": 3, "group": 4, "max_new_tokens": 4, "temperature": 1.0}
LEARNER = GRPO(prompts=3, group=4, max_new_tokens=4, kl_weight=0.1)


@pytest.fixture(scope="module")
def drawn():
    return draw(World(POLICY), POLICY, 0, **SIZES)


def numbers_of(drawn):
    return np.array([TEXTS.index(tuple(answer.tokens.tolist())) for answer in drawn.answers])


def test_answers_keep_their_own_scores(drawn):
    np.testing.assert_allclose(drawn.score.reshape(-1), SCORE[numbers_of(drawn)], rtol=1e-6)
    assert drawn.score.dtype == np.float32
    np.testing.assert_allclose(drawn.metrics["episode/return"], drawn.score.mean(), rtol=1e-6)
    np.testing.assert_allclose(drawn.metrics["answers/truncated"], 1 - drawn.answers.ended.mean())
    assert drawn.metrics["groups/without_signal"] == 0


def test_a_failed_reward_teaches_nothing_and_leaves_the_group_as_it_is(drawn):
    fails = set(numbers_of(drawn)[:2].tolist())
    again = draw(World(POLICY, fail=fails), POLICY, 0, **SIZES)
    lost = np.isin(numbers_of(drawn), list(fails))
    assert (~np.asarray(again.texts.mask)[lost]).all()
    np.testing.assert_array_equal(again.texts.mask[~lost], drawn.texts.mask[~lost])
    for group in range(3):
        gone = lost.reshape(3, 4)[group]
        others = drawn.score[group][~gone]
        mean = others.mean() if len(others) else 0.0
        np.testing.assert_allclose(again.score[group], np.where(gone, mean, drawn.score[group]), rtol=1e-5)
    assert again.metrics["answers/failed_rewards"] == lost.sum()


def test_truncated_answers_are_masked_by_choice(drawn):
    assert 0 < drawn.answers.ended.sum() < 12
    masked = draw(World(POLICY), POLICY, 0, **SIZES, mask_truncated=True)
    np.testing.assert_array_equal(np.asarray(masked.texts.mask).any(1), drawn.answers.ended)
    np.testing.assert_array_equal(masked.score, drawn.score)


def test_long_answers_lose_up_to_one(drawn):
    softer = draw(World(POLICY), POLICY, 0, **SIZES, overlong=2)
    length = drawn.answers.mask.sum(1).reshape(3, 4)
    want = drawn.score - np.array([0, 0, 0, 0.5, 1.0])[length]
    np.testing.assert_allclose(softer.score, want, rtol=1e-5)


def test_groups_without_signal_are_replaced_or_counted(drawn):
    level = World(POLICY, score=np.full(31, 0.7, np.float32))
    silent = draw(level, POLICY, 0, **SIZES, resample=2)
    assert silent.metrics["groups/without_signal"] == 1
    assert silent.metrics["groups/replaced"] == 6
    assert silent.score.shape == (3, 4)
    # where few texts score, more rounds find groups in which answers differ
    rare = World(POLICY, score=np.where(SCORE > 1.2, 1.0, 0.0).astype(np.float32))
    once, often = (draw(rare, POLICY, 0, **SIZES, resample=n) for n in (0, 3))
    assert often.metrics["groups/without_signal"] <= once.metrics["groups/without_signal"]


def test_the_sampler_and_the_trainer_agree_or_the_run_stops(drawn):
    anew = computed_anew(POLICY, drawn.texts, 1.0, 5, 7)
    metrics = mismatch(drawn.texts, anew, "float32", 0)
    assert float(metrics["sampler/mismatch_largest"]) < 1e-4
    # another temperature is another distribution
    cooler = computed_anew(POLICY, drawn.texts, 0.7, 5, 7)
    with pytest.raises(
        BellmarkError, match=r"sampler and trainer disagree by .* of answer \d+ before the first"
    ):
        mismatch(drawn.texts, cooler, "float32", 0)
    assert float(mismatch(drawn.texts, cooler, "float32", 1)["sampler/mismatch"]) > 0.01


def test_the_penalty_is_paid_once():
    """In the reward or in the loss: never a reference in both."""
    world = World(POLICY)
    for kl_in, in_loss in (("loss", True), ("reward", False)):
        learner = dataclasses.replace(LEARNER, kl_in=kl_in, advantage="leave_one_out")
        state = learner.init(world, jax.random.key(0))
        other = eqx.tree_at(lambda s: s.weights.resting, state, transformer(1))
        _, data = learner.collect(world, other)
        assert (data.rows.reference is not None) == in_loss
        if not in_loss:
            texts = data.rows.texts
            ours, theirs = (answer_log_probs(t, texts)[0] for t in (POLICY, transformer(1)))
            numbers = [
                TEXTS.index(tuple(np.asarray(a)[np.asarray(m)].tolist()))
                for a, m in zip(texts.answer, texts.mask, strict=True)
            ]
            score = (SCORE[numbers] - 0.1 * np.asarray((ours - theirs).sum(1))).reshape(3, 4)
            want = (score - score.mean(1, keepdims=True)) * 4 / 3
            np.testing.assert_allclose(data.rows.advantage.reshape(3, 4), want, atol=1e-4)


def test_the_default_average_is_over_all_tokens_of_the_batch():
    assert GRPO().averaging == "token"
    assert grpo_preset("grpo_2024").averaging == "sequence"
    with pytest.raises(BadInput, match="unknown preset of grpo 'drgrpo'"):
        grpo_preset("drgrpo")


def test_improvement_in_a_few_steps():
    """The expected score, summed over all texts, grows: adapters, minibatches, epochs and micro-batches at once."""
    world = World(POLICY)
    several = {"epochs": 2, "minibatches": 2, "rank": 2}
    learner = dataclasses.replace(
        LEARNER, group=16, kl_weight=0.0, learning_rate=2e-2, micro_batch=20, **several
    )
    state = learner.init(world, jax.random.key(0))
    update = eqx.filter_jit(learner.update)
    expected = lambda model: float(jnp.sum(jnp.exp(text_log_probs(model)) * SCORE))  # noqa: E731
    before = expected(POLICY)
    for _ in range(6):
        state, data = learner.collect(world, state)
        # what was measured while collecting has other names before the first update: one program serves all
        state, _ = update(state, dataclasses.replace(data, metrics={}))
    assert expected(state.weights.policy) > before + 0.1
    assert int(state.iteration) == 6
    np.testing.assert_array_equal(state.weights.policy.embedding, POLICY.embedding)


@pytest.mark.parametrize("rank", [0, 2])
def test_small_steps_are_not_lost_in_bfloat16(rank):
    """Drawn and differentiated in bfloat16, learned in float32: three steps of 1e-5 on a norm's weight of 1."""
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), POLICY)
    world = World(half)
    learner = SFT(batch_size=8, learning_rate=1e-5, warm_up=0, anneal=False, rank=rank)
    start = state = learner.init(world, jax.random.key(0))
    update = eqx.filter_jit(learner.update)
    for _ in range(3):
        state, data = learner.collect(world, state)
        state, _ = update(state, data)
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)), state.weights.learned, start.weights.learned)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(moved))
    one = moved.layers.query.adapter.up if rank else moved.norm.weight
    # Adam's steps are of the rate's size and may go back and forth; in bfloat16 they would be 0 or 0.004
    assert (one > 0).mean() > 0.9
    assert 1e-5 < one.max() < 4e-5
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(state.weights.policy))


def test_the_penalty_adapts_to_its_target_slowly():
    learner = LanguagePPO(kl_target=0.1, kl_gain=0.1)
    weight = jnp.float32(0.5)
    for kl, factor in ((0.5, 1.02), (0.105, 1.005), (0.1, 1.0), (0.0, 0.98)):
        np.testing.assert_allclose(learner.adapted(weight, jnp.float32(kl)), 0.5 * factor, rtol=1e-5)
    assert LanguagePPO().adapted(weight, jnp.float32(9.0)) == weight


GIVEN = [((0, 1), TEXTS[i]) for i in (0, 3, 12, 25)] + [((1,), (0, 2)), ((0, 0, 1, 1), (2,))]


def test_packed_texts_do_not_see_each_other():
    packed = padded_to(pack(GIVEN, 16), 5)
    rows = rows_of(GIVEN, 32)
    assert len(pack(GIVEN, 16).tokens) == 2
    alone = np.asarray(answer_log_probs(POLICY, rows)[0])
    together = np.asarray(next_log_probs(POLICY, packed))
    np.testing.assert_allclose(
        np.sort(together[np.asarray(packed.follows)]), np.sort(alone[np.asarray(rows.mask)]), atol=2e-5
    )
    # checkpointing and chunks change nothing
    again = next_log_probs(POLICY, packed, chunk=3, checkpoint=True)
    np.testing.assert_allclose(again, together, atol=2e-5)
    with pytest.raises(BadInput, match=r"text 2 has 2 \+ 4 tokens; at most 5 fit"):
        pack(GIVEN, 5)


def test_sft_counts_answers_not_prompts():
    """Gradient of −Σ log π(answer)/tokens, by hand; prompts have none of it."""
    world = World(POLICY)
    learner = SFT(batch_size=8, width=32, micro_batch=1, learning_rate=1.0, max_gradient_norm=1e9)
    state = learner.init(world, jax.random.key(0))
    state, packed = learner.collect(world, state)
    _, metrics = eqx.filter_jit(learner.update)(state, packed)
    rows = rows_of([(e.prompt, e.answer) for e in world.examples(0, 8)], 32)

    def by_hand(model):
        return -jnp.sum(answer_log_probs(model, rows)[0]) / jnp.sum(rows.mask)

    value, gradient = jax.jit(jax.value_and_grad(by_hand))(POLICY)
    np.testing.assert_allclose(metrics["loss/negative_log_likelihood"], value, rtol=1e-5)
    norm = np.sqrt(sum(float(jnp.sum(jnp.square(g))) for g in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(metrics["optimiser/gradient_norm"], norm, rtol=1e-4)


def test_adapters_are_off_in_the_reference_and_merged_in_what_is_saved():
    adapted = with_adapters(POLICY, 2, 4.0, jax.random.key(3))
    tokens = jnp.array([[0, 1, 2, 1]])
    np.testing.assert_array_equal(adapted.logits(tokens), POLICY.logits(tokens))
    learned, resting = learned_and_resting(adapted)
    assert len(jax.tree.leaves(learned)) == 14
    moved = eqx.combine(jax.tree.map(lambda x: x + 0.3, learned), resting)
    assert float(jnp.abs(moved.logits(tokens) - POLICY.logits(tokens)).max()) > 0.1
    np.testing.assert_allclose(merged(moved).logits(tokens), moved.logits(tokens), atol=1e-5)
    np.testing.assert_array_equal(resting.logits(tokens), POLICY.logits(tokens))
    assert jax.tree.structure(merged(resting)) == jax.tree.structure(POLICY)
    weights = start_weights(POLICY, 2, 4.0, jax.random.key(3), compared=False)
    np.testing.assert_array_equal(weights.reference.logits(tokens), POLICY.logits(tokens))


def test_learning_rates_warm_up_and_anneal():
    learner = SFT(learning_rate=1.0, warm_up=4)
    rates = [float(learning_rate_at(learner, jnp.int32(i), jnp.int32(10))) for i in range(11)]
    np.testing.assert_allclose(rates[:4], [0.25, 0.5 * 0.9, 0.75 * 0.8, 0.7], rtol=1e-6)
    np.testing.assert_allclose(rates[9:], [0.1, 0.0], atol=1e-6)
