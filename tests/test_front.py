"""The front door, as documented: both kinds of environments, every space, both algorithms, and what comes back."""

import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import bellmark as bm

sys.path.insert(0, str(Path(__file__).parent / "envs"))
from misbehaving import Honest, Masked, Nested

from small_environments import Countdown

PPO = {"environments": 2, "rollout_length": 16, "hidden": (8,), "minibatches": 2, "epochs": 1}
REINFORCE = {"environments": 2, "rollout_length": 20, "hidden": (8,)}


class Picture(gymnasium.Env):
    """A small image to look at, and two numbers to choose."""

    observation_space = gymnasium.spaces.Box(0, 255, (12, 12, 3), np.uint8)
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.integers(0, 255, (12, 12, 3), np.uint8), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        picture = self.np_random.integers(0, 255, (12, 12, 3), np.uint8)
        return picture, float(action.sum()), self.steps == 5, False, {}


ENVIRONMENTS = {
    "gymnasium": Honest,
    "gymnasium, masks": Masked,
    "gymnasium, dictionary and actions from -1": Nested,
    "gymnasium, picture and two choices": Picture,
    "compiled": Countdown(terminates=6),
    "compiled, masks": Countdown(terminates=6, masked=True),
    "compiled, dictionary": Countdown(terminates=6, nested=True),
    "compiled, two choices": Countdown(terminates=6, actions="two choices"),
    "compiled, actions from -1": Countdown(terminates=6, actions="from minus one"),
}


@pytest.mark.parametrize(
    "algorithm, fields", [("ppo", PPO), ("reinforce", REINFORCE)], ids=["ppo", "reinforce"]
)
@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_every_kind_of_environment_and_space(tmp_path, capfd, algorithm, fields, environment):
    """A mask that is ignored, or an action outside its space, makes these environments complain."""
    run = bm.train(
        algorithm, environment, steps=64, directory=tmp_path / "run", progress=False, episodes=3, **fields
    )
    assert run.outcome == "finished"
    assert run.evaluation.returns.shape == (1, 3)
    assert (run.evaluation.lengths > 0).all()
    again = bm.evaluate(run, episodes=2)
    assert again.returns.shape == (1, 2)
    said = capfd.readouterr()
    assert said.out == said.err == ""


def test_train_by_name_and_what_comes_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = bm.train("ppo", "CartPole-v1", steps=100, seeds=2, seed=5, progress=False, episodes=4, **PPO)
    assert run.directory.parent == Path("runs")
    assert run.directory.name.startswith("ppo-CartPole-v1-")
    assert run.evaluation.returns.shape == (2, 4)
    assert run.evaluation.returns.dtype == np.float64
    assert run.evaluation.mean == pytest.approx(run.evaluation.returns.mean())
    assert run.metrics["episode/return"].shape == (len(run.metrics["step"]), 2)
    assert "threshold 475" in run.verdict
    assert (run.directory / "report/learning_curve.png").exists()

    result = bm.evaluate(run, episodes=6, seed=1)
    assert result.returns.shape == (2, 6)
    low, high = result.interval
    assert low <= result.mean <= high
    np.testing.assert_array_equal(bm.evaluate(str(run.directory), episodes=6, seed=1).returns, result.returns)
    one = bm.evaluate(run.policy, environment="CartPole-v1", episodes=6, seed=1)
    np.testing.assert_array_equal(one.returns[0], result.returns[0])

    again = bm.resume(run.directory, progress=False)
    np.testing.assert_array_equal(again.evaluation.returns, run.evaluation.returns)
    assert again.step == run.step

    states = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    for index, seed in enumerate((5, 6)):
        loaded = bm.load(run.directory, seed=seed)
        np.testing.assert_array_equal(loaded(states), run.policies[index](states))
    with pytest.raises(bm.BadInput, match="seed 7 was asked for; this run has the seeds 5, 6"):
        bm.load(run.directory, seed=7)


