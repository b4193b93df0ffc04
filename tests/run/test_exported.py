"""Trained policies on disk: rebuilt from two files, NumPy in and NumPy out, damaged files refused."""

import json
import os

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from small import PPO_SMALL

from bellmark.errors import BadInput, CorruptFile
from bellmark.run.exported import _Spaces, load_policies, save_policies

PLAIN = Box(-1, 1, (3,), np.float32)


def saved(directory, observation_space, action_space, seeds=(0, 1)):
    problem = _Spaces((observation_space, action_space))
    states = [PPO_SMALL.init(problem, jax.random.key(seed)) for seed in seeds]
    modules = [PPO_SMALL.policy(state) for state in states]
    save_policies(directory, PPO_SMALL, modules, seeds, observation_space, action_space)
    return modules


@pytest.mark.parametrize(
    "action_space",
    [Discrete(4), Discrete(3, start=-1), MultiDiscrete([2, 3]), Box(-0.1, 0.1, (2,), np.float32)],
    ids=str,
)
def test_single_batched_and_stochastic(tmp_path, action_space):
    saved(tmp_path / "policy", PLAIN, action_space)
    policy = load_policies(tmp_path / "policy")[0]
    observations = np.random.default_rng(0).uniform(-1, 1, (4, 5, 3)).astype(np.float32)
    actions = policy(observations)
    assert actions.shape == (4, 5, *action_space.shape)
    assert actions.dtype == action_space.dtype
    for index in np.ndindex(4, 5):
        single = policy(observations[index])
        assert action_space.contains(single) or action_space.contains(np.asarray(single))
        # one row and many are different products: a component near zero keeps the rounding of the terms it is a sum of
        np.testing.assert_allclose(single, actions[index], rtol=1e-6, atol=1e-8)
    drawn = [policy(observations, deterministic=False) for _ in range(2)]
    assert not np.array_equal(*drawn)
    policy.seed(0)
    np.testing.assert_array_equal(policy(observations, deterministic=False), drawn[0])


def test_masks(tmp_path):
    saved(tmp_path / "policy", PLAIN, Discrete(4))
    policy = load_policies(tmp_path / "policy")[0]
    observations = np.zeros((50, 3), np.float32)
    mask = np.arange(4) == np.arange(50)[:, None] % 4
    for deterministic in (True, False):
        np.testing.assert_array_equal(
            policy(observations, mask=mask, deterministic=deterministic), np.arange(50) % 4
        )
    assert policy(observations[0], mask=mask[3]) == 3


def test_dictionaries(tmp_path):
    space = Dict({"b": Box(-1, 1, (2,), np.float32), "a": Discrete(3, start=1)})
    saved(tmp_path / "policy", space, Discrete(2))
    policy = load_policies(tmp_path / "policy")[1]
    assert policy({"a": 1, "b": np.zeros(2, np.float32)}) in (0, 1)
    assert policy({"a": np.array([1, 3]), "b": np.zeros((2, 2), np.float32)}).shape == (2,)
    with pytest.raises(BadInput, match="the observation does not fit"):
        policy({"a": 1})


@pytest.mark.parametrize("wrong", [np.zeros(2), np.full(3, np.nan), "north", np.zeros((2, 4))])
def test_observations_that_do_not_fit(tmp_path, wrong):
    saved(tmp_path / "policy", PLAIN, Discrete(2))
    with pytest.raises(BadInput, match="the observation"):
        load_policies(tmp_path / "policy")[0](wrong)


def test_each_seed_is_its_own(tmp_path):
    modules = saved(tmp_path / "policy", PLAIN, Box(-9, 9, (1,), np.float32))
    loaded = load_policies(tmp_path / "policy")
    for module, policy in zip(modules, loaded, strict=True):
        for one, other in zip(jax.tree.leaves(module), jax.tree.leaves(policy.module), strict=True):
            np.testing.assert_array_equal(one, other)
    assert loaded[0](np.ones(3, np.float32)) != loaded[1](np.ones(3, np.float32))


def test_writing_again_replaces_and_leaves_nothing_over(tmp_path):
    for seeds in ((0, 1), (5,)):
        saved(tmp_path / "policy", PLAIN, Discrete(2), seeds)
    assert len(load_policies(tmp_path / "policy")) == 1
    assert os.listdir(tmp_path) == ["policy"]


@pytest.mark.parametrize("damage", ["no description", "not JSON", "other format of arrays", "a flipped bit"])
def test_damage(tmp_path, damage):
    saved(tmp_path / "policy", PLAIN, Discrete(2))
    description, arrays = tmp_path / "policy/policy.json", tmp_path / "policy/policy.safetensors"
    if damage == "no description":
        description.unlink()
        with pytest.raises(BadInput, match=r"holds no policy\.json; bellmark resume"):
            load_policies(tmp_path / "policy")
        return
    if damage == "not JSON":
        description.write_text("{")
    elif damage == "other format of arrays":
        table = json.loads(description.read_text())
        del table["sha256"]
        description.write_text(json.dumps(table))
    else:
        data = bytearray(arrays.read_bytes())
        data[-1] ^= 1
        arrays.write_bytes(data)
    with pytest.raises(CorruptFile, match="is damaged"):
        load_policies(tmp_path / "policy")


def test_a_policy_acts_in_its_environment(tmp_path):
    environment = gymnasium.make("Pendulum-v1")
    saved(tmp_path / "policy", environment.observation_space, environment.action_space)
    policy = load_policies(tmp_path / "policy")[0]
    observation, _ = environment.reset(seed=0)
    for _ in range(5):
        observation, *_ = environment.step(policy(observation, deterministic=False))
    environment.close()
