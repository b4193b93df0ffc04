"""The actor–critics with a replay memory: targets against numbers worked by hand, and what they refuse."""

import math
from types import SimpleNamespace

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bellmark.algorithms.continuous import ddpg, discrete_sac, sac, td3
from bellmark.envs.classic_control.pendulum import Pendulum
from bellmark.envs.wrappers.time_limit import TimeLimit
from bellmark.errors import BadInput
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.replay import Batch
from bellmark.experience.rollout import CompiledProblem
from bellmark.networks.actors import Bounds, Critic, Critics, NoisyHead, SquashedHead
from bellmark.networks.mlp import MLP, Linear

INPUTS = Inputs.start(gymnasium.spaces.Box(-np.inf, np.inf, (1,)))
BOUNDS = Bounds((-1.0,), (1.0,), (1,))


def linear(weights, bias=0.0):
    """A network without hidden layers: one output per column."""
    weights = jnp.asarray(weights, jnp.float32)
    return MLP((Linear(weights, jnp.full(weights.shape[1], bias)),), "relu")


# Q₁ = 2 s + a, Q₂ = 1 + s − a
FIRST, SECOND = Critic(linear([[2.0], [1.0]])), Critic(linear([[1.0], [-1.0]], 1.0))
BOTH, ACTOR = Critics((FIRST, SECOND)), linear([[1.0]])
BATCH = Batch(
    observation=jnp.zeros((3, 1)),
    action=jnp.zeros((3, 1)),
    reward=jnp.array([1.0, 2.0, 3.0]),
    discount=jnp.array([0.9, 0.0, 0.81]),
    next_observation=jnp.array([[1.0], [5.0], [-2.0]]),
    next_action_mask=None,
)


def test_sac_targets_are_the_numbers_worked_by_hand():
    """a′ = tanh(0 + 1 · ε) with mean 0 and σ = 1 whatever the state; log π = log N(ε) − log(1 − a′²)."""
    learned = sac.Learned(linear([[0.0, 0.0]]), BOTH, BOTH, jnp.log(jnp.float32(0.2)), None)
    noise = jnp.array([[0.5], [0.0], [-1.0]])
    got = sac.SAC().targets(learned, INPUTS, BATCH, noise)
    wanted = []
    for r, c, s, e in zip([1, 2, 3], [0.9, 0, 0.81], [1, 5, -2], [0.5, 0, -1], strict=True):
        a = math.tanh(e)
        log_prob = -0.5 * e * e - 0.5 * math.log(2 * math.pi) - math.log(1 - a * a)
        wanted.append(r + c * (min(2 * s + a, 1 + s - a) - 0.2 * log_prob))
    # by hand once: min(2.4621, 1.5379) = 1.5379, log π = −0.8038, 1 + 0.9 (1.5379 + 0.1608)
    assert wanted[0] == pytest.approx(2.5288, abs=1e-4)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_td3_targets_clip_the_noise_and_the_noisy_action():
    # μ̂(s) = tanh(s); noise 0.2 · ε held within ±0.5, then the action within ±1
    learned = td3.Learned(ACTOR, BOTH, ACTOR, BOTH, None, jnp.int32(0))
    got = td3.TD3().targets(learned, INPUTS, BATCH, jnp.array([[10.0], [0.0], [1.0]]))
    # tanh 1 + 0.5 → 1: min(3, 1) = 1;   tanh −2 + 0.2 = −0.764028: min(−4.764028, −0.235972)
    np.testing.assert_allclose(got, [1 + 0.9, 2.0, 3 - 0.81 * 4.764028], rtol=1e-5)


def test_ddpg_targets_are_the_critics_value_of_the_target_actors_action():
    learned = ddpg.Learned(ACTOR, SECOND, ACTOR, FIRST, None)
    got = ddpg.DDPG().targets(learned, INPUTS, BATCH)
    np.testing.assert_allclose(
        got, [1 + 0.9 * (2 + math.tanh(1)), 2, 3 + 0.81 * (-4 + math.tanh(-2))], rtol=1e-5
    )


