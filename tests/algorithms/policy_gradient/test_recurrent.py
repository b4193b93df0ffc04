"""PPO and A2C with memory: what they rebuild is what acted, and what is remembered stays in its episode."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.algorithms.policy_gradient.ppo import PPO
from bellmark.algorithms.policy_gradient.recurrent_a2c import Networks as A2CNetworks
from bellmark.algorithms.policy_gradient.recurrent_a2c import RecurrentA2C, RecurrentA2CState
from bellmark.algorithms.policy_gradient.recurrent_ppo import RecurrentPPO, chosen
from bellmark.envs.gymnasium import HostEnvironments
from bellmark.envs.to_gymnasium import ToGymnasium
from bellmark.errors import BadInput
from bellmark.experience.host_rollout import HostProblem
from bellmark.experience.rollout import CompiledProblem, episode_metrics
from recurrent_environments import Everything, Recall
from small_environments import Tracking

KEY = jax.random.key(0)
TIME, COUNT, SIZE = 12, 2, 5
SMALL = {"environments": COUNT, "rollout_length": TIME, "hidden": (6,), "memory": SIZE, "discount": 0.9}
PPO_SMALL = RecurrentPPO(**SMALL, minibatches=1, epochs=1, normalise_observations=True)
A2C_SMALL = RecurrentA2C(**SMALL, normalise_observations=True)


def second_rollout(algorithm, problem):
    """After one whole iteration: parameters that have learned, moments that have seen, a memory that is not zeros."""
    state = algorithm.init(problem, KEY)
    state, data = algorithm.collect(problem, state)
    state, _ = jax.jit(algorithm.update)(state, data)
    return state, *algorithm.collect(problem, state)


def compiled(algorithm, environment):
    problem = CompiledProblem(environment, 1000, None)
    collect = jax.jit(lambda state: algorithm.collect(problem, state))
    state, data = collect(algorithm.init(problem, KEY))
    state, _ = jax.jit(algorithm.update)(state, data)
    return state, *collect(state)


def on_host(algorithm, environment):
    environments = HostEnvironments(lambda: ToGymnasium(environment), COUNT, "test")
    try:
        return second_rollout(algorithm, HostProblem.open(environments, 1000, None, seed=0))
    finally:
        environments.close()


CASES = {
    "ppo, everything": (PPO_SMALL, Everything(), compiled),
    "ppo, everything, Gymnasium": (PPO_SMALL, Everything(), on_host),
    "a2c, everything": (A2C_SMALL, Everything(ends="terminated"), compiled),
    "ppo, continuous": (PPO_SMALL, Tracking(), compiled),
}


@pytest.fixture(scope="module")
def rollouts():
    return {}


def rolled_once(case, rollouts):
    algorithm, environment, how = CASES[case]
    if case not in rollouts:
        rollouts[case] = how(algorithm, environment)
    return rollouts[case]


@pytest.fixture(params=CASES)
def rolled(request, rollouts):
    return CASES[request.param][0], *rolled_once(request.param, rollouts)


def by_hand(algorithm, before, data):
    """Memory, outputs and values of a rollout, one step of one environment at a time; V(s′) of the true successor."""
    memory, rollout, _ = data
    networks, inputs, transition = before.networks, before.inputs, rollout.transition
    seen, following = inputs(transition.observation), inputs(transition.next_observation)
    outputs, values, next_values = [], [], []
    for t in range(TIME):
        memory = networks.core(seen[t], memory)
        outputs.append(networks.actor(memory))
        values.append(networks.critic(memory)[:, 0])
        next_values.append(networks.critic(networks.core(following[t], memory))[:, 0])
        memory = memory * transition.unbroken[t][:, None]
    advantage, later = np.zeros((TIME, COUNT)), np.zeros(COUNT)
    for t in reversed(range(TIME)):
        target = transition.reward[t] + algorithm.discount * transition.continues[t] * next_values[t]
        later = (
            target - values[t] + algorithm.discount * algorithm.trace_decay * transition.unbroken[t] * later
        )
        advantage[t] = later
    return memory, np.stack(outputs), np.stack(values), advantage


def test_what_is_rebuilt_is_what_acted(rolled):
    algorithm, before, after, data = rolled
    memory, outputs, values, advantage = by_hand(algorithm, before, data)
    assert np.any(data[0]), "the rollout began with an empty memory"
    transition = data[1].transition
    assert np.any(transition.terminated | transition.truncated)
    np.testing.assert_allclose(data[1].remembered, outputs, atol=2e-6)
    np.testing.assert_allclose(after.episodes.memory, memory, atol=2e-6)
    made = algorithm.unrolled(before, *data[:2])
    np.testing.assert_allclose(made.value, values, atol=5e-6)
    np.testing.assert_allclose(made.advantage, advantage, atol=5e-5)
    np.testing.assert_allclose(made.value_target, advantage + values, atol=5e-5)


@pytest.mark.parametrize(
    "rolled", [case for case in CASES if CASES[case][0].name == "recurrent_ppo"], indirect=True
)
def test_the_ratio_is_one_before_the_first_step(rolled):
    algorithm, before, _, data = rolled
    for length in (None, 4):
        cut = dataclasses.replace(algorithm, sequence_length=length)
        sequences = cut.unrolled(before, *data[:2])
        _, metrics = cut.loss(before.networks, sequences)
        assert float(metrics["policy/clipped"]) == 0
        assert float(metrics["policy/kl"]) == pytest.approx(0, abs=1e-10)
        memories = before.networks.core.unroll(sequences.features, sequences.begins, sequences.memory)
        distribution = before.networks.head.distribution(
            before.networks.actor(memories), sequences.action_mask
        )
        # other shapes round differently
        np.testing.assert_allclose(distribution.log_prob(sequences.action), sequences.log_prob, atol=5e-6)


def test_forgotten_where_an_episode_ends(rolled):
    """After 24 steps the episodes of 8 are at a beginning, those of 5 under way."""
    _, _, after, (_, rollout, _) = rolled
    ended = np.asarray(rollout.transition.unbroken[-1]) == 0
    assert np.all(np.any(np.asarray(after.episodes.memory) != 0, axis=1) == ~ended)
    assert np.all((np.asarray(after.episodes.length) == 0) == ended)


def test_compiled_and_gymnasium_give_the_same_advantages(rollouts):
    """The environment is not random, so the same keys give the same steps."""
    results = []
    for case in ("ppo, everything", "ppo, everything, Gymnasium"):
        before, _, data = rolled_once(case, rollouts)
        results.append((data[1], PPO_SMALL.unrolled(before, *data[:2])))
    (one, a), (other, b) = results
    np.testing.assert_array_equal(one.transition.action, other.transition.action)
    np.testing.assert_array_equal(one.action_mask, other.action_mask)
    np.testing.assert_allclose(one.remembered, other.remembered, atol=1e-5)
    np.testing.assert_allclose(a.advantage, b.advantage, atol=1e-4)
    np.testing.assert_allclose(a.memory, b.memory, atol=1e-5)


def test_sequences_are_consecutive_steps_of_one_environment(rollouts):
    algorithm = dataclasses.replace(PPO_SMALL, sequence_length=4)
    before, _, (memory, rollout, _) = rolled_once("ppo, continuous", rollouts)
    whole = PPO_SMALL.unrolled(before, memory, rollout)
    cut = algorithm.unrolled(before, memory, rollout)
    assert cut.log_prob.shape == (4, 3 * COUNT)
    for s in range(3 * COUNT):
        part, environment = divmod(s, COUNT)
        np.testing.assert_array_equal(
            cut.action[:, s], rollout.transition.action[4 * part : 4 * part + 4, environment]
        )
        np.testing.assert_array_equal(
            cut.advantage[:, s], whole.advantage[4 * part : 4 * part + 4, environment]
        )
    np.testing.assert_array_equal(cut.memory[:COUNT], memory)
    picked = chosen(cut, jnp.array([4, 1]))
    np.testing.assert_array_equal(picked.action[:, 0], cut.action[:, 4])
    np.testing.assert_array_equal(picked.memory[1], cut.memory[1])


def test_one_epoch_of_ppo_is_a2c(rollouts):
    """Without a ratio to clip, both descend the same gradient, through all steps of the memory."""
    ppo = dataclasses.replace(PPO_SMALL, normalise_advantage=False)
    before, _, (memory, rollout, _) = rolled_once("ppo, continuous", rollouts)
    of_ppo = jax.grad(lambda n: ppo.loss(n, ppo.unrolled(before, memory, rollout))[0])(before.networks)
    a2c = dataclasses.replace(A2C_SMALL, trace_decay=ppo.trace_decay)
    networks = A2CNetworks(**vars(before.networks))
    same = RecurrentA2CState(**{**vars(before), "networks": networks})
    of_a2c = jax.grad(lambda n: a2c.loss(n, a2c.unrolled(same, memory, rollout))[0])(networks)
    for one, other in zip(jax.tree.leaves(of_ppo), jax.tree.leaves(of_a2c), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def mean_return(algorithm, problem, iterations):
    """The mean return of the episodes of the last tenth of the training."""
    state = algorithm.init(problem, KEY)
    step = lambda state, _: algorithm.step(problem, state)  # noqa: E731
    _, metrics = jax.jit(lambda s: jax.lax.scan(step, s, None, iterations))(state)
    return float(np.mean(metrics["episode/return"][-iterations // 10 :]))


LEARN = {"environments": 16, "rollout_length": 20, "anneal": False, "discount": 1.0, "entropy_weight": 0.01}


def test_a_task_of_memory_is_solved_with_memory_and_not_without():
    problem = CompiledProblem(Recall(), 1000, None)
    learn = {**LEARN, "learning_rate": 5e-3, "minibatches": 2}
    assert mean_return(RecurrentPPO(**learn, hidden=(8,), memory=12), problem, 120) > 0.9
    # without memory the expected return is exactly 0; 12 × 64 episodes stray by 0.04
    assert abs(mean_return(PPO(**learn, hidden=(8,)), problem, 120)) < 0.15


def test_a2c_solves_it_too():
    problem = CompiledProblem(Recall(length=3), 1000, None)
    learner = RecurrentA2C(**LEARN, hidden=(8,), memory=12, learning_rate=1e-2, optimiser="adam")
    assert mean_return(learner, problem, 300) > 0.9


@pytest.mark.parametrize(
    "fields, words",
    [
        (
            {"sequence_length": 5},
            r"sequence_length is 5, which does not divide rollout_length = 12; allowed: 1, 2, 3",
        ),
        ({"sequence_length": 0}, "sequence_length is 0; allowed: at least 1"),
        ({"minibatches": 3}, r"minibatches is 3, which does not divide environments = 2; allowed: 1, 2"),
        (
            {"sequence_length": 6, "minibatches": 8},
            "minibatches is 8, which does not divide environments × sequences per rollout = 4",
        ),
        ({"hidden": ()}, r"hidden is \(\); allowed: at least one layer"),
        ({"memory": 0}, "memory is 0; allowed: at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(fields, words):
    algorithm = dataclasses.replace(PPO_SMALL, **fields)
    with pytest.raises(BadInput, match=words):
        algorithm.check(CompiledProblem(Tracking(), 1000, None))


def test_masks_that_allow_nothing_are_counted():
    problem = CompiledProblem(Everything(impossible=2), 1000, None)
    _, (_, rollout, finished) = PPO_SMALL.collect(problem, PPO_SMALL.init(problem, KEY))
    # steps 2 to 4 of every five, of 12
    assert int(episode_metrics(finished)["broken/masks"]) == COUNT * TIME // 2
    assert "broken/masks" not in episode_metrics(dataclasses.replace(finished, broken_masks=None))
    assert rollout.action_mask.shape == (TIME, COUNT, 5)
