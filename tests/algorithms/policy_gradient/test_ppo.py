"""PPO's update against the same update written again from the paper, and its options one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bellmark.algorithms.policy_gradient.ppo import PPO, Samples
from bellmark.envs.classic_control.cart_pole import CartPole
from bellmark.envs.wrappers.time_limit import TimeLimit
from bellmark.errors import BadInput
from bellmark.experience.minibatches import minibatch_indices
from bellmark.experience.rollout import CompiledProblem
from bellmark.types import Finished, Rollout, Transition
from small_environments import Countdown, Tracking

KEY = jax.random.key(0)
TIME, COUNT = 6, 2


def made_up(algorithm, continuous, masked):
    """A rollout of random numbers under a policy that is not quite the present one, so that clipping bites."""
    rng = np.random.default_rng(1)
    observation, following = rng.normal(size=(2, TIME, COUNT, 2)).astype(np.float32)
    terminated, truncated = (rng.random((2, TIME, COUNT)) < 0.25).astype(bool)
    mask = None
    if continuous:
        action = rng.normal(size=(TIME, COUNT, 1)).astype(np.float32)
        remembered = rng.normal(0, 0.5, (TIME, COUNT, 1)).astype(np.float32)
    else:
        action = rng.integers(0, 3, (TIME, COUNT))
        remembered = rng.normal(0, 0.5, (TIME, COUNT, 3)).astype(np.float32)
    if masked:
        mask = rng.random((TIME, COUNT, 3)) < 0.5
        np.put_along_axis(mask, action[..., None], True, axis=-1)
    reward = rng.normal(size=(TIME, COUNT)).astype(np.float32)
    transition = Transition(
        *map(jnp.asarray, (observation, action, reward, terminated, truncated, following))
    )
    rollout = Rollout(transition, jnp.asarray(remembered), None if mask is None else jnp.asarray(mask))
    nothing = jnp.zeros((TIME, COUNT))
    finished = Finished(nothing > 0, nothing, nothing.astype(jnp.int32), jnp.int32(0), jnp.int32(0))
    return rollout, finished


def network(layers, x):
    """Tanh between layers, on plain (weight, bias) pairs."""
    for weight, bias in layers[:-1]:
        x = jnp.tanh(x @ weight + bias)
    return x @ layers[-1][0] + layers[-1][1]


def log_prob_and_entropy(outputs, log_std, action, mask):
    if log_std is None:
        outputs = outputs if mask is None else jnp.where(mask, outputs, -jnp.inf)
        probability = jnp.exp(outputs) / jnp.exp(outputs).sum(-1, keepdims=True)
        chosen = jnp.take_along_axis(probability, action[:, None], -1)[:, 0]
        entropy = -jnp.sum(jnp.where(probability > 0, probability * jnp.log(probability + 1e-30), 0.0), -1)
        return jnp.log(chosen), entropy
    deviation = jnp.exp(log_std)
    density = jnp.exp(-(((action - outputs) / deviation) ** 2) / 2) / (deviation * np.sqrt(2 * np.pi))
    return jnp.log(density).sum(-1), jnp.full(
        len(action), jnp.sum(jnp.log(deviation * np.sqrt(2 * np.pi * np.e)))
    )


def reference(algorithm, state, rollout):
    """The update once more, from eqs. 7, 9, 11 of the paper and Adam's own: parameters and Adam's first moment."""
    networks, t = state.networks, rollout.transition
    actor = [(layer.weight, layer.bias) for layer in networks.actor.layers]
    critic = [(layer.weight, layer.bias) for layer in networks.critic.layers]
    log_std = getattr(networks.head, "log_std", None)
    values, following = (np.asarray(network(critic, x))[..., 0] for x in (t.observation, t.next_observation))
    advantage = np.zeros((TIME, COUNT))
    for b in range(COUNT):
        later = 0.0
        for i in reversed(range(TIME)):
            over, cut = bool(t.terminated[i, b]), bool(t.truncated[i, b])
            error = t.reward[i, b] + (0 if over else algorithm.discount * following[i, b]) - values[i, b]
            later = error + (0 if over or cut else algorithm.discount * algorithm.trace_decay * later)
            advantage[i, b] = later
    flat = lambda x: None if x is None else np.asarray(x).reshape(TIME * COUNT, *x.shape[2:])  # noqa: E731
    observation, action, mask = flat(t.observation), flat(t.action), flat(rollout.action_mask)
    old, _ = log_prob_and_entropy(flat(rollout.remembered), log_std, action, mask)
    advantage, target, values = advantage.ravel(), (advantage + values).ravel(), values.ravel()

    def loss(parameters, rows):
        actor, critic, log_std = parameters
        new, entropy = log_prob_and_entropy(
            network(actor, observation[rows]), log_std, action[rows], None if mask is None else mask[rows]
        )
        gain = advantage[rows]
        gain = (gain - gain.mean()) / gain.std()
        ratio = jnp.exp(new - old[rows])
        surrogate = jnp.minimum(ratio * gain, jnp.clip(ratio, 1 - algorithm.clip, 1 + algorithm.clip) * gain)
        value = network(critic, observation[rows])[:, 0]
        error = (value - target[rows]) ** 2
        if algorithm.value_clip is not None:
            near = values[rows] + jnp.clip(value - values[rows], -algorithm.value_clip, algorithm.value_clip)
            error = jnp.maximum(error, (near - target[rows]) ** 2)
        return jnp.mean(-surrogate + algorithm.value_weight * error / 2 - algorithm.entropy_weight * entropy)

    parameters = (actor, critic, log_std)
    flat_parameters, unravel = ravel_pytree(parameters)
    flat_parameters = np.asarray(flat_parameters, np.float64)
    first = second = np.zeros_like(flat_parameters)
    rate = algorithm.learning_rate * (1 - float(state.iteration) / float(state.horizon))
    key = jax.random.split(state.key)[1]
    order = minibatch_indices(key, TIME * COUNT, algorithm.minibatches, algorithm.epochs)
    for step, rows in enumerate(np.asarray(order), start=1):
        gradient = jax.grad(loss)(unravel(jnp.asarray(flat_parameters, jnp.float32)), rows)
        gradient = np.asarray(ravel_pytree(gradient)[0], np.float64)
        gradient *= min(1.0, algorithm.max_gradient_norm / np.linalg.norm(gradient))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased, spread = first / (1 - 0.9**step), np.sqrt(second / (1 - 0.999**step))
        flat_parameters = flat_parameters - rate * unbiased / (spread + 1e-5)
    return flat_parameters, first, advantage


@pytest.mark.parametrize(
    ("continuous", "masked", "fields"),
    [
        (False, False, {"epochs": 1, "minibatches": 1}),
        (False, False, {"epochs": 1, "minibatches": 1, "value_clip": 0.05, "max_gradient_norm": 100.0}),
        (False, True, {"epochs": 2, "minibatches": 3}),
        (True, False, {"epochs": 3, "minibatches": 2, "value_clip": 0.05, "initial_log_std": -0.3}),
    ],
    ids=["plain", "value clipping", "masks", "continuous"],
)
def test_update_is_the_papers(continuous, masked, fields):
    algorithm = PPO(
        environments=COUNT, rollout_length=TIME, hidden=(5,), learning_rate=0.02, entropy_weight=0.1, **fields
    )
    problem = CompiledProblem(TwoNumbers() if continuous else Countdown(), 10 * TIME * COUNT, None)
    state = algorithm.init(problem, KEY)
    state = type(state)(**{**vars(state), "iteration": jnp.int32(3)})
    data = made_up(algorithm, continuous, masked)
    after, metrics = jax.jit(algorithm.update)(state, data)
    parameters, first_moment, advantage = reference(algorithm, state, data[0])
    assert float(metrics["optimiser/learning_rate"]) == pytest.approx(0.02 * 0.7, rel=1e-6)
    # the same leaves, in the reference's order
    n = after.networks
    mine = (
        [(layer.weight, layer.bias) for layer in n.actor.layers],
        [(layer.weight, layer.bias) for layer in n.critic.layers],
        getattr(n.head, "log_std", None),
    )
    # float32 against float64 in some dozen operations; Adam divides by small numbers
    np.testing.assert_allclose(ravel_pytree(mine)[0], parameters, rtol=1e-3, atol=1e-4)
    samples = algorithm.samples(state, data[0])
    np.testing.assert_allclose(samples.advantage, advantage, rtol=1e-4, atol=1e-5)
    moments = [
        x.mu for x in jax.tree.leaves(after.optimiser, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")
    ]
    (moment,) = moments
    norm = np.linalg.norm(first_moment)
    assert float(jnp.linalg.norm(moment)) == pytest.approx(
        norm, rel=1e-3
    )  # in clipping's own scale, unlike Adam's
    assert float(metrics["policy/clipped"]) > 0.1


class TwoNumbers(Tracking):
    """Two numbers are shown, one is sent."""

    @property
    def observation_space(self):
        return Countdown().observation_space

    def observe(self, state):
        return jnp.stack([state.first, state.first])


SMALL = {"environments": 4, "rollout_length": 16, "hidden": (8,)}
CART = CompiledProblem(TimeLimit(CartPole(), 12), 64 * 10, 12)


@pytest.fixture(scope="module")
def collected():
    """Every option on: state before and after one iteration, and the data between."""
    algorithm = PPO(**SMALL, normalise_observations=True, normalise_rewards=True, discount=0.9)
    start = algorithm.init(CART, KEY)
    collect, update = jax.jit(lambda s: algorithm.collect(CART, s)), jax.jit(algorithm.update)
    state, data = collect(start)
    return algorithm, start, state, data, *update(state, data)


def test_ratio_is_one_before_the_first_step(collected):
    algorithm, _, state, (rollout, _), *_ = collected
    samples = algorithm.samples(state, rollout)
    outputs = state.networks.actor(samples.features)
    log_prob = state.networks.head.distribution(outputs).log_prob(samples.action)
    np.testing.assert_allclose(
        log_prob, samples.log_prob, atol=2e-6
    )  # batches of other shapes round differently
    _, metrics = algorithm.loss(state.networks, samples)
    assert float(metrics["policy/clipped"]) == 0
    assert float(metrics["policy/kl"]) == pytest.approx(0, abs=1e-6)


def test_gradient_at_the_old_policy_is_the_policy_gradient(collected):
    algorithm, _, state, (rollout, _), *_ = collected
    samples = algorithm.samples(state, rollout)
    plain = PPO(**SMALL, entropy_weight=0.0, value_weight=0.0, normalise_advantage=False)
    surrogate = jax.grad(lambda networks: plain.loss(networks, samples)[0])(state.networks)

    def ascent(networks):
        log_prob = networks.head.distribution(networks.actor(samples.features)).log_prob(samples.action)
        return -jnp.mean(log_prob * samples.advantage)

    for a, b in zip(
        jax.tree.leaves(surrogate), jax.tree.leaves(jax.grad(ascent)(state.networks)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_normalisers_learn_after_they_are_used(collected):
    """Advantages and log-probabilities are of what the policy saw; the moments change afterwards."""
    _, start, state, (rollout, _), after, _ = collected
    observation = np.asarray(rollout.transition.observation).reshape(-1, 4)
    np.testing.assert_allclose(after.inputs.moments.mean, observation.mean(0), atol=1e-5)
    np.testing.assert_allclose(after.inputs.moments.variance, observation.var(0), rtol=1e-2, atol=1e-5)
    np.testing.assert_array_equal(state.inputs.moments.mean, start.inputs.moments.mean)
    transition = rollout.transition
    want = start.reward_scale.seen(transition.reward, transition.unbroken, 0.9)  # the agent's own γ
    np.testing.assert_allclose(after.reward_scale.moments.variance, want.moments.variance, rtol=1e-6)
    assert float(after.reward_scale.moments.variance) != pytest.approx(1.0, rel=0.1)


def test_keys_are_never_used_twice(collected):
    _, start, state, _, after, _ = collected
    keys = [jax.random.key_data(s.key).tolist() for s in (start, state, after)]
    assert len({tuple(key) for key in keys}) == 3


def test_every_leaf_of_the_state_is_an_array(collected):
    *_, after, _ = collected
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(after))


def test_annealing():
    rates = {}
    for anneal in (True, False):
        algorithm = PPO(**SMALL, anneal=anneal, learning_rate=0.1)
        state = algorithm.init(CART, KEY)
        update = jax.jit(algorithm.update)
        _, data = algorithm.collect(CART, state)
        rates[anneal] = []
        for _ in range(12):
            state, metrics = update(state, data)
            rates[anneal].append(float(metrics["optimiser/learning_rate"]))
    # a budget of ten iterations: full at the first, a tenth at the last, never negative after it
    np.testing.assert_allclose(rates[True], [*np.linspace(0.1, 0.01, 10), 0.0, 0.0], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(rates[False], 0.1)


def test_a_minibatch_of_one_sample():
    algorithm = PPO(environments=1, rollout_length=4, minibatches=4, hidden=(4,))
    state = algorithm.init(CART, KEY)
    state, metrics = jax.jit(lambda s: algorithm.step(CART, s))(state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.networks))
    assert np.isfinite(metrics["loss/policy"])


def test_a_loss_never_sees_more_than_its_minibatch(collected):
    algorithm, _, state, (rollout, _), *_ = collected
    samples = algorithm.samples(state, rollout)
    rows = jnp.arange(8)
    some = jax.tree.map(lambda x: x[rows], samples)
    assert isinstance(some, Samples)
    scaled = PPO(**SMALL, normalise_advantage=True).loss(state.networks, some)[0]
    advantage = (some.advantage - some.advantage.mean()) / some.advantage.std()
    by_hand = type(some)(**{**vars(some), "advantage": advantage})
    plain = PPO(**SMALL, normalise_advantage=False).loss(state.networks, by_hand)[0]
    assert float(scaled) == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"discount": 1.5}, "discount is 1.5; allowed: from 0 to 1"),
        ({"discount": float("nan")}, "discount is nan"),
        ({"trace_decay": -0.1}, "trace_decay is -0.1"),
        ({"clip": 0.0}, "clip is 0.0; allowed: more than 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"max_gradient_norm": -1.0}, "max_gradient_norm is -1.0"),
        ({"entropy_weight": -0.01}, "entropy_weight is -0.01; allowed: at least 0"),
        ({"value_clip": 0.0}, "value_clip is 0.0"),
        ({"environments": 0}, "environments is 0; allowed: at least 1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"minibatches": 3}, "minibatches is 3, which does not divide environments × rollout_length = 64"),
        ({"hidden": (8, 0)}, "hidden"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_hyperparameters_are_checked_in_one_line(fields, says):
    with pytest.raises(BadInput, match=says) as refusal:
        PPO(**{**SMALL, **fields}).check(CART)
    assert "\n" not in str(refusal.value)