def test_train_an_instance_on_an_instance(tmp_path):
    algorithm = bm.PPO(discount=0.9, clip=0.1, **PPO)
    environment = gymnasium.make("CartPole-v1")
    run = bm.train(algorithm, environment, steps=32, directory=tmp_path / "a", progress=False, episodes=2)
    assert bm.load(tmp_path / "a").observation_space == environment.observation_space
    assert run.evaluation.environment == "gymnasium:CartPole-v1"
    with pytest.raises(bm.BadInput, match="clip: hyperparameters go into the instance"):
        bm.train(algorithm, environment, steps=32, directory=tmp_path / "b", clip=0.3)


def test_a_plain_function_is_a_policy():
    """A pole is balanced by pushing towards where it falls, for a while; both kinds of CartPole agree on that."""

    def push(observation):
        assert isinstance(observation, np.ndarray)
        assert observation.shape == (4,)
        return int(observation[2] + observation[3] > 0)

    compiled = bm.evaluate(push, "CartPole-v1", episodes=20)
    host = bm.evaluate(push, "gymnasium:CartPole-v1", episodes=20)
    assert compiled.returns.shape == host.returns.shape == (1, 20)
    assert compiled.mean > 150
    assert host.mean > 150
    still = bm.evaluate(lambda observation: 0, "CartPole-v1", episodes=5)
    assert still.mean < 15


@pytest.mark.parametrize(
    "algorithm, fields", [("ppo", PPO), ("reinforce", REINFORCE | {"rollout_length": 40})]
)
def test_a_finite_model_is_measured_against_its_optimum(tmp_path, algorithm, fields):
    mdp = bm.FiniteMDP.from_arrays(
        successors=np.array([[[0], [1]], [[0], [2]], [[2], [2]]]),
        probabilities=np.ones((3, 2, 1)),
        rewards=np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]),
    )
    run = bm.train(
        algorithm,
        mdp,
        steps=64,
        seeds=2,
        directory=tmp_path / "run",
        progress=False,
        episodes=3,
        discount=0.8,
        **fields,
    )
    found = run.ending.optimality
    assert found is not None
    for policy, gap in zip(run.policies, found.gaps, strict=True):
        chosen = policy(np.arange(3))
        assert gap == pytest.approx(bm.optimality_gap(mdp, chosen, discount=0.8))
    assert "gap to the optimum" in run.verdict


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("environments", 2.5, "ppo's environments is 2.5; a value of type int is allowed"),
        ("activation", "gelu", "unknown ppo's activation 'gelu'"),
        ("hidden", (8, 0.5), "ppo's hidden is 0.5; a value of type int is allowed"),
        ("anneal", 1, "ppo's anneal is 1; a value of type bool is allowed"),
    ],
)
def test_hyperparameters_of_the_wrong_type(tmp_path, field, value, message):
    algorithm = bm.PPO()
    # past the checks of shapes and types that only tests have
    object.__setattr__(algorithm, field, value)
    with pytest.raises(bm.BadInput, match=message):
        bm.train(algorithm, "CartPole-v1", directory=tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong, message in [
        ({"algorithm": "pp0"}, r"unknown algorithm 'pp0' \(did you mean 'ppo'\?\)"),
        ({"algorithm": 7}, "algorithm is 7; allowed: a name such as 'ppo', or an instance"),
        ({"environment": "CartPol-v1"}, "did you mean 'CartPole-v1'"),
        ({"environment": 3}, "int is not an environment"),
        ({"episodes": 0}, "episodes is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"clipp": 0.1}, r"unknown hyperparameter of ppo 'clipp' \(did you mean 'clip'\?\)"),
        ({"clip": "wide"}, "ppo's clip is 'wide'; a value of type float is allowed"),
        ({"observers": "tensorbored"}, "did you mean 'tensorboard'"),
        ({"algorithm": bm.PPO(discount=float("nan"))}, "discount is nan"),
    ]:
        given = {"algorithm": "ppo", "environment": "CartPole-v1", "progress": False} | wrong
        with pytest.raises(bm.BadInput, match=message):
            bm.train(**given)
    with pytest.raises(bm.BadInput, match="is neither a run"):
        bm.evaluate(3, "CartPole-v1")
    with pytest.raises(bm.BadInput, match="a policy on its own needs an environment"):
        bm.evaluate(lambda observation: 0)
    assert list(tmp_path.iterdir()) == []
