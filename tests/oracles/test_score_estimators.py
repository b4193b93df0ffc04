"""Every estimator of the score-function family against the policy gradient differentiated through the linear solve.

The model, the policy and the tolerances are those of `test_policy_gradient`.  Counted are the steps of each
environment's first episode, weighted with γ^t: their sum has exactly ∇J as its mean, if the estimator's advantage is
right on average.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from reference import dense, policy_values
from test_policy_gradient import (
    ACTIONS,
    AGREES,
    DIFFERS,
    DISCOUNT,
    LIMIT,
    MDP,
    STATES,
    exact_gradient,
    probabilities,
    problem_with,
    reinforce,
    roll,
    standard_errors_away,
)

from bellmark.algorithms.policy_gradient.a2c import A2C
from bellmark.algorithms.policy_gradient.actor_critic import ActorCritic
from bellmark.algorithms.policy_gradient.ppo import PPO
from bellmark.algorithms.policy_gradient.q_actor_critic import QActorCritic
from bellmark.algorithms.policy_gradient.reinforce import Average, Reinforce
from bellmark.algorithms.policy_gradient.vpg import VPG
from bellmark.maths.returns import episode_start

GROUPS, COUNT, TIME = 192, 32, 40  # 0.65^40 = 3e-8 of the first episodes are not over by then


@pytest.fixture(scope="module")
def policy():
    state = reinforce().init(problem_with(LIMIT), jax.random.key(0))
    weight = jax.random.normal(jax.random.key(1), (STATES, ACTIONS))
    return eqx.tree_at(lambda p: p.network.layers[0].weight, reinforce().policy(state), weight)


@pytest.fixture(scope="module")
def rollouts(policy):
    return roll(policy, problem_with(LIMIT), GROUPS, COUNT, TIME, jax.random.key(12))


@pytest.fixture(scope="module")
def exact(policy):
    """V^π [S] and Q^π [S, A]."""
    values = policy_values(MDP, np.asarray(probabilities(policy), float), DISCOUNT)
    table, rewards, _ = dense(MDP)
    return np.asarray(values, np.float32), np.asarray(rewards + DISCOUNT * table @ values, np.float32)


def with_critic(network, table):
    """A linear network of a one-hot state that is `table`."""
    columns = jnp.asarray(table).reshape(STATES, -1)
    return eqx.tree_at(lambda n: n.layers[0].weight, network, columns)


COMMON = {"environments": COUNT, "hidden": (), "discount": DISCOUNT, "entropy_weight": 0.0}
ROLLED = {**COMMON, "rollout_length": TIME}
PLAIN = {**ROLLED, "normalise_advantage": False}


def prepared(algorithm, policy, exact):
    """The algorithm's state with this policy, and V or Q in its critic."""
    state = algorithm.init(problem_with(LIMIT), jax.random.key(0))
    values, action_values = exact
    if isinstance(algorithm, A2C) and algorithm.shared:
        both = jnp.concatenate([policy.network.layers[0].weight, jnp.asarray(values)[:, None]], axis=1)
        return eqx.tree_at(lambda s: s.networks.actor, state, with_critic(state.networks.actor, both))
    if isinstance(algorithm, A2C | PPO):
        places = (lambda s: s.networks.actor), (lambda s: s.networks.critic)
    elif isinstance(algorithm, QActorCritic):
        places = (lambda s: s.actor.network), (lambda s: s.critic.network)
    else:
        places = (lambda s: s.actor.network), (lambda s: s.critic)
    actor, critic = places
    table = action_values if isinstance(algorithm, QActorCritic) else values
    state = eqx.tree_at(actor, state, policy.network)
    return eqx.tree_at(critic, state, with_critic(critic(state), table))


