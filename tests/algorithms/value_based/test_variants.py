"""Targets of C51, QR-DQN, Rainbow, PQN and deep SARSA against numbers worked by hand, and what they refuse."""

from types import SimpleNamespace

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.algorithms.value_based.c51 import C51
from bellmark.algorithms.value_based.deep_sarsa import DeepSarsa, DeepSarsaState, Waiting, followed
from bellmark.algorithms.value_based.from_memory import Learned
from bellmark.algorithms.value_based.pqn import PQN, PQNState
from bellmark.algorithms.value_based.qr_dqn import QRDQN
from bellmark.algorithms.value_based.rainbow import Rainbow
from bellmark.errors import BadInput
from bellmark.experience.policy import HostPolicy, Inputs, StochasticPolicy
from bellmark.experience.replay import Batch
from bellmark.networks.mlp import MLP, Linear
from bellmark.networks.values import ActionValues, CategoricalValues, EpsilonGreedyHead, QuantileValues
from bellmark.types import Episodes, Rollout, Transition

INPUTS = Inputs.start(gymnasium.spaces.Discrete(3))
BATCH = Batch(
    observation=jnp.array([0, 0, 0]),
    action=jnp.array([0, 1, 0]),
    reward=jnp.array([1.0, 2.0, 0.5]),
    discount=jnp.array([0.5, 0.0, 0.25]),
    next_observation=jnp.array([0, 1, 2]),
    next_action_mask=None,
)


EPISODES = Episodes(None, jnp.zeros(1, jnp.int32), None, jnp.zeros(1), jnp.zeros(1, jnp.int32))


def table(rows):
    """A network without hidden layers over three numbered states: its weights are its outputs."""
    rows = jnp.float32(rows).reshape(3, -1)
    return MLP((Linear(rows, jnp.zeros(rows.shape[1])),), "relu")


def learned(online, target):
    return Learned(table(online), table(target), None, None, jnp.int32(0))


def point(atom, count=5):
    """Logits of the distribution that is all at one atom."""
    return [30.0 if i == atom else 0.0 for i in range(count)]


CATEGORICAL = CategoricalValues(2, 5, 0.0, 4.0)
# per state and action the atom that the target network is sure of, and the online one
TARGET = [[point(2), point(4)], [point(0), point(1)], [point(4), point(2)]]
ONLINE = [[point(4), point(0)], [point(0), point(1)], [point(0), point(1)]]


def test_c51_moves_the_best_actions_distribution():
    # Q̂ prefers 4, 1, 4: 1 + 0.5 · 4 = 3;  2 + 0 = 2;  0.5 + 0.25 · 4 = 1.5
    m = C51(atoms=5).targets(learned(ONLINE, TARGET), INPUTS, CATEGORICAL, BATCH)
    np.testing.assert_allclose(m, [[0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0.5, 0.5, 0, 0]], atol=1e-5)
    # Q prefers actions 0, 1, 1, at which Q̂ has 2, 1, 2: 1 + 1 = 2; 2; 0.5 + 0.5 = 1
    m = C51(atoms=5, double=True).targets(learned(ONLINE, TARGET), INPUTS, CATEGORICAL, BATCH)
    np.testing.assert_allclose(m, [[0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 1, 0, 0, 0]], atol=1e-5)


QUANTILES = [[[0, 2], [3, 5]], [[0, 0], [1, 1]], [[4, 8], [0, 0]]]


def test_qr_dqn_moves_the_best_actions_quantiles():
    values = QuantileValues(2, 2)
    target = QUANTILES
    online = [[[9, 9], [0, 0]], [[0, 0], [1, 1]], [[0, 0], [1, 1]]]
    y = QRDQN(quantiles=2).targets(learned(online, target), INPUTS, values, BATCH)
    np.testing.assert_allclose(y, [[2.5, 3.5], [2.0, 2.0], [1.5, 2.5]])
    y = QRDQN(quantiles=2, double=True).targets(learned(online, target), INPUTS, values, BATCH)
    np.testing.assert_allclose(y, [[1.0, 2.0], [2.0, 2.0], [0.5, 0.5]])