def test_discrete_sac_targets_are_summed_over_the_actions():
    """π = (¾, ¼) from logits (log 3, 0); Q₁ = (s, 2s), Q₂ = (1, −s)."""
    learned = discrete_sac.Learned(
        MLP((Linear(jnp.zeros((1, 2)), jnp.array([math.log(3.0), 0.0])),), "relu"),
        (),
        (
            linear([[1.0, 2.0]]),
            MLP((Linear(jnp.array([[0.0, -1.0]]), jnp.array([1.0, 0.0])),), "relu"),
        ),
        jnp.log(jnp.float32(0.5)),
        None,
    )
    got = discrete_sac.DiscreteSAC().targets(learned, INPUTS, BATCH)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    # s = 1: min (1, −1); s = −2: min (−2, −4)
    wanted = [1 + 0.9 * (0.75 - 0.25 + 0.5 * entropy), 2.0, 3 + 0.81 * (-1.5 - 1.0 + 0.5 * entropy)]
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    only_second = eqx.tree_at(
        lambda b: b.next_action_mask, BATCH, jnp.array([[False, True]] * 3), is_leaf=lambda x: x is None
    )
    masked = discrete_sac.DiscreteSAC().targets(learned, INPUTS, only_second)
    np.testing.assert_allclose(masked, [1 - 0.9, 2.0, 3 - 0.81 * 4], rtol=1e-5)


ODD = gymnasium.spaces.Box(
    np.array([[-3.0, 0.0], [1.0, -10.0]]), np.array([[1.0, 0.5], [1.5, 10.0]]), dtype=np.float64
)


def test_actions_are_scaled_to_any_box():
    bounds = Bounds.of(ODD, "sac")
    corners = np.float32([[-1] * 4, [1] * 4, [0] * 4])
    scaled = bounds.action(corners)
    assert scaled.shape == (3, 2, 2)
    np.testing.assert_allclose(scaled, [ODD.low, ODD.high, (ODD.low + ODD.high) / 2], atol=1e-6)
    rng = np.random.default_rng(0)
    unit = rng.uniform(-1, 1, (5, 7, 4)).astype(np.float32)
    np.testing.assert_allclose(bounds.unit(bounds.action(unit)), unit, atol=1e-5)
    one = Bounds.of(gymnasium.spaces.Box(2.0, 2.0, (1,)), "sac")
    assert np.isfinite(one.unit(one.action(corners[:, :1]))).all()


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("kind", ["squashed", "noisy"])
def test_actors_on_the_host_are_the_compiled_ones(kind, uniform):
    bounds, flag = Bounds.of(ODD, "sac"), jnp.array(uniform)
    head = SquashedHead(flag, bounds) if kind == "squashed" else NoisyHead(jnp.float32(0.3), flag, bounds)
    network = MLP.start(3, (8,), head.outputs, jax.random.key(0))
    policy = StochasticPolicy(Inputs.start(gymnasium.spaces.Box(-1, 1, (3,))), network, head)
    observation = np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32)
    noise = np.asarray(policy.randomness(jax.random.key(1), (500,)))
    actor = policy.on_host()
    compiled = np.asarray(policy(jnp.asarray(observation), jnp.asarray(noise))[0])
    hosted = actor(observation, noise)[0]
    assert compiled.shape == (500, 2, 2)
    np.testing.assert_allclose(hosted, compiled, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        actor(observation, 0.0)[0], policy.mode(jnp.asarray(observation)), rtol=1e-4, atol=1e-4
    )
    assert (compiled >= ODD.low - 1e-5).all()
    assert (compiled <= ODD.high + 1e-5).all()
    if uniform:
        share = (compiled - ODD.low) / (ODD.high - ODD.low)
        for component in share.reshape(500, 4).T:
            assert stats.kstest(component, "uniform").pvalue > 1e-3


SMALL = {"environments": 2, "rollout_length": 4, "train_every": 4, "hidden": (8,), "batch_size": 8}
SMALL |= {"learning_start": 16, "replay_capacity": 64}
PROBLEM = CompiledProblem(TimeLimit(Pendulum(), 7), 400, 7)


@pytest.mark.parametrize(
    "head",
    [SquashedHead(jnp.array(False), BOUNDS, 4), NoisyHead(jnp.array(0.5), jnp.array(False), BOUNDS, 4)],
)
def test_held_noise_is_that_of_the_steps_before(head):
    noise = np.asarray(head.noise(jax.random.key(0), (8, 2)))
    assert noise.shape == (8, 2, 1)
    assert (noise[:4] == noise[0]).all()
    assert (noise[4:] == noise[4]).all()
    assert len(np.unique(noise)) == 4
    # held for one step it is what it always was
    plain = SquashedHead(jnp.array(False), BOUNDS).noise(jax.random.key(0), (8, 2))
    np.testing.assert_array_equal(plain, jax.random.normal(jax.random.key(0), (8, 2, 1)))


def stepped(algorithm, count):
    one = jax.jit(lambda state: algorithm.step(PROBLEM, state))
    states, rows = [algorithm.init(PROBLEM, jax.random.key(0))], []
    for _ in range(count):
        state, row = one(states[-1])
        states.append(state)
        rows.append(row)
    return states, rows


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