def estimates(algorithm, policy, exact, rollouts, *, discounted=True, seed=7):
    """One estimate of ∇J per group, [groups, parameters]."""
    state = prepared(algorithm, policy, exact)
    online = isinstance(algorithm, ActorCritic | QActorCritic)

    def one(rollout, key):
        began = episode_start(rollout.transition.unbroken, jnp.ones(COUNT, bool))
        age = jnp.arange(TIME)[:, None] - began
        counts = (began == 0).astype(jnp.float32)
        if isinstance(algorithm, QActorCritic):
            samples = algorithm.samples(state, rollout, age, key)
        elif isinstance(algorithm, ActorCritic):
            samples = algorithm.samples(state, rollout, age)
        else:
            samples = algorithm.samples(state, rollout)
        # the online learners know γ^t themselves; the others leave it out, as everybody does
        weight = (counts if online or not discounted else counts * DISCOUNT**age).reshape(-1)
        where = (lambda s: s.weight) if online else (lambda s: s.advantage)
        samples = eqx.tree_at(where, samples, where(samples) * weight)
        if isinstance(algorithm, A2C | PPO):
            gradient = jax.grad(lambda n: algorithm.loss(n, samples)[0])(state.networks).actor
            gradient = gradient.first(ACTIONS)
        else:
            gradient = jax.grad(lambda n: algorithm.policy_loss(n, samples)[0])(state.actor).network
        return -ravel_pytree(gradient)[0] * TIME

    keys = jax.random.split(jax.random.key(seed), GROUPS)
    return np.asarray(jax.jit(jax.vmap(one))(rollouts, keys), np.float64)


