"""Policies with memory outside the learner: deployed, evaluated, watched; and masks that allow nothing."""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from small import RECURRENT_PPO_SMALL, Quiet

from bellmark.envs.gymnasium import HostEnvironments
from bellmark.envs.registry import resolve
from bellmark.envs.to_gymnasium import ToGymnasium
from bellmark.errors import BadInput, EnvironmentFailure
from bellmark.experience.evaluation import play, play_on_host
from bellmark.experience.rollout import CompiledProblem
from bellmark.report import evaluate
from bellmark.run import train as loop
from bellmark.run.exported import TrainedPolicy, _Spaces, load_policies, save_policies

sys.path.insert(0, str(Path(__file__).parents[1]))
from recurrent_environments import Everything

PLAIN, CHOICE = Box(-1, 1, (3,), np.float32), Discrete(2)
KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """Saved and loaded, untrained."""
    directory = tmp_path_factory.mktemp("run") / "policy"
    state = RECURRENT_PPO_SMALL.init(_Spaces((PLAIN, CHOICE)), KEY)
    module = RECURRENT_PPO_SMALL.policy(state)
    save_policies(directory, RECURRENT_PPO_SMALL, [module], [0], PLAIN, CHOICE)
    return load_policies(directory)[0]


def shown(*shape):
    return np.random.default_rng(0).uniform(-1, 1, (*shape, 3)).astype(np.float32)


def test_a_loaded_policy_remembers_until_it_is_reset(policy):
    observations = shown(4)
    policy.reset()
    assert policy.memory is None
    first = [(policy(o), policy.memory.copy())[1] for o in observations]
    assert policy.memory.shape == (8,)
    again = [(policy(o), policy.memory.copy())[1] for o in observations]
    assert not np.allclose(first, again)
    policy.reset()
    np.testing.assert_array_equal([(policy(o), policy.memory.copy())[1] for o in observations], first)
    # what was kept can be put back
    policy.memory = first[1]
    policy(observations[2])
    np.testing.assert_array_equal(policy.memory, first[2])


def test_the_memory_is_that_of_the_module(policy):
    memory = policy.module.initial_memory(1)
    policy.reset()
    for observation in shown(5):
        action, _, memory = policy.module(jnp.asarray(observation[None]), 0.0, None, memory)
        assert policy(observation) == int(action[0])
        np.testing.assert_allclose(policy.memory, memory[0], atol=1e-6)


def test_a_batch_has_a_memory_for_each(policy):
    observations = shown(3, 2, 2)
    policy.reset()
    for o in observations[:2]:
        assert policy(o).shape == (2, 2)
    before = policy.memory.copy()
    policy.reset(np.array([[True, False], [False, False]]))
    assert not policy.memory[0, 0].any()
    np.testing.assert_array_equal(policy.memory[1], before[1])
    with pytest.raises(BadInput, match=re.escape("reset was given a mask of shape (3,)")):
        policy.reset(np.zeros(3, bool))
    with pytest.raises(BadInput, match=r"the memory is of episodes \(2, 2\): reset\(\) begins anew"):
        policy(observations[0, 0])
    policy.reset()
    assert policy(observations[0, 0]).shape == (2,)


def test_policies_without_memory_ignore_a_reset():
    function = TrainedPolicy(lambda *given: None, PLAIN, CHOICE)
    assert not function.remembers
    function.reset()
    function.reset(np.array([True]))
    assert function.memory is None


def test_evaluated_alike_compiled_and_on_the_host():
    """Nothing is random but what a policy of untrained parameters happens to do; episodes follow one another."""
    environment = Everything()
    problem = CompiledProblem(environment, 1000, None)
    policy = RECURRENT_PPO_SMALL.policy(RECURRENT_PPO_SMALL.init(problem, KEY))
    returns, lengths = play(environment, policy, KEY, 3, 100, True)
    environments = HostEnvironments(lambda: ToGymnasium(environment), 2, "test")
    on_host, host_lengths = play_on_host(environments, policy, KEY, 5, 100, True)
    environments.close()
    assert lengths.tolist() == [5] * 3
    assert host_lengths.tolist() == [5] * 5
    np.testing.assert_allclose(on_host, float(returns[0]), atol=1e-5)


def test_watched_from_a_fresh_memory_every_episode(tmp_path, monkeypatch):
    loop.train(
        RECURRENT_PPO_SMALL,
        resolve("PositionOnlyCartPole-v1"),
        steps=50,
        seeds=[0],
        directory=tmp_path / "run",
        progress=Quiet(),
    )
    memories = []

    def reset(self, where=None):
        memories.append(self.memory)
        self.memory = None

    monkeypatch.setattr(TrainedPolicy, "reset", reset)
    frames = sum(1 for _ in evaluate.play_frames(tmp_path / "run", episodes=2, seed=0))
    assert frames > 10
    assert memories[0] is None
    assert memories[1] is not None
    assert len(memories) == 2


def test_a_mask_that_allows_nothing_ends_the_run(tmp_path):
    with pytest.raises(
        EnvironmentFailure,
        match=r"<Everything> showed \d+ action masks allowing no action \(seed 4, steps 0 to 50\)",
    ):
        loop.train(
            RECURRENT_PPO_SMALL,
            resolve(Everything(impossible=2)),
            steps=100,
            seeds=[4],
            directory=tmp_path / "run",
            progress=Quiet(),
        )


def test_a_mask_that_allows_nothing_on_the_host_names_environment_and_step():
    environments = HostEnvironments(lambda: ToGymnasium(Everything(impossible=2)), 2, "test")
    environments.reset(seeds=np.array([0, 1]))
    actions = np.zeros((2, 2), np.int64)
    environments.step(actions)
    with pytest.raises(
        EnvironmentFailure,
        match=re.escape(
            "test: environment 0 at step 2 (2 of its episode): action_mask allows no action: [1, 1, 0, 0, 0]"
        ),
    ):
        environments.step(actions)
    environments.close()