@pytest.fixture(scope="module")
def td3_steps():
    """States before and after six iterations of two updates each; learning starts with the second."""
    return stepped(td3.TD3(**SMALL, policy_delay=3), 6)


def test_td3_moves_its_actor_and_its_targets_with_every_third_update(td3_steps):
    states, rows = td3_steps
    assert [int(s.learned.updates) for s in states] == [0, 0, 2, 4, 6, 8, 10]
    assert float(rows[0]["loss/critic"]) == 0.0 < float(rows[1]["loss/critic"])
    assert same(states[2].learned.actor, states[0].learned.actor)  # after 2 updates
    assert same(states[2].learned.target_critics, states[0].learned.target_critics)
    assert not same(states[2].learned.critics, states[0].learned.critics)
    assert not same(states[3].learned.actor, states[2].learned.actor)  # after 4, of which the third
    assert not same(states[3].learned.target_actor, states[2].learned.target_actor)
    assert same(states[5].learned.actor, states[4].learned.actor)  # 7 and 8


def test_states_are_arrays_and_stored_actions_lie_in_the_box(td3_steps):
    states, _ = td3_steps
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(states[0]))
    action = np.asarray(states[-1].replay.stored.action)
    assert action.shape == (64, 1)
    assert 1.0 < np.abs(action).max() <= 2.0  # Pendulum's torque reaches ±2


def test_sac_moves_its_targets_slowly_and_its_temperature_towards_the_wanted_entropy():
    algorithm = sac.SAC(**SMALL, temperature=0.5, target_rate=0.25)
    states, rows = stepped(algorithm, 3)
    before, after = states[1].learned, states[2].learned
    assert same(before.targets, states[0].learned.critics)
    assert not same(after.targets, before.targets)
    # at first the policy is nearly uniform, with an entropy far above −1: α falls
    assert float(rows[1]["policy/entropy"]) > -1.0
    assert float(after.log_temperature) < math.log(0.5)
    fixed = stepped(sac.SAC(**SMALL, temperature=0.5, automatic_temperature=False), 3)[0]
    assert float(fixed[-1].learned.log_temperature) == pytest.approx(math.log(0.5))


def problem_of(action_space=None, observation_space=None):
    return SimpleNamespace(
        observation_space=observation_space or gymnasium.spaces.Box(-1, 1, (3,)),
        action_space=action_space or gymnasium.spaces.Box(-1, 1, (2,)),
        budget=10_000,
        time_limit=None,
        compiled=True,
    )


@pytest.mark.parametrize(
    "algorithm, problem, message",
    [
        (
            sac.SAC(),
            problem_of(gymnasium.spaces.Discrete(2)),
            "the action space must be a Box; it is Discrete",
        ),
        (td3.TD3(), problem_of(gymnasium.spaces.Discrete(2)), "td3 acts in continuous spaces"),
        (
            ddpg.DDPG(),
            problem_of(gymnasium.spaces.Box(-np.inf, 1, (2,))),
            "has no bounds; finite ones are needed",
        ),
        (
            sac.SAC(),
            problem_of(gymnasium.spaces.Box(0, 5, (2,), np.int32)),
            "is a Box of int32; sac allows floats",
        ),
        (discrete_sac.DiscreteSAC(), problem_of(), "the action space must be Discrete; it is Box"),
        (
            sac.SAC(),
            problem_of(observation_space=gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)),
            "sac reads vectors, and the observations are images",
        ),
        (sac.SAC(batch_size=2000), problem_of(), "batch_size is 2,000, and when learning starts 1,000"),
        (
            td3.TD3(learning_start=20_000),
            problem_of(),
            "the run has 10,000 steps: learning would never start",
        ),
        (ddpg.DDPG(replay_capacity=500), problem_of(), "the replay holds 500: learning would never start"),
        (sac.SAC(train_every=3), problem_of(), "train_every is 3, which does not divide"),
        (sac.SAC(noise_hold=3), problem_of(), "noise_hold is 3, which does not divide rollout_length = 4"),
        (td3.TD3(policy_delay=0), problem_of(), "policy_delay is 0; allowed: at least 1"),
        (td3.TD3(target_noise=-1.0), problem_of(), "target_noise is -1.0; allowed: at least 0"),
        (sac.SAC(temperature=0.0), problem_of(), "temperature is 0.0; allowed: more than 0"),
        (sac.SAC(gradient_steps=0), problem_of(), "gradient_steps is 0; allowed: at least 1"),
    ],
)
def test_what_cannot_work_is_refused_before_any_step(algorithm, problem, message):
    with pytest.raises(BadInput, match=message):
        algorithm.check(problem)
