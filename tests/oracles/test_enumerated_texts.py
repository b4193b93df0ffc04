"""A language of three tokens, the last of which ends a text, and texts of at most four: 31 of them, all enumerated.

The policy is a table of logits by prefix.  What learners estimate from samples is summed here over all texts with their
probabilities, and compared with the gradient of the exact objective, differentiated through that sum.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.maths import divergences, losses
from bellmark.maths.group_advantages import carries_signal, group_relative, leave_one_out
from bellmark.maths.returns import discounted_return
from bellmark.maths.token_log_probs import log_probs_and_entropies
from bellmark.maths.token_losses import (
    bradley_terry,
    direct_preference,
    log_ratio,
    reference_kl,
    token_rewards,
    token_weights,
    weighted_sum,
)

VOCABULARY, END, LENGTH = 3, 2, 4


def enumerate_texts():
    texts = []
    for length in range(1, LENGTH + 1):
        texts += [(*body, END) for body in itertools.product(range(END), repeat=length - 1)]
    texts += list(itertools.product(range(END), repeat=LENGTH))
    return texts


TEXTS = enumerate_texts()
PREFIXES = sorted({text[:t] for text in TEXTS for t in range(len(text))})
TOKENS = jnp.asarray([[*text, *[0] * (LENGTH - len(text))] for text in TEXTS])
MASK = jnp.asarray([[t < len(text) for t in range(LENGTH)] for text in TEXTS])
PREFIX = jnp.asarray(
    [[PREFIXES.index(text[:t]) if t < len(text) else 0 for t in range(LENGTH)] for text in TEXTS]
)
LENGTHS = MASK.sum(1)

RNG = np.random.default_rng(0)
THETA = jnp.asarray(RNG.normal(0, 1, (len(PREFIXES), VOCABULARY)), jnp.float32)
OLD = THETA + jnp.asarray(RNG.normal(0, 0.4, THETA.shape), jnp.float32)
REFERENCE = THETA + jnp.asarray(RNG.normal(0, 0.7, THETA.shape), jnp.float32)
SCORE = jnp.asarray(RNG.normal(0.3, 1, len(TEXTS)), jnp.float32)
KL_WEIGHT = 0.3


def token_log_probs(theta):
    """[31, 4]; what stands outside the mask is NaN, and must not matter."""
    log_probs = jax.nn.log_softmax(theta)[PREFIX, TOKENS]
    return jnp.where(MASK, log_probs, jnp.nan)


def text_log_probs(theta):
    return jnp.sum(jnp.where(MASK, jax.nn.log_softmax(theta)[PREFIX, TOKENS], 0.0), axis=1)


def expected_score(theta):
    return jnp.sum(jnp.exp(text_log_probs(theta)) * SCORE)


def divergence(theta, reference=REFERENCE):
    log_probs = text_log_probs(theta)
    return jnp.sum(jnp.exp(log_probs) * (log_probs - text_log_probs(reference)))


def same(got, want, tolerance=2e-5):
    assert np.isfinite(got).all()
    assert float(jnp.abs(want).max()) > 1e-3
    np.testing.assert_allclose(got, want, atol=tolerance)


def probability(theta):
    return jnp.exp(text_log_probs(theta))


def test_the_world_is_whole():
    assert len(TEXTS) == 31
    np.testing.assert_allclose(probability(THETA).sum(), 1, rtol=1e-5)


def surrogate_gradient(theta, old, advantage, ratio, averaging="constant", clip=1e9, clip_high=None):
    """−E over texts of π_old of the gradient of the weighted surrogate, one text per batch."""
    weight = jax.vmap(lambda mask: token_weights(mask[None], averaging, LENGTH)[0])(MASK)
    chance = probability(old)

    def objective(theta):
        log_rho = log_ratio(token_log_probs(theta), token_log_probs(old), MASK, ratio)
        wide = jnp.broadcast_to(advantage[:, None], MASK.shape)
        loss = losses.clipped_surrogate(log_rho, jnp.zeros_like(log_rho), wide, clip, clip_high)
        return -jnp.sum(chance[:, None] * weight * loss)

    return jax.grad(objective)(theta)


def test_on_policy_the_surrogate_has_the_policy_gradient():
    """With constant-length weights 1/L, times L."""
    same(LENGTH * surrogate_gradient(THETA, THETA, SCORE, "token"), jax.grad(expected_score)(THETA))
    # at π_old nothing is clipped, whatever the bounds
    clipped = surrogate_gradient(THETA, THETA, SCORE, "token", clip=0.2, clip_high=0.3)
    same(LENGTH * clipped, jax.grad(expected_score)(THETA))


def test_weights_by_length_are_another_objective():
    """The sequence mean divides every text's gradient by its length: GRPO's bias, which Dr. GRPO removes."""
    biased = jax.grad(lambda theta: jnp.sum(probability(THETA) / LENGTHS * SCORE * text_log_probs(theta)))(
        THETA
    )
    same(surrogate_gradient(THETA, THETA, SCORE, "token", "sequence"), biased)
    difference = LENGTH * surrogate_gradient(THETA, THETA, SCORE, "token") - biased
    assert float(jnp.abs(difference).max()) > 1e-2


def test_ratios_of_whole_texts_are_exact_off_policy():
    def through_texts(theta):
        # Σ over tokens of weights 1/L adds each text's ratio (its length)/L times: divide by that
        log_rho = log_ratio(token_log_probs(theta), token_log_probs(OLD), MASK, "sequence")
        return jnp.sum(probability(OLD) * jnp.exp(log_rho[:, 0]) * SCORE)

    same(jax.grad(through_texts)(THETA), jax.grad(expected_score)(THETA))
    log_rho = log_ratio(token_log_probs(THETA), token_log_probs(OLD), MASK, "sequence")
    want = text_log_probs(THETA) - text_log_probs(OLD)
    np.testing.assert_allclose(log_rho, jnp.where(MASK, want[:, None], 0), atol=1e-5)


def test_mean_ratios_are_per_text_and_per_token():
    log_rho = log_ratio(token_log_probs(THETA), token_log_probs(OLD), MASK, "sequence_mean")
    want = (text_log_probs(THETA) - text_log_probs(OLD)) / LENGTHS
    np.testing.assert_allclose(log_rho, jnp.where(MASK, want[:, None], 0), atol=1e-5)
    # GSPO: sequence means of sequence ratios; on-policy that is the gradient of Σ A log π(y)/|y|
    want = jax.grad(lambda theta: jnp.sum(probability(THETA) / LENGTHS * SCORE * text_log_probs(theta)))(
        THETA
    )
    same(surrogate_gradient(THETA, THETA, SCORE, "sequence_mean", "sequence"), want)


def group_gradient(advantages, size=2):
    """The expected on-policy gradient Σ_t ∇log π · Â / G, over all groups of two texts."""
    pairs = jnp.asarray(list(itertools.product(range(len(TEXTS)), repeat=size)))
    chance = jnp.prod(probability(THETA)[pairs], axis=1)
    advantage = advantages(SCORE[pairs])
    return jax.grad(lambda theta: jnp.sum(chance[:, None] * advantage * text_log_probs(theta)[pairs]) / size)(
        THETA
    )


def test_leave_one_out_is_unbiased():
    same(group_gradient(leave_one_out), jax.grad(expected_score)(THETA))


def test_the_group_mean_shrinks_the_gradient_and_turns_it_nowhere():
    same(2 * group_gradient(lambda r: group_relative(r, divide=False)), jax.grad(expected_score)(THETA))


def test_division_by_the_spread():
    score = jnp.array([[1.0, 0.0, 0.0, 0.5], [0.2, 0.2, 0.2, 0.2]])
    advantage = np.asarray(group_relative(score, epsilon=0.0001))
    want = (score[0] - 0.375) / (np.std(score[0]) + 0.0001)
    np.testing.assert_allclose(advantage[0], want, rtol=1e-5)
    # equal scores, fractional ones too, carry no signal and make no NaN
    np.testing.assert_allclose(advantage[1], 0, atol=1e-6)
    np.testing.assert_array_equal(carries_signal(score), [True, False])
    with pytest.raises(ValueError, match="needs at least 2"):
        leave_one_out(jnp.ones((3, 1)))


def test_asymmetric_clipping_by_hand():
    log_rho = jnp.log(jnp.array([0.5, 0.9, 1.25, 1.5]))
    for advantage, want in ((1.0, [-0.5, -0.9, -1.25, -1.3]), (-1.0, [0.8, 0.9, 1.25, 1.5])):
        got = losses.clipped_surrogate(log_rho, jnp.zeros(4), jnp.full(4, advantage), 0.2, 0.3)
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_penalties_in_the_reward_have_the_gradient_of_the_divergence_of_whole_texts():
    """r_t − β log(π/π_ref), undiscounted, through REINFORCE: exactly ∇(E[score] − β KL(π ‖ π_ref))."""
    log_prob = token_log_probs(THETA)
    reward = token_rewards(SCORE, log_prob, token_log_probs(REFERENCE), MASK, KL_WEIGHT)
    total = SCORE - KL_WEIGHT * (text_log_probs(THETA) - text_log_probs(REFERENCE))
    # the score once, on the last real token; nothing on padding
    np.testing.assert_allclose(reward.sum(1), total, atol=1e-5)
    assert (np.asarray(reward)[~np.asarray(MASK)] == 0).all()
    last = np.asarray(reward)[np.arange(31), np.asarray(LENGTHS) - 1]
    kl_there = (log_prob - token_log_probs(REFERENCE))[jnp.arange(31), LENGTHS - 1]
    np.testing.assert_allclose(last, SCORE - KL_WEIGHT * kl_there, atol=1e-5)

    to_go = discounted_return(reward.T, MASK.T.astype(jnp.float32), 1.0).T

    def objective(theta):
        score = -losses.score_function(token_log_probs(theta), jax.lax.stop_gradient(to_go))
        return jnp.sum(probability(THETA) * jnp.sum(jnp.where(MASK, score, 0.0), axis=1))

    want = jax.grad(lambda theta: expected_score(theta) - KL_WEIGHT * divergence(theta))(THETA)
    same(jax.grad(objective)(THETA), want)


def penalty_gradient(theta, old, term):
    """E over texts of π_old of the summed gradients of `term(log_prob, old, reference)`."""
    reference, before = (token_log_probs(table) for table in (REFERENCE, old))

    def objective(theta):
        weight = MASK * probability(old)[:, None]
        return weighted_sum(term(token_log_probs(theta), before, reference), weight)

    return jax.grad(objective)(theta)


def state_divergence(theta, old, reverse=False):
    """Σ over states, as often as π_old visits them, of KL(π(·|s) ‖ π_ref(·|s)), or the other way round."""
    ours, theirs = jax.nn.log_softmax(theta), jax.nn.log_softmax(REFERENCE)
    if reverse:
        ours, theirs = theirs, ours
    each = jnp.sum(jnp.exp(ours) * (ours - theirs), axis=-1)
    return jnp.sum(probability(old) * jnp.sum(jnp.where(MASK, each[PREFIX], 0.0), axis=1))


def test_penalties_in_the_loss_have_the_gradient_of_the_divergence_at_the_states_visited():
    want = jax.grad(state_divergence)(THETA, THETA)
    for estimator in ("k2", "k3"):
        same(penalty_gradient(THETA, THETA, lambda *x, e=estimator: reference_kl(*x, e)), want)
    # off-policy as well, where the ratio is not one
    want = jax.grad(state_divergence)(THETA, OLD)
    for estimator in ("k2", "k3"):
        same(penalty_gradient(THETA, OLD, lambda *x, e=estimator: reference_kl(*x, e)), want)


def test_the_value_of_the_penalty_is_the_divergence():
    term = reference_kl(*(token_log_probs(t) for t in (THETA, OLD, REFERENCE)), "k3")
    value = weighted_sum(term, MASK * probability(OLD)[:, None])
    np.testing.assert_allclose(value, state_divergence(THETA, OLD), rtol=1e-4)


def test_what_is_wrong_with_the_plain_estimators():
    """k1 in the loss pushes nowhere, k3 without the ratio towards the reverse divergence."""
    k1 = penalty_gradient(THETA, THETA, lambda new, _, ref: divergences.k1(ref, new))
    np.testing.assert_allclose(k1, 0, atol=2e-6)
    k3 = penalty_gradient(THETA, THETA, lambda new, _, ref: divergences.k3(ref, new))
    same(k3, jax.grad(lambda theta: state_divergence(theta, THETA, reverse=True))(THETA))
    right = jax.grad(state_divergence)(THETA, THETA)
    assert float(jnp.linalg.norm(k3 - right)) > 0.1 * float(jnp.linalg.norm(right))


@pytest.mark.parametrize("averaging", ["token", "sequence", "constant"])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_micro_batches_add_up_to_the_batch(averaging, parts):
    weight = token_weights(MASK, averaging, LENGTH)
    loss = jnp.where(MASK, jnp.asarray(np.random.default_rng(1).normal(size=MASK.shape)), jnp.nan)
    pieces = zip(jnp.array_split(loss, parts), jnp.array_split(weight, parts), strict=True)
    total = sum(weighted_sum(*piece) for piece in pieces)
    flat, lengths = np.where(MASK, loss, 0.0), np.asarray(LENGTHS)
    want = {
        "token": flat.sum() / lengths.sum(),
        "sequence": (flat.sum(1) / lengths).mean(),
        "constant": flat.sum() / (31 * LENGTH),
    }[averaging]
    np.testing.assert_allclose(total, want, rtol=1e-5)


def test_one_loss_for_steps_and_for_tokens():
    """A text of four tokens and four steps of an environment, the same arrays: the same losses."""
    log_prob, old, advantage = np.random.default_rng(2).normal(0, 0.3, (3, 5, 4)).astype(np.float32)
    full = jnp.ones((5, 4), bool)
    as_tokens = losses.clipped_surrogate(
        log_ratio(jnp.asarray(log_prob), jnp.asarray(old), full, "token"),
        jnp.zeros((5, 4)),
        jnp.asarray(advantage),
        0.2,
    )
    as_steps = losses.clipped_surrogate(*(jnp.asarray(x.ravel()) for x in (log_prob, old, advantage)), 0.2)
    np.testing.assert_allclose(as_tokens.ravel(), as_steps, rtol=1e-6)
    np.testing.assert_allclose(
        weighted_sum(as_tokens, token_weights(full, "token")), as_steps.mean(), rtol=1e-6
    )


def pairs_of_texts():
    pairs = jnp.asarray(list(itertools.permutations(range(len(TEXTS)), 2)))
    return pairs[:, 0], pairs[:, 1]


def test_preferences_are_fitted_where_the_rewards_are_right():
    """With preferences drawn by the Bradley–Terry model of `SCORE`, the expected gradient vanishes there only."""
    first, second = pairs_of_texts()
    prefers = jax.nn.sigmoid(SCORE[first] - SCORE[second])

    def expected(reward):
        return jnp.sum(prefers * bradley_terry(reward[first], reward[second]))

    np.testing.assert_allclose(jax.grad(expected)(SCORE), 0, atol=1e-4)
    np.testing.assert_allclose(jax.grad(expected)(SCORE + 5.0), 0, atol=1e-4)
    assert float(jnp.abs(jax.grad(expected)(2 * SCORE)).max()) > 0.1
    np.testing.assert_allclose(
        bradley_terry(jnp.array([1.0]), jnp.array([0.25]), 0.5), np.log(1 + np.exp(-0.25))
    )


def test_direct_preferences_are_fitted_by_the_optimal_policy():
    """π* ∝ π_ref exp(score/β) maximises E[score] − β KL; there DPO's expected gradient vanishes, and not at π_ref."""
    first, second = pairs_of_texts()
    prefers = jax.nn.sigmoid(SCORE[first] - SCORE[second])
    reference = text_log_probs(REFERENCE)

    def expected(policy):
        loss = direct_preference(
            policy[first], policy[second], reference[first], reference[second], KL_WEIGHT
        )
        return jnp.mean(prefers * loss)

    optimal = jax.nn.log_softmax(reference + SCORE / KL_WEIGHT)
    np.testing.assert_allclose(jax.grad(expected)(optimal), 0, atol=1e-6)
    assert float(jnp.abs(jax.grad(expected)(reference)).max()) > 1e-3
    objective = lambda log_probs: jnp.sum(jnp.exp(log_probs) * (SCORE - KL_WEIGHT * (log_probs - reference)))  # noqa: E731
    uphill = jax.grad(lambda logits: objective(jax.nn.log_softmax(logits)))(optimal)
    np.testing.assert_allclose(uphill, 0, atol=1e-5)