@pytest.mark.parametrize(
    "algorithm, values, target",
    [(C51(atoms=5), CATEGORICAL, TARGET), (QRDQN(quantiles=2), QuantileValues(2, 2), QUANTILES)],
)
def test_only_available_actions_are_chosen(algorithm, values, target):
    masked = Batch(
        **{**vars(BATCH), "next_action_mask": jnp.array([[True, False], [True, False], [False, True]])}
    )
    plain, other = (algorithm.targets(learned(target, target), INPUTS, values, b) for b in (BATCH, masked))
    assert not np.allclose(plain[0], other[0])
    assert not np.allclose(plain[2], other[2])
    np.testing.assert_allclose(plain[1], other[1])  # terminated


def test_dueling_distributions_share_the_states_row():
    outputs = jnp.arange(9.0)[None]  # V: 0 1 2, A: 3 4 5 and 6 7 8
    rows = QuantileValues(2, 3, dueling=True).quantiles(outputs)
    np.testing.assert_allclose(rows, [[[-1.5, -0.5, 0.5], [1.5, 2.5, 3.5]]])
    log_probs = CategoricalValues(2, 3, 0.0, 1.0, dueling=True).log_probs(outputs)
    np.testing.assert_allclose(log_probs, jax.nn.log_softmax(rows), rtol=1e-6)


@pytest.mark.parametrize(
    "values",
    [CATEGORICAL, CategoricalValues(2, 4, -1.0, 1.0, True), QuantileValues(2, 5), QuantileValues(2, 4, True)],
)
def test_a_host_policy_reads_distributions_as_the_compiled_one(values):
    network = MLP.start(3, (8,), values.outputs, jax.random.key(0))
    policy = StochasticPolicy(INPUTS, network, EpsilonGreedyHead(values, jnp.float32(0.5)))
    actor = policy.on_host()
    assert isinstance(actor, HostPolicy)
    observation, noise = np.array([0, 1, 2]), np.float32([0.1, 0.6, 0.9])
    compiled = policy(jnp.asarray(observation), jnp.asarray(noise))[0]
    np.testing.assert_array_equal(actor(observation, noise)[0], compiled)


def steps_of(reward, terminated, truncated, next_state, action):
    """[T, 1] steps in a world of three states."""
    column = [np.asarray(x)[:, None] for x in (reward, terminated, truncated, next_state, action)]
    reward, terminated, truncated, next_state, action = map(jnp.asarray, column)
    return Transition(
        jnp.zeros_like(next_state), action, jnp.float32(reward), terminated, truncated, next_state
    )


def test_pqn_targets_are_lambda_returns_of_the_greedy_policy():
    values, network = ActionValues(2), table([[1.0, 2.0], [5.0, 4.0], [0.0, 3.0]])
    steps = steps_of([1.0, 2.0, 3.0], [False, False, True], [False, False, False], [0, 1, 2], [0, 1, 0])
    state = PQNState(INPUTS, values, network, None, EPISODES, jax.random.key(0), jnp.int32(0), jnp.int32(9))
    samples = PQN(discount=0.5, trace_decay=0.5).samples(state, Rollout(steps, None))
    # G2 = 3;  G1 = 2 + ½ (½ · 5 + ½ · 3) = 4;  G0 = 1 + ½ (½ · 2 + ½ · 4) = 2.5
    np.testing.assert_allclose(samples.target, [2.5, 4.0, 3.0])
    cut = steps_of([1.0, 2.0, 3.0], [False, False, True], [False, True, False], [0, 1, 2], [0, 1, 0])
    samples = PQN(discount=0.5, trace_decay=0.5).samples(state, Rollout(cut, None))
    # the truncated step bootstraps from its own successor: 2 + ½ · 5 = 4.5;  G0 = 1 + ½ (1 + 2.25) = 2.625
    np.testing.assert_allclose(samples.target, [2.625, 4.5, 3.0])


WAITING = steps_of([7.0], [False], [False], [2], [1])


def waiting(taken=True, **changed):
    first = jax.tree.map(lambda x: x[0], WAITING)
    return Waiting(Transition(**{**vars(first), **changed}), None, jnp.array(taken))