ESTIMATORS = {
    "a2c, one step": A2C(**PLAIN, value_weight=0.0, trace_decay=0.0),
    "a2c, Monte Carlo, one network": A2C(**PLAIN, value_weight=0.0, shared=True),
    "ppo at the old policy": PPO(**PLAIN, value_weight=0.0, trace_decay=0.9),
    "vpg": VPG(**PLAIN, trace_decay=0.5),
    "vpg, two steps": VPG(**PLAIN, n_steps=2),
    "actor-critic": ActorCritic(**COMMON, discounted_states=True),
    "q, sampled": QActorCritic(**COMMON, discounted_states=True, baseline=False),
    "q, sampled with baseline": QActorCritic(**COMMON, discounted_states=True),
    "q, all actions": QActorCritic(**COMMON, discounted_states=True, gradient="all_actions"),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_with_an_exact_critic_the_mean_is_the_exact_gradient(policy, rollouts, exact, name):
    found, truth = estimates(ESTIMATORS[name], policy, exact, rollouts), exact_gradient(policy)
    assert standard_errors_away(found - truth) < AGREES
    assert standard_errors_away(-found - truth) > DIFFERS, "the wrong sign passes"


def spoiled(exact):
    """A critic that is wrong in every state."""
    off = np.random.default_rng(0).normal(0.0, 2.0, (STATES, ACTIONS)).astype(np.float32)
    return exact[0] + off[:, 0], exact[1] + off


def test_with_a_wrong_critic_only_the_monte_carlo_end_is_right(policy, rollouts, exact):
    truth = exact_gradient(policy)

    def away(algorithm):
        return standard_errors_away(estimates(algorithm, policy, spoiled(exact), rollouts) - truth)

    assert away(VPG(**PLAIN, trace_decay=1.0)) < AGREES
    assert away(VPG(**PLAIN, n_steps=TIME)) < AGREES
    for name in ("a2c, one step", "actor-critic", "q, all actions"):
        assert away(ESTIMATORS[name]) > DIFFERS, name


def test_a_gradient_without_discounted_states_is_found_out(policy, rollouts, exact):
    """What all but the textbook leave out; it is another gradient, and the test can tell."""
    truth = exact_gradient(policy)
    without = ActorCritic(**COMMON, discounted_states=False)
    assert standard_errors_away(estimates(without, policy, exact, rollouts) - truth) > DIFFERS
    vpg = estimates(ESTIMATORS["vpg"], policy, exact, rollouts, discounted=False)
    assert standard_errors_away(vpg - truth) > DIFFERS


def test_both_forms_of_the_gradient_agree_and_all_actions_vary_less(policy, rollouts, exact):
    """The same mean, by the difference of the two on the same steps; and where the noise comes from."""
    forms = {
        name: estimates(ESTIMATORS[name], policy, exact, rollouts)
        for name in ("q, sampled", "q, sampled with baseline", "q, all actions")
    }
    summed = forms["q, all actions"]
    for sampled in ("q, sampled", "q, sampled with baseline"):
        assert standard_errors_away(forms[sampled] - summed) < AGREES
        assert spread(summed) < 0.7 * spread(forms[sampled])


def spread(rows):
    """The sum of all components' variances."""
    return rows.var(axis=0, ddof=1).sum()


@pytest.fixture(scope="module")
def cut(policy):
    """Many short rollouts whose episodes are truncated after three steps."""
    rollout = roll(policy, problem_with(3), 1, 20_000, 12, jax.random.key(13))
    return jax.tree.map(lambda x: x[0], rollout)


def by_pair(rollout, residual):
    """Per environment, the sum of `residual` [T·B] over its visits to each (s, a)."""
    transition = rollout.transition
    pairs = np.asarray(transition.observation) * ACTIONS + np.asarray(transition.action)
    residual = np.asarray(residual, np.float64).reshape(pairs.shape)
    return np.stack([(residual * (pairs == pair)).sum(0) for pair in np.unique(pairs)], axis=1)


@pytest.mark.parametrize(
    "fields",
    [{"trace_decay": 0.0}, {"trace_decay": 0.6}, {"trace_decay": 1.0}, {"n_steps": 2}],
    ids=["one step", "between", "Monte Carlo", "two steps"],
)
def test_the_advantage_is_q_minus_v_on_average_whatever_ends_an_episode(policy, cut, exact, fields):
    algorithm = VPG(**{**PLAIN, "environments": 20_000, "rollout_length": 12}, value_minibatches=1, **fields)
    samples = algorithm.samples(prepared(algorithm, policy, exact), cut)
    values, action_values = exact
    state, action = np.asarray(cut.transition.observation), np.asarray(cut.transition.action)
    truth = (action_values[state, action] - values[state]).reshape(-1)
    assert standard_errors_away(by_pair(cut, samples.advantage - truth)) < AGREES
    assert standard_errors_away(by_pair(cut, samples.advantage)) > DIFFERS


def test_the_q_critics_target_is_sarsas(policy, cut, exact):
    """E[r + γ Q(s′, a′)] = Q(s, a) with a′ from the policy under the mask of s′, whatever ended the episode."""
    algorithm = QActorCritic(**{**COMMON, "environments": 20_000})
    state, age = prepared(algorithm, policy, exact), jnp.zeros((12, 20_000), jnp.int32)
    seen = [algorithm.samples(state, cut, age, jax.random.key(seed)).value_target for seed in (0, 1)]
    where = cut.transition
    truth = exact[1][np.asarray(where.observation), np.asarray(where.action)].reshape(-1)
    assert standard_errors_away(by_pair(cut, seen[0] - truth)) < AGREES
    # drawn anew for the target: not the action that was executed next, nor the same one twice
    assert np.mean(np.asarray(seen[0]) != np.asarray(seen[1])) > 0.1
    unmasked = eqx.tree_at(lambda r: r.next_action_mask, cut, jnp.ones_like(cut.next_action_mask))
    wrong = algorithm.samples(state, unmasked, age, jax.random.key(0)).value_target
    assert standard_errors_away(by_pair(cut, wrong - truth)) > DIFFERS
    greedy = where.reward + DISCOUNT * where.continues * exact[1].max(1)[np.asarray(where.next_observation)]
    assert standard_errors_away(by_pair(cut, greedy.reshape(-1) - truth)) > DIFFERS


BASELINES = ("none", "constant", "others", "time", "state")


def scores(baseline, policy, rollouts, exact, *, wrong=False):
    """Each group's sum of ∇log π · (G − b) γ^t over its usable episodes, and how many of these there are."""
    algorithm = Reinforce(**{**ROLLED, "rollout_length": TIME}, baseline=baseline, discounted_states=True)
    state = algorithm.init(problem_with(LIMIT), jax.random.key(0))
    networks = eqx.tree_at(lambda n: n.actor, state.networks, policy.network)
    values, action_values = exact
    if baseline == "constant":
        known = Average(jnp.asarray(MDP.initial_distribution @ values, jnp.float32), jnp.ones(()))
        state = eqx.tree_at(lambda s: s.average, state, known)
    if baseline == "state":
        critic = state.critic.network
        state = eqx.tree_at(lambda s: s.critic.network, state, with_critic(critic, values))

    def one(rollout):
        expected = algorithm.expected(state, rollout)
        if wrong:
            expected = jnp.asarray(action_values)[rollout.transition.observation, rollout.transition.action]
        steps = algorithm.steps(rollout, jnp.ones(COUNT, bool), 20, expected)
        gradient = jax.grad(lambda n: algorithm.loss(n, policy.inputs, steps)[0])(networks).actor
        begins = jnp.concatenate([jnp.ones((1, COUNT), bool), rollout.transition.unbroken[:-1] == 0])
        return -ravel_pytree(gradient)[0] * jnp.sum(steps.usable), jnp.sum(steps.usable & begins)

    sums, episodes = jax.jit(jax.vmap(one))(rollouts)
    return np.asarray(sums, np.float64), np.asarray(episodes, np.float64)[:, None]


def test_every_baseline_is_unbiased_and_reduces_the_variance(policy, rollouts, exact):
    """20 steps from the rollout's end 2e-4 of the episodes are cut, which 6,000 of them cannot show."""
    truth, spreads = exact_gradient(policy), {}
    for baseline in BASELINES:
        sums, episodes = scores(baseline, policy, rollouts, exact)
        assert standard_errors_away(sums - episodes * truth) < AGREES, baseline
        spreads[baseline] = spread(sums / episodes)
    assert all(spreads[name] < 0.8 * spreads["none"] for name in BASELINES[1:]), spreads
    assert spreads["state"] < min(spreads[name] for name in ("constant", "others", "time")), spreads


def test_a_baseline_that_knows_the_action_is_found_out(policy, rollouts, exact):
    sums, episodes = scores("constant", policy, rollouts, exact, wrong=True)
    assert standard_errors_away(sums - episodes * exact_gradient(policy)) > DIFFERS


def test_one_epoch_of_ppo_without_a_clip_is_a2c():
    """The same rollout, the same gradient, the same parameters after one Adam step."""
    fields = {
        "environments": 4,
        "rollout_length": 8,
        "hidden": (6,),
        "learning_rate": 1e-2,
        "normalise_advantage": False,
        "trace_decay": 0.9,
        "entropy_weight": 0.05,
    }
    problem = problem_with(LIMIT)
    after = []
    for algorithm in (A2C(**fields, optimiser="adam"), PPO(**fields, epochs=1, minibatches=1, clip=0.2)):
        state = algorithm.init(problem, jax.random.key(4))
        collected, data = algorithm.collect(problem, state)
        gradient = jax.grad(lambda n, a=algorithm, s=collected, d=data: a.loss(n, a.samples(s, d[0]))[0])(
            state.networks
        )
        new, _ = jax.jit(algorithm.update)(collected, data)
        after.append([np.asarray(ravel_pytree(x)[0]) for x in (gradient, new.networks)])
    (a2c_gradient, a2c_new), (ppo_gradient, ppo_new) = after
    np.testing.assert_allclose(a2c_gradient, ppo_gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(a2c_new, ppo_new, rtol=1e-4, atol=1e-6)
    assert np.abs(a2c_gradient).max() > 0.01