def test_noise_in_the_labels():
    numbers = [jnp.array([x]) for x in (-1.0, -2.0, -1.5, -1.7)]
    swapped = [numbers[i] for i in (1, 0, 3, 2)]
    got = direct_preference(*numbers, 0.5, 0.1)
    want = 0.9 * direct_preference(*numbers, 0.5) + 0.1 * direct_preference(*swapped, 0.5)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    margin = 0.5 * ((-1.0 + 1.5) - (-2.0 + 1.7))
    np.testing.assert_allclose(direct_preference(*numbers, 0.5), np.log(1 + np.exp(-margin)), rtol=1e-6)


WIDTH, WORDS, COUNT = 6, 40, 50


def long_text():
    rng = np.random.default_rng(3)
    hidden, head = rng.normal(size=(5, 10, WIDTH)), rng.normal(size=(WIDTH, WORDS))
    arrays = [jnp.asarray(x, jnp.float32) for x in (hidden, head)]
    return (*arrays, jnp.asarray(rng.integers(0, WORDS, (5, 10))))


def summed(hidden, head, tokens, chunk):
    log_prob, entropy = log_probs_and_entropies(lambda h: h @ head, hidden, tokens, 0.7, chunk)
    return jnp.sum(jnp.sin(1 + log_prob)) + jnp.sum(entropy**2)