SARSA_STEPS = steps_of([1.0, 2.0, 3.0], [False, True, False], [False, False, True], [0, 1, 2], [0, 1, 0])


def test_sarsa_learns_from_the_action_that_was_taken_next():
    steps, mask, following, now = followed(waiting(), Rollout(SARSA_STEPS, None), jnp.array([False]))
    np.testing.assert_array_equal(steps.reward[:, 0], [7.0, 1.0, 2.0])
    np.testing.assert_array_equal(following[:, 0], [0, 1, 0])
    assert mask is None
    assert (float(now.transition.reward[0]), bool(now.taken)) == (3.0, True)
    network = table([[1.0, 2.0], [5.0, 4.0], [0.0, 3.0]])
    state = DeepSarsaState(
        inputs=INPUTS,
        values=ActionValues(2),
        online=network,
        target=network,
        optimiser=None,
        waiting=now,
        episodes=EPISODES,
        key=jax.random.key(0),
        iteration=jnp.int32(0),
        horizon=jnp.int32(9),
    )
    sarsa = DeepSarsa(discount=0.5, epsilon=0.5, epsilon_schedule="constant")
    # s′ = 2 with a′ = 0: 7 + ½ · 0;  s′ = 0 with a′ = 1: 1 + ½ · 2;  terminated: 2
    np.testing.assert_allclose(sarsa.targets(state, steps, None, following)[:, 0], [7.0, 2.0, 2.0])
    # expected: ¾ of the better and ¼ of the other
    expected = DeepSarsa(discount=0.5, expected=True, epsilon=0.5, epsilon_schedule="constant")
    np.testing.assert_allclose(
        expected.targets(state, steps, None, following)[:, 0], [7 + 0.5 * 2.25, 1 + 0.5 * 1.75, 2.0]
    )


def test_where_an_episode_was_lost_no_action_followed():
    """A process was killed: the next rollout begins an episode, and the step that waited ended its own."""
    steps, _, _, _ = followed(waiting(), Rollout(SARSA_STEPS, None), jnp.array([True]))
    assert bool(steps.truncated[0, 0])
    ended = waiting(terminated=jnp.array([True]))
    steps, _, _, _ = followed(ended, Rollout(SARSA_STEPS, None), jnp.array([True]))
    assert not bool(steps.truncated[0, 0])


def problem_of(action_space=None, budget=10_000):
    return SimpleNamespace(
        observation_space=gymnasium.spaces.Box(-1, 1, (3,)),
        action_space=action_space or gymnasium.spaces.Discrete(2),
        budget=budget,
        time_limit=None,
        compiled=True,
    )


BOX = problem_of(gymnasium.spaces.Box(-1, 1, (2,)))


@pytest.mark.parametrize(
    "algorithm, problem, message",
    [
        *((kind(), BOX, "must be Discrete; it is Box") for kind in (C51, QRDQN, Rainbow, PQN, DeepSarsa)),
        (C51(discount=1.0), problem_of(), "value_low and value_high are ±1 / .* give both"),
        (C51(value_low=3.0, value_high=2.0), problem_of(), "value_low is 3.0 and value_high 2.0"),
        (C51(atoms=1), problem_of(), "atoms is 1; allowed: at least 2"),
        (QRDQN(quantiles=0), problem_of(), "quantiles is 0; allowed: at least 1"),
        (Rainbow(noise=0.0), problem_of(), "noise is 0.0; allowed: more than 0"),
        (Rainbow(discount=1.0), problem_of(), "give both"),
        (PQN(minibatches=7), problem_of(), "minibatches is 7, which does not divide"),
        (PQN(trace_decay=1.5), problem_of(), "trace_decay is 1.5; allowed: from 0 to 1"),
        (DeepSarsa(target_every=0), problem_of(), "target_every is 0; allowed: at least 1"),
    ],
)
def test_what_cannot_work_is_refused_before_any_step(algorithm, problem, message):
    with pytest.raises(BadInput, match=message):
        algorithm.check(problem)
