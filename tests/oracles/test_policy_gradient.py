"""Policy gradients against the exact one, differentiated through the linear solve; and learners against the optimum.

The model is small enough to be solved (four states, three actions, one of them not available everywhere) and mean
enough to tell right from nearly right: rewards on transitions, episodes that end at random, discount 0.8.

An estimate agrees when every component's mean residual lies within 4.5 of its standard errors, which a right one
misses by chance in 1 of 10,000 runs (the keys are fixed, so it does not); the wrong variants lie beyond 8.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from reference import dense, optimal_values, policy_values, uniform_policy

from bellmark.algorithms.policy_gradient.acktr import ACKTR
from bellmark.algorithms.policy_gradient.natural_policy_gradient import NaturalPolicyGradient
from bellmark.algorithms.policy_gradient.ppo import PPO
from bellmark.algorithms.policy_gradient.ppo_penalty import PPOPenalty
from bellmark.algorithms.policy_gradient.reinforce import Reinforce
from bellmark.algorithms.policy_gradient.trpo import TRPO
from bellmark.envs.finite import FiniteEnvironment
from bellmark.envs.wrappers.time_limit import TimeLimit
from bellmark.experience.rollout import CompiledProblem
from bellmark.maths.distributions import mask_logits
from bellmark.maths.returns import generalised_advantage
from bellmark.mdp import FiniteMDP

DISCOUNT = 0.8
STATES, ACTIONS = 4, 3
AGREES, DIFFERS = 4.5, 8.0


def small_mdp():
    rng = np.random.default_rng(3)
    successors = rng.integers(0, STATES, (STATES, ACTIONS, 3))
    # the third branch ends the episode, with probability 0.35 whatever is done
    going_on = rng.dirichlet([1.0, 1.0], (STATES, ACTIONS)) * 0.65
    probabilities = np.concatenate([going_on, np.full((STATES, ACTIONS, 1), 0.35)], axis=-1)
    available = np.ones((STATES, ACTIONS), bool)
    available[2, 1] = False
    probabilities[2, 1] = 0.0
    return FiniteMDP.from_arrays(
        successors,
        probabilities,
        rng.normal(1.0, 2.0, (STATES, ACTIONS, 3)),
        available=available,
        terminations=np.broadcast_to([False, False, True], (STATES, ACTIONS, 3)),
        initial_distribution=[0.4, 0.3, 0.2, 0.1],
    )


MDP = small_mdp()
LIMIT = 36  # 0.65^36 = 2e-7 of the episodes would last longer
GROUPS, COUNT, TIME = 256, 16, 60


def problem_with(limit):
    return CompiledProblem(TimeLimit(FiniteEnvironment(MDP), limit), 10_000, limit)


def reinforce(**fields):
    defaults = {"environments": COUNT, "rollout_length": TIME, "hidden": (), "discount": DISCOUNT}
    return Reinforce(**{**defaults, **fields})


@pytest.fixture(scope="module")
def policy():
    """One logit per state and action, not near the uniform policy."""
    state = reinforce().init(problem_with(LIMIT), jax.random.key(0))
    policy = reinforce().policy(state)
    weight = jax.random.normal(jax.random.key(1), (STATES, ACTIONS))
    return eqx.tree_at(lambda p: p.network.layers[0].weight, policy, weight)


def probabilities(policy):
    logits = policy.network(jnp.eye(STATES))
    return jax.nn.softmax(mask_logits(logits, jnp.asarray(MDP.available)))


def exact_gradient(policy):
    """∇ Σ_s μ(s) V^π(s), V^π = (I − γP_π)⁻¹ r_π, as one vector."""
    table, rewards, _ = (jnp.asarray(x, jnp.float32) for x in dense(MDP))

    def objective(network):
        pi = probabilities(eqx.tree_at(lambda p: p.network, policy, network))
        chain = jnp.einsum("sa,sat->st", pi, table)
        values = jnp.linalg.solve(jnp.eye(STATES) - DISCOUNT * chain, (pi * rewards).sum(1))
        return jnp.asarray(MDP.initial_distribution, jnp.float32) @ values

    return np.asarray(ravel_pytree(jax.grad(objective)(policy.network))[0], np.float64)


def roll(policy, problem, groups, count, time, key):
    """[groups] independent rollouts of fresh episodes."""

    def one(key):
        first, second = jax.random.split(key)
        _, rollout, _ = problem.rollout(policy, problem.start(first, count), second, time)
        return rollout

    return jax.jit(jax.vmap(one))(jax.random.split(key, groups))


@pytest.fixture(scope="module")
def rollouts(policy):
    return roll(policy, problem_with(LIMIT), GROUPS, COUNT, TIME, jax.random.key(2))


def scores(algorithm, policy, rollouts, limit=LIMIT):
    """The sums of ∇log π · score over each group's usable episodes, and how many of these there are.

    By Wald's identity E[sum] = E[episodes] · ∇J, also where the number of episodes depends on their lengths.
    """
    networks = reinforce().init(problem_with(LIMIT), jax.random.key(0)).networks
    networks = eqx.tree_at(lambda n: n.actor, networks, policy.network)

    def one(rollout):
        steps = algorithm.steps(rollout, jnp.ones(COUNT, bool), limit)
        gradient = jax.grad(lambda networks: algorithm.loss(networks, policy.inputs, steps)[0])(networks)
        begins = jnp.concatenate([jnp.ones((1, COUNT), bool), rollout.transition.unbroken[:-1] == 0])
        episodes = jnp.sum(steps.usable & begins)
        return -ravel_pytree(gradient.actor)[0] * jnp.sum(steps.usable), episodes

    sums, episodes = jax.jit(jax.vmap(one))(rollouts)
    return np.asarray(sums, np.float64), np.asarray(episodes, np.float64)


def standard_errors_away(residuals):
    """How far the mean of independent rows is from 0, in its standard errors: the worst component."""
    error = residuals.std(axis=0, ddof=1) / len(residuals) ** 0.5
    return np.max(np.abs(residuals.mean(axis=0)) / np.maximum(error, 1e-12))


def test_exact_gradient_is_the_slope_of_the_exact_value(policy):
    """Differences of reference values, so that the oracle itself is not taken on trust."""
    vector, unravel = ravel_pytree(policy.network)

    def value(vector):
        moved = eqx.tree_at(lambda p: p.network, policy, unravel(jnp.asarray(vector, jnp.float32)))
        return MDP.initial_distribution @ policy_values(
            MDP, np.asarray(probabilities(moved), float), DISCOUNT
        )

    slopes = [(value(vector + 0.05 * e) - value(vector - 0.05 * e)) / 0.1 for e in np.eye(len(vector))]
    np.testing.assert_allclose(exact_gradient(policy), slopes, atol=2e-3)  # 0.05² of the third derivative
    assert np.abs(slopes).max() > 0.1


@pytest.mark.parametrize("baseline", ["none", "others"])
@pytest.mark.parametrize("reward_to_go", [True, False])
def test_reinforce_estimates_the_exact_gradient(policy, rollouts, baseline, reward_to_go):
    algorithm = reinforce(baseline=baseline, reward_to_go=reward_to_go, discounted_states=True)
    sums, episodes = scores(algorithm, policy, rollouts)
    assert standard_errors_away(sums - episodes[:, None] * exact_gradient(policy)) < AGREES


WRONG = {
    "the states are not discounted": {"discounted_states": False},
    "the rewards are not discounted": {"discounted_states": True, "discount": 1.0},
}


@pytest.mark.parametrize("variant", WRONG)
def test_a_wrong_gradient_is_found_out(policy, rollouts, variant):
    sums, episodes = scores(reinforce(**WRONG[variant]), policy, rollouts)
    assert standard_errors_away(sums - episodes[:, None] * exact_gradient(policy)) > DIFFERS


def test_the_wrong_sign_is_found_out(policy, rollouts):
    sums, episodes = scores(reinforce(discounted_states=True), policy, rollouts)
    assert standard_errors_away(-sums - episodes[:, None] * exact_gradient(policy)) > DIFFERS


def test_choosing_episodes_that_happen_to_end_is_found_out(policy, rollouts):
    """In six steps mostly the short ones end; `limit` 1 takes them all as if none could be longer."""
    short = jax.tree.map(lambda x: x[:, :6], rollouts)
    sums, episodes = scores(reinforce(discounted_states=True, rollout_length=6), policy, short, limit=1)
    assert standard_errors_away(sums - episodes[:, None] * exact_gradient(policy)) > DIFFERS


@pytest.fixture(scope="module")
def cut(policy):
    """Rollouts whose episodes are truncated after three steps, with V^π known: reward, values, and A^π(s, a)."""
    environments, time = 20_000, 12
    rollout = roll(policy, problem_with(3), 1, environments, time, jax.random.key(3))
    transition = jax.tree.map(lambda x: x[0], rollout.transition)
    values = policy_values(MDP, np.asarray(probabilities(policy), float), DISCOUNT)
    table, rewards, _ = dense(MDP)
    exact = rewards + DISCOUNT * table @ values - values[:, None]
    assert np.asarray(transition.truncated).mean() > 0.1
    assert np.asarray(transition.terminated).mean() > 0.2
    return transition, jnp.asarray(values, jnp.float32), exact


def advantage_residuals(cut, next_state=None, continues=None, discount=DISCOUNT):
    """Per environment, the sum of Â − A over its visits to each (s, a): of mean 0 if E[Â | s, a] = A(s, a)."""
    transition, values, exact = cut
    state, action = transition.observation, transition.action
    estimate = generalised_advantage(
        transition.reward,
        values[state],
        values[transition.next_observation if next_state is None else next_state],
        transition.continues if continues is None else continues,
        transition.unbroken,
        discount,
        0.9,
    )
    state, action = np.asarray(state), np.asarray(action)
    residual = np.asarray(estimate, np.float64) - exact[state, action]
    pairs = state * ACTIONS + action
    return np.stack([(residual * (pairs == pair)).sum(0) for pair in np.unique(pairs)], axis=1)


def test_advantages_are_exact_on_average_whatever_ends_an_episode(cut):
    assert standard_errors_away(advantage_residuals(cut)) < AGREES


def test_wrong_endings_are_found_out(cut):
    transition = cut[0]
    wrong = {
        "truncation treated as termination": {"continues": transition.unbroken},
        "bootstrapped at termination": {"continues": jnp.ones_like(transition.continues)},
        "the successor is the next episode's first state": {
            "next_state": jnp.concatenate([transition.observation[1:], transition.next_observation[-1:]])
        },
        "no discount": {"discount": 1.0},
    }
    for what, changed in wrong.items():
        assert standard_errors_away(advantage_residuals(cut, **changed)) > DIFFERS, what


TABULAR = {"environments": 16, "hidden": (), "discount": DISCOUNT, "entropy_weight": 0.0}
# a step of a fixed length per update settles as near as the length and the noise allow: short steps, large batches
TRUSTED = {**TABULAR, "rollout_length": 128, "damping": 1e-3, "value_learning_rate": 0.02, "kl_limit": 0.003}
LEARNERS = {
    "ppo": (PPO(**TABULAR, rollout_length=32, learning_rate=0.05), 150),
    "reinforce": (Reinforce(**TABULAR, rollout_length=80, learning_rate=0.1), 500),
    "natural policy gradient": (NaturalPolicyGradient(**TRUSTED), 150),
    "trpo": (TRPO(**TRUSTED), 150),
    "ppo-penalty": (PPOPenalty(**TABULAR, rollout_length=32, learning_rate=0.05, kl_target=0.02), 150),
    "acktr": (ACKTR(**TABULAR, rollout_length=20), 250),
}
"""Learners and their iterations: until two actions are told apart whose values differ by 1 % (4.03 and 4.07)."""


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_find_the_optimal_policy(name):
    """The most probable actions are optimal; the policy as it acts has closed 99 % of the gap it began with."""
    algorithm, iterations = LEARNERS[name]
    problem = CompiledProblem(
        TimeLimit(FiniteEnvironment(MDP), LIMIT), iterations * algorithm.steps_per_iteration(None), LIMIT
    )

    @jax.jit
    def train(state):
        return jax.lax.scan(lambda s, _: (algorithm.step(problem, s)[0], None), state, length=iterations)[0]

    learned = algorithm.policy(train(algorithm.init(problem, jax.random.key(0))))
    acts = np.asarray(learned.distribution(jnp.arange(STATES), jnp.asarray(MDP.available)).log_probs)
    optimum = optimal_values(MDP, DISCOUNT)

    def gap(policy):
        return float(MDP.initial_distribution @ (optimum - policy_values(MDP, policy, DISCOUNT)))

    greedy = np.eye(ACTIONS)[acts.argmax(-1)]
    assert gap(greedy) < 1e-9
    assert gap(np.exp(acts, dtype=float)) < 0.01 * gap(uniform_policy(MDP))