def test_log_probabilities_in_chunks():
    hidden, head, tokens = long_text()
    log_probs = jax.nn.log_softmax(hidden @ head / 0.7)
    chosen = jnp.take_along_axis(log_probs, tokens[..., None], -1)[..., 0]
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, -1)

    def whole(hidden, head):
        log_probs = jax.nn.log_softmax(hidden @ head / 0.7)
        chosen = jnp.take_along_axis(log_probs, tokens[..., None], -1)[..., 0]
        return jnp.sum(jnp.sin(1 + chosen)) + jnp.sum(jnp.sum(jnp.exp(log_probs) * log_probs, -1) ** 2)

    want = jax.grad(whole, argnums=(0, 1))(hidden, head)
    for chunk in (7, 50, 1000):
        got = log_probs_and_entropies(lambda h: h @ head, hidden, tokens, 0.7, chunk)
        np.testing.assert_allclose(got[0], chosen, atol=1e-5)
        np.testing.assert_allclose(got[1], entropy, atol=1e-5)
        gradient = jax.grad(summed, argnums=(0, 1))(hidden, head, tokens, chunk)
        for mine, theirs in zip(gradient, want, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=2e-4)


def test_the_logits_of_all_tokens_never_exist():
    """Neither forwards nor backwards is there an array of as many numbers as tokens × vocabulary."""

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (
                int(np.prod(x.aval.shape))
                for x in (*equation.invars, *equation.outvars)
                if hasattr(x.aval, "shape")
            )
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple | list) else (value,):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        yield from sizes(inner)

    def largest(chunk):
        made = jax.make_jaxpr(
            jax.grad(lambda hidden, head, tokens: summed(hidden, head, tokens, chunk), argnums=(0, 1))
        )
        return max(sizes(made(*long_text()).jaxpr))

    assert largest(COUNT) == COUNT * WORDS
    assert largest(5) <= max(COUNT * WIDTH, 5 * WORDS)
