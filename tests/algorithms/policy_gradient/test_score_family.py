"""VPG, A2C and the one-step actor–critics: their updates by hand, every kind of action, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box
from jax.flatten_util import ravel_pytree

from bellmark.algorithms.policy_gradient.a2c import A2C
from bellmark.algorithms.policy_gradient.actor_critic import ActorCritic
from bellmark.algorithms.policy_gradient.q_actor_critic import QActorCritic
from bellmark.algorithms.policy_gradient.reinforce import Average, Reinforce, mean_of_others_at
from bellmark.algorithms.policy_gradient.vpg import VPG
from bellmark.errors import BadInput
from bellmark.experience.rollout import CompiledProblem
from small_environments import Countdown, Tracking

KEY = jax.random.key(0)
TINY = {"environments": 2, "hidden": (4,), "normalise_observations": True}
LEARNERS = {
    "a2c": A2C(**TINY, rollout_length=3, normalise_rewards=True, normalise_advantage=True),
    "a2c, one network": A2C(**TINY, rollout_length=3, shared=True, optimiser="adam"),
    "vpg": VPG(**TINY, rollout_length=4, value_minibatches=2, value_epochs=2, n_steps=2),
    "actor-critic": ActorCritic(**TINY, discounted_states=True),
    "q": QActorCritic(**TINY, entropy_weight=0.1),
    "q, all actions": QActorCritic(**TINY, gradient="all_actions"),
    "reinforce": Reinforce(**TINY, rollout_length=16, baseline="state", value_epochs=1, value_minibatches=2),
}
WORLDS = {
    "masks and a dictionary": Countdown(truncates=4, masked=True, nested=True),
    "two choices": Countdown(terminates=3, actions="two choices"),
    "continuous": Tracking(),
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", LEARNERS)
def test_every_kind_of_action(name, world):
    """Two iterations: everything is finite and an array, everything that learns has moved, no key is used twice."""
    algorithm, problem = LEARNERS[name], CompiledProblem(WORLDS[world], 1000, 8)
    if name == "q, all actions" and world != "masks and a dictionary":
        with pytest.raises(BadInput, match=r"gradient is all_actions; .* sampled is allowed"):
            algorithm.check(problem)
        return
    algorithm.check(problem)
    states, masks = [algorithm.init(problem, KEY)], []

    @jax.jit
    def step(state):
        collected, data = algorithm.collect(problem, state)
        after, metrics = algorithm.update(collected, data)
        rollout = data[0] if isinstance(data, tuple) else data.rollout
        rollout = getattr(rollout, "rollout", rollout)
        return after, metrics, rollout

    for _ in range(2):
        state, metrics, rollout = step(states[-1])
        states.append(state)
        masks.append((rollout.action_mask, rollout.transition.action))
        assert np.isfinite(metrics["loss/policy"])
        assert np.isfinite(metrics["loss/value"])
    leaves = jax.tree.leaves(states[-1])
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    numbers = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert all(np.isfinite(leaf).all() for leaf in numbers)
    assert len({tuple(jax.random.key_data(state.key).tolist()) for state in states}) == 3
    policies = [ravel_pytree(algorithm.policy(state).network)[0] for state in states]
    moved = np.abs(policies[-1] - policies[0]).max() > 0
    # where one action is possible at a time there is nothing to choose, and the gradient is exactly 0
    assert moved == (world != "masks and a dictionary" or name == "a2c, one network")
    if world == "masks and a dictionary":
        assert all(np.take_along_axis(m, a[..., None], -1).all() for m, a in masks)


def test_one_network_serves_policy_and_value():
    """The policy is the first outputs, the value is the last; they start at the scales of separate networks."""
    algorithm = LEARNERS["a2c, one network"]
    state = algorithm.init(CompiledProblem(Countdown(), 1000, 8), KEY)
    features = jax.random.normal(KEY, (5, 2))
    outputs, value = state.networks(features)
    np.testing.assert_allclose(algorithm.policy(state).network(features), outputs, atol=1e-7)
    assert outputs.shape == (5, 3)
    assert value.shape == (5,)
    last = np.asarray(state.networks.actor.layers[-1].weight)
    norms = np.linalg.norm(last, axis=0)
    np.testing.assert_allclose(norms, [0.01, 0.01, 0.01, 1.0], rtol=1e-4)


def one_step(algorithm, problem=None):
    """A state, the data of one step, and the state after it was learned from."""
    problem = problem or CompiledProblem(Countdown(terminates=3), 1000, 8)
    state, data = algorithm.collect(problem, algorithm.init(problem, KEY))
    after, _ = algorithm.update(state, data)
    return state, data, after


LINEAR = {"hidden": (), "optimiser": "sgd", "max_gradient_norm": 1e9, "discount": 0.5}


def test_the_actor_critics_step_is_the_books():
    """Linear and by stochastic gradient descent: w += β δ x and θ += α I δ (e_a − π) x."""
    algorithm = ActorCritic(**LINEAR, learning_rate=0.1, value_learning_rate=0.2)
    state, data, after = one_step(algorithm)
    transition = jax.tree.map(lambda x: np.asarray(x)[0, 0], data.rollout.transition)
    x, following = transition.observation, transition.next_observation
    w, theta = state.critic.layers[0], state.actor.network.layers[0]
    value, next_value = (float((y @ w.weight + w.bias)[0]) for y in (x, following))
    delta = transition.reward + 0.5 * next_value - value
    assert abs(delta) > 1
    np.testing.assert_allclose(
        after.critic.layers[0].weight[:, 0], w.weight[:, 0] + 0.2 * delta * x, rtol=1e-4, atol=1e-6
    )
    logits = x @ theta.weight + theta.bias
    policy = np.exp(logits) / np.exp(logits).sum()
    score = np.eye(3)[transition.action] - policy
    np.testing.assert_allclose(
        after.actor.network.layers[0].bias, theta.bias + 0.1 * delta * score, rtol=1e-4, atol=1e-6
    )
    # a pleasant surprise makes the action more probable
    assert (after.actor.network.layers[0].bias[transition.action] > 0) == (delta > 0)


@pytest.mark.parametrize("gradient", ["sampled", "all_actions"])
def test_the_q_actor_critics_step_by_hand(gradient):
    algorithm = QActorCritic(
        **LINEAR, learning_rate=0.1, value_learning_rate=0.2, gradient=gradient, baseline=False
    )
    state, data, after = one_step(algorithm)
    transition = jax.tree.map(lambda x: np.asarray(x)[0, 0], data.rollout.transition)
    x, action = transition.observation, int(transition.action)
    w, theta = state.critic.network.layers[0], state.actor.network.layers[0]
    q, following = (np.asarray(y @ w.weight + w.bias) for y in (x, transition.next_observation))
    moved = np.asarray(after.critic.network.layers[0].bias - w.bias)
    targets = transition.reward + 0.5 * following
    # the critic moves at the action alone, towards the target of one of the three actions that may follow
    assert np.flatnonzero(moved).tolist() == [action]
    assert np.min(np.abs(moved[action] - 0.2 * (targets - q[action]))) < 1e-4
    logits = x @ theta.weight + theta.bias
    policy = np.asarray(np.exp(logits) / np.exp(logits).sum())
    ascent = q[action] * (np.eye(3)[action] - policy) if gradient == "sampled" else policy * (q - policy @ q)
    np.testing.assert_allclose(
        after.actor.network.layers[0].bias, theta.bias + 0.1 * ascent, rtol=1e-3, atol=1e-5
    )


def test_the_age_of_a_step_is_counted_from_its_episode():
    algorithm = ActorCritic(environments=1, hidden=(), discount=0.5, discounted_states=True)
    problem = CompiledProblem(Countdown(truncates=3), 1000, 3)
    state, weights = algorithm.init(problem, KEY), []
    for _ in range(5):
        state, data = algorithm.collect(problem, state)
        weights.append(float(algorithm.samples(state, data.rollout, data.age).weight[0]))
    assert weights == [1.0, 0.5, 0.25, 1.0, 0.5]


def test_vpg_moves_the_policy_once_and_fits_the_critic_to_returns():
    """Adam's first step is the sign of the gradient, which is the mean score; the critic's error falls."""
    algorithm = VPG(
        environments=4,
        rollout_length=6,
        hidden=(),
        discount=0.5,
        normalise_advantage=False,
        max_gradient_norm=1e9,
        value_epochs=20,
        value_minibatches=2,
        value_learning_rate=0.05,
    )
    problem = CompiledProblem(Countdown(terminates=3), 1000, 3)
    state, data = algorithm.collect(problem, algorithm.init(problem, KEY))
    after, _ = jax.jit(algorithm.update)(state, data)
    samples = algorithm.samples(state, data[0])
    # 24 steps of 8 whole episodes: rewards 10k + action + first, returned with γ = ½ and never bootstrapped
    reward = np.asarray(data[0].transition.reward)
    np.testing.assert_allclose(
        np.asarray(samples.value_target).reshape(6, 4)[0],
        reward[0] + reward[1] / 2 + reward[2] / 4,
        rtol=1e-5,
    )
    bias = state.actor.network.layers[0].bias
    outputs = samples.features @ state.actor.network.layers[0].weight + bias
    policy = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
    ascent = ((np.eye(3)[samples.action] - policy) * np.asarray(samples.advantage)[:, None]).mean(0)
    np.testing.assert_allclose(
        after.actor.network.layers[0].bias - bias, algorithm.learning_rate * np.sign(ascent), rtol=1e-3
    )
    assert algorithm.value_loss(after.critic, samples) < 0.8 * algorithm.value_loss(state.critic, samples)


def test_the_baseline_of_an_age_is_the_others_mean_at_that_age():
    returns = jnp.array([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0], [4.0, 40.0, 400.0]])
    usable = jnp.array([[1, 1, 1], [1, 1, 1], [1, 1, 0]], bool)
    age = jnp.array([[0, 0, 0], [1, 0, 1], [2, 1, 2]])
    found = mean_of_others_at(returns, usable, age)
    np.testing.assert_allclose(found[0], [(10 + 20 + 100) / 3, (1 + 100) / 2, (1 + 10 + 20) / 3])
    np.testing.assert_allclose(found[1], [(40 + 200) / 2, (1 + 100) / 2, (2 + 40) / 2])
    # nobody else is two steps old: all that the others have; what is not usable has no say
    assert float(found[2, 0]) == pytest.approx((10 + 20 + 40 + 100 + 200) / 5)
    assert float(found[2, 1]) == pytest.approx((2 + 200) / 2)


def test_the_constant_baseline_is_of_earlier_rollouts():
    average = Average.start()
    seen = [average.mean]
    for x, counts in ((4.0, True), (99.0, False), (2.0, True)):
        average = average.add(jnp.array(x), jnp.array(counts))
        seen.append(average.mean)
    # weights 0.1 · 0.9 and 0.1, brought to a sum of 1
    np.testing.assert_allclose(seen, [0.0, 4.0, 4.0, 4.0 + (2.0 - 4.0) / 1.9], rtol=1e-6)


def test_the_state_baseline_is_used_before_it_is_fitted():
    algorithm = Reinforce(environments=2, rollout_length=8, hidden=(), baseline="state", discount=0.5)
    problem = CompiledProblem(Countdown(terminates=4), 1000, 4)
    state, (steps, finished) = algorithm.collect(problem, algorithm.init(problem, KEY))
    value = state.critic.network(steps.rollout.transition.observation)[..., 0]
    np.testing.assert_allclose(steps.score, steps.returns - value, rtol=1e-5)
    after, metrics = jax.jit(algorithm.update)(state, (steps, finished))
    closer = after.critic.network(steps.rollout.transition.observation)[..., 0]
    assert np.square(closer - steps.returns).mean() < np.square(value - steps.returns).mean()
    assert float(metrics["loss/value"]) > 0


class Picture(Countdown):
    @property
    def observation_space(self):
        return Box(0, 255, (8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("algorithm", "says"),
    [
        (A2C(trace_decay=1.1), "trace_decay is 1.1; allowed: from 0 to 1"),
        (A2C(rollout_length=0), "rollout_length is 0; allowed: at least 1"),
        (A2C(value_weight=-1.0), "value_weight is -1.0; allowed: at least 0"),
        (VPG(n_steps=0), "n_steps is 0; allowed: at least 1"),
        (VPG(rollout_length=3, value_minibatches=5), "value_minibatches is 5, which does not divide"),
        (VPG(value_learning_rate=0.0), "value_learning_rate is 0.0; allowed: more than 0"),
        (ActorCritic(learning_rate=-1.0), "learning_rate is -1.0; allowed: more than 0"),
        (ActorCritic(environments=0), "environments is 0; allowed: at least 1"),
        (QActorCritic(discount=1.5), "discount is 1.5; allowed: from 0 to 1"),
        (Reinforce(value_epochs=0), "value_epochs is 0; allowed: at least 1"),
        (Reinforce(baseline="state", value_minibatches=7), "value_minibatches is 7, which does not divide"),
    ],
    ids=lambda given: given.name if hasattr(given, "name") else "",
)
def test_hyperparameters_are_checked_in_one_line(algorithm, says):
    with pytest.raises(BadInput, match=says) as refusal:
        algorithm.check(CompiledProblem(Countdown(), 1000, 100))
    assert "\n" not in str(refusal.value)


def test_a_q_of_pictures_and_several_choices_is_refused():
    with pytest.raises(BadInput, match="Discrete actions are allowed, or the algorithm actor_critic"):
        QActorCritic().check(CompiledProblem(Picture(actions="two choices"), 1000, 100))
