"""REINFORCE: which steps count, and what their log-probabilities are multiplied by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.algorithms.policy_gradient.reinforce import Reinforce, Steps
from bellmark.errors import BadInput
from bellmark.experience.policy import Inputs
from bellmark.experience.rollout import CompiledProblem
from bellmark.types import Rollout, Transition
from small_environments import Countdown

KEY = jax.random.key(0)


def rollout_of(reward, terminated, truncated):
    reward, terminated, truncated = (np.asarray(x).T for x in (reward, terminated, truncated))
    time, count = reward.shape
    observation = jnp.zeros((time, count, 2))
    transition = Transition(
        observation,
        jnp.asarray(np.arange(time * count).reshape(time, count) % 3),
        jnp.asarray(reward, jnp.float32),
        jnp.asarray(terminated, bool),
        jnp.asarray(truncated, bool),
        observation,
    )
    return Rollout(transition, jnp.zeros((time, count, 3)))


# two environments, eight steps, episodes of at most three: [B, T], as one reads them
REWARD = [[1, 2, 3, 4, 5, 6, 7, 8], [10, 20, 30, 40, 50, 60, 70, 80]]
TERMINATED = [[0, 1, 0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0, 0, 1]]
TRUNCATED = [[0, 0, 0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1, 0, 0]]
ROLLOUT = rollout_of(REWARD, TERMINATED, TRUNCATED)
FRESH = jnp.array([True, False])


def steps_of(**fields):
    algorithm = Reinforce(environments=2, rollout_length=8, discount=0.5, **fields)
    return algorithm.steps(ROLLOUT, FRESH, 3)


def test_which_steps_are_used():
    """Environment 0: episodes of steps 0–1, 2–4, 5–6, 7…; environment 1: …2 was under way, 3–5, 6–7."""
    usable = np.asarray(steps_of().usable).T
    # begun by step 5, so that three steps fit: the one begun at 7 is left out, whether it ended or not,
    # and so is the one begun at 6, although it ended in the data: a longer one would not have
    np.testing.assert_array_equal(usable, [[1, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 0, 0]])


def test_an_episode_under_way_is_left_out_and_a_fresh_one_is_not():
    for fresh in (True, False):
        algorithm = Reinforce(environments=2, rollout_length=8)
        usable = algorithm.steps(ROLLOUT, jnp.array([fresh, fresh]), 3).usable
        assert bool(usable[0, 0]) == bool(usable[0, 1]) == fresh


def test_selection_does_not_look_at_the_length():
    """Whatever the lengths up to the limit: used are exactly the episodes begun early enough, and all end."""
    rng = np.random.default_rng(0)
    time, count, limit = 30, 50, 6
    terminated, began = np.zeros((count, time), bool), np.zeros((count, time), int)
    for b in range(count):
        t = 0
        while t < time:
            length = int(rng.integers(1, limit + 1))
            began[b, t : t + length] = t
            if t + length <= time:
                terminated[b, t + length - 1] = True
            t += length
    rollout = rollout_of(np.ones((count, time)), terminated, np.zeros((count, time)))
    algorithm = Reinforce(environments=count, rollout_length=time)
    usable = np.asarray(algorithm.steps(rollout, jnp.ones(count, bool), limit).usable).T
    np.testing.assert_array_equal(usable, began <= time - limit)
    lengths = np.diff(np.flatnonzero(np.append(terminated[usable], True)), prepend=-1)
    # uniform over 1 … 6, as drawn: the mean would be below 3 if short episodes were favoured
    assert lengths.mean() == pytest.approx(3.5, abs=4 * 1.71 / len(lengths) ** 0.5)


def test_reward_to_go():
    score = np.asarray(steps_of(baseline="none").score).T
    # at truncations nothing is added either: γ = ½
    np.testing.assert_allclose(score[0, :7], [2, 2, 3 + 2 + 1.25, 4 + 2.5, 5, 6 + 3.5, 7])
    np.testing.assert_allclose(score[1, 3:6], [40 + 25 + 15, 50 + 30, 60])


def test_whole_trajectory():
    score = np.asarray(steps_of(baseline="none", reward_to_go=False).score).T
    np.testing.assert_allclose(score[0, :7], [2, 2, 6.25, 6.25, 6.25, 9.5, 9.5])
    np.testing.assert_allclose(score[1, 3:6], [80, 80, 80])


def test_states_are_discounted_by_the_time_since_their_episode_began():
    score = np.asarray(steps_of(baseline="none", discounted_states=True).score).T
    np.testing.assert_allclose(score[0, :7], [2, 1, 6.25, 3.25, 1.25, 9.5, 3.5])
    # the whole trajectory's return is counted from its start: it has the factor in it
    whole = np.asarray(steps_of(baseline="none", reward_to_go=False, discounted_states=True).score).T
    np.testing.assert_allclose(whole[0, :7], [2, 2, 6.25, 6.25, 6.25, 9.5, 9.5])


def test_the_baseline_is_the_others_mean():
    plain, less = (np.asarray(steps_of(baseline=baseline).score).T for baseline in ("none", "others"))
    usable = np.asarray(steps_of().usable).T
    np.testing.assert_allclose((plain - less)[0], np.full(8, plain[1][usable[1]].mean()), rtol=1e-5)
    np.testing.assert_allclose((plain - less)[1], np.full(8, plain[0][usable[0]].mean()), rtol=1e-5)


def test_a_single_environment_has_no_others():
    algorithm = Reinforce(environments=1, rollout_length=8, discount=0.5)
    rollout = jax.tree.map(lambda x: x[:, :1], ROLLOUT)
    score = algorithm.steps(rollout, FRESH[:1], 3).score
    np.testing.assert_allclose(score[:2, 0], [2, 2])


def test_gradient_is_the_mean_score_over_the_usable_steps():
    """∂loss/∂logits = −(1/n) Σ (e_a − π) (G − b); what is not usable does not count."""
    algorithm = Reinforce(environments=2, rollout_length=8, hidden=(), discount=0.5, entropy_weight=0.0)
    state = algorithm.init(CompiledProblem(Countdown(truncates=3), 1000, 3), KEY)
    steps = algorithm.steps(ROLLOUT, FRESH, 3)
    spoiled = Steps(ROLLOUT, steps.returns, jnp.where(steps.usable, steps.score, 1e9), steps.usable)
    inputs = Inputs.start(Countdown().observation_space)
    gradient = jax.grad(lambda networks: algorithm.loss(networks, inputs, spoiled)[0])(state.networks)
    bias = state.networks.actor.layers[-1].bias
    policy = np.exp(bias) / np.exp(bias).sum()
    usable, action = np.asarray(steps.usable), np.asarray(ROLLOUT.transition.action)
    terms = (np.eye(3)[action] - policy) * np.asarray(steps.score)[..., None]
    np.testing.assert_allclose(
        gradient.actor.layers[-1].bias, -terms[usable].sum(0) / usable.sum(), rtol=1e-4, atol=1e-5
    )


def test_fresh_episodes_are_known_across_rollouts():
    """With episodes of 4, every rollout of 8 begins afresh, and the second of 9 with an episode under way."""
    for length, shares in ((8, [1.0, 1.0]), (9, [8 / 9, 4 / 9])):
        algorithm = Reinforce(environments=3, rollout_length=length, hidden=(4,))
        problem = CompiledProblem(Countdown(truncates=4), 1000, 4)
        state = algorithm.init(problem, KEY)
        got = []
        for _ in range(2):
            state, metrics = jax.jit(lambda s: algorithm.step(problem, s))(state)  # noqa: B023
            got.append(float(metrics["data/usable_share"]))
        np.testing.assert_allclose(got, shares, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"rollout_length": 99}, "rollout_length is 99; REINFORCE needs complete episodes"),
        ({"discount": 2.0}, "discount is 2.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"entropy_weight": -1.0}, "entropy_weight is -1.0"),
        ({"hidden": (-1,)}, "hidden"),
    ],
)
def test_hyperparameters_are_checked_in_one_line(fields, says):
    problem = CompiledProblem(Countdown(truncates=100), 1000, 100)
    with pytest.raises(BadInput, match=says) as refusal:
        Reinforce(**{"rollout_length": 100, **fields}).check(problem)
    assert "\n" not in str(refusal.value)
