"""The loop: what it writes, what it refuses, and where it says that NaN came from."""

import json
import warnings
from pathlib import Path

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import PPO_SMALL, Quiet, rows

import bellmark as bm
from bellmark.algorithms.policy_gradient.ppo import PPO
from bellmark.algorithms.policy_gradient.reinforce import Reinforce
from bellmark.envs.registry import resolve
from bellmark.errors import BadInput, BellmarkError, DirectoryInUse, EnvironmentFailure, NonFiniteLoss
from bellmark.run import checkpoint
from bellmark.run import train as loop
from bellmark.run.directory import RunDirectory
from bellmark.run.exported import load_policies


def train(directory, algorithm=PPO_SMALL, environment="CartPole-v1", steps=500, seeds=(0,), **named):
    resolved = resolve(environment)
    named.setdefault("progress", Quiet())
    return loop.train(algorithm, resolved, steps=steps, seeds=list(seeds), directory=directory, **named)


class Walk(bm.AbstractEnvironment):
    """Counts its steps; at `bad_step`, and after it, `fault` is NaN."""

    fault: str = eqx.field(static=True, default="")
    bad_step: int = eqx.field(static=True, default=60)

    @property
    def observation_space(self):
        return gymnasium.spaces.Box(-1e6, 1e6, (1,), np.float32)

    @property
    def action_space(self):
        return gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, key):
        return jnp.array(jnp.nan if self.fault == "reset" else 0.0)

    def observe(self, state):
        broken = (self.fault == "observation") & (state >= self.bad_step)
        return jnp.where(broken, jnp.nan, state)[None]

    def step(self, state, action, key):
        state = state + 1.0 + 0.0 * action[0]
        reward = jnp.where(
            (self.fault == "reward") & (state == self.bad_step), jnp.nan, 1.0 + 0.0 * action[0]
        )
        return state, bm.Step(reward, jnp.array(False), jnp.array(False))


@pytest.mark.parametrize(
    "fault, count", [("reward", "2 NaN or infinite rewards"), ("observation", "NaN or infinite")]
)
def test_nan_from_the_environment_is_blamed_on_the_environment(tmp_path, monkeypatch, fault, count):
    """25 steps in each of 2 environments make an iteration of 50: step 60 is in the third one."""
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    with pytest.raises(EnvironmentFailure) as caught:
        train(tmp_path / "run", environment=Walk(fault), checkpoint_seconds=1e-9, seeds=[4])
    said = str(caught.value)
    assert said.startswith("<Walk> returned ")
    assert count in said
    assert "(seed 4, steps 100 to 150)" in said
    assert said.endswith(f"; the last good checkpoint stands at step 100 in {tmp_path / 'run'}")
    assert "\n" not in said
    assert checkpoint.steps(tmp_path / "run")[-1] == 100
    assert [row["step"] for row in rows(tmp_path / "run")] == [50, 100]
    (policy,) = load_policies(tmp_path / "run/policy")
    assert np.isfinite(policy(np.zeros(1, np.float32))).all()


def test_nan_in_the_first_observation_leaves_nothing(tmp_path):
    with pytest.raises(
        EnvironmentFailure, match=r"the first observation holds NaN or infinity \(seed 0, step 0\)"
    ):
        train(tmp_path / "run", environment=Walk("reset"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("environment", ["Pendulum-v1", "gymnasium:Pendulum-v1"])
def test_an_exploding_learning_rate_is_blamed_on_the_update(tmp_path, environment):
    """Pendulum gives NaN when it is sent NaN: that is not Pendulum's fault."""
    wild = PPO(learning_rate=1e30, environments=2, rollout_length=25, minibatches=2, hidden=(8,))
    with pytest.raises(NonFiniteLoss) as caught:
        train(tmp_path / "run", wild, environment, checkpoint_seconds=1e-9, seeds=[0, 3])
    said = str(caught.value)
    assert "it arose in the update, where a smaller learning_rate is the usual remedy" in said
    assert "(seed " in said
    assert "the last good checkpoint stands at step " in said
    run = RunDirectory.open(tmp_path / "run")
    assert len(load_policies(run.policy)) == 2
    assert loop.load_states(run.path)[0] == wild or environment.startswith("gymnasium")


def test_what_is_written(tmp_path):
    progress = Quiet()
    trained = train(tmp_path / "run", steps=501, seeds=[2, 9], progress=progress)
    assert (trained.outcome, trained.step) == ("finished", 550)
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["steps"], config["seeds"], config["row_every"]) == (501, [2, 9], 1)
    found = rows(tmp_path / "run")
    assert [row["iteration"] for row in found] == list(range(1, 12))
    assert all(len(values) == 2 for row in found for values in row["metrics"].values())
    assert not any(name.startswith("broken") for name in found[0]["metrics"])
    manifest = json.loads((tmp_path / "run/checkpoints/000000000550/manifest.json").read_text())
    assert manifest["metrics_bytes"] == (tmp_path / "run/metrics.jsonl").stat().st_size
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(trained.states[0])]
    assert progress.told[0].startswith(
        f"state {2 * sum(sizes) / 1000:.3g} kB (2 × {sum(sizes) / 1000:.3g} kB)"
    )


def test_a_seed_does_not_depend_on_the_others(tmp_path):
    many = train(tmp_path / "many", seeds=[1, 5, 2])
    alone = train(tmp_path / "alone", seeds=[5])
    for one, other in zip(
        *(jax.tree.leaves(s.networks) for s in (many.states[1], alone.states[0])), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_failing_observer_stops_nothing(tmp_path):
    class Failing:
        def __getattr__(self, name):
            raise RuntimeError("no network")

    progress = Quiet()
    trained = train(tmp_path / "run", observers=[Failing()], progress=progress)
    assert trained.outcome == "finished"
    assert any("Failing is switched off, the run goes on" in text for text in progress.told)


def test_a_full_disk_ends_in_one_line_and_the_last_checkpoint_stands(tmp_path, monkeypatch):
    written = loop.MetricsWriter.append

    def full(writer, rows):
        if writer.bytes_written > 2000:
            raise BellmarkError(f"{writer.path} was not written: the disk is full")
        written(writer, rows)

    monkeypatch.setattr(loop.MetricsWriter, "append", full)
    with pytest.raises(
        BellmarkError, match=r"the disk is full; the last good checkpoint stands at step \d+ in"
    ):
        train(tmp_path / "run", checkpoint_seconds=1e-9)
    monkeypatch.undo()
    assert loop.resume(tmp_path / "run", progress=Quiet()).step == 500


def test_one_process_per_run(tmp_path):
    train(tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    with run.lock(), pytest.raises(DirectoryInUse, match="is in use by process"):
        loop.resume(run.path, progress=Quiet())


@pytest.mark.parametrize(
    "steps", [0, -5, float("nan"), float("inf"), 1.5, "many", True, 10**300, 2**60, None]
)
def test_steps(tmp_path, steps):
    with pytest.raises(BadInput, match=r"steps is .*; allowed: a whole number"):
        train(tmp_path / "run", steps=steps)
    assert not (tmp_path / "run").exists()


def test_more_iterations_than_can_be_counted(tmp_path):
    with pytest.raises(BadInput, match="fewer than 2³¹ iterations are allowed"):
        train(tmp_path / "run", steps=2**31 * 50)


@pytest.mark.parametrize(
    "seeds, seed",
    [(0, 0), (-1, 0), (10**9, 0), ([], 0), ([1, 1], 0), ([1.5], 0), ("3", 0), (True, 0), (1, -1), (2, 2**32)],
)
def test_seeds(seeds, seed):
    with pytest.raises(BadInput, match=r"seeds? "):
        loop.seeds_from(seeds, seed)


@pytest.mark.parametrize("name", ["checkpoint_seconds", "timeout"])
@pytest.mark.parametrize("given", [0, -1.0, float("nan"), float("inf"), "soon", None])
def test_durations(tmp_path, name, given):
    with pytest.raises(BadInput, match=f"{name} is .*; allowed: more than 0 seconds"):
        train(tmp_path / "run", **{name: given})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "algorithm, message",
    [
        (PPO(minibatches=7), "minibatches is 7, which does not divide environments × rollout_length = 1024"),
        (PPO(clip=0.0), "clip is 0.0; allowed: more than 0"),
        (PPO(clip=-1.0), "clip is -1.0; allowed: more than 0"),
        (PPO(learning_rate=float("nan")), "learning_rate is nan; allowed: more than 0"),
        (PPO(hidden=(64, 0)), "hidden holds a layer of 0 units"),
        (Reinforce(rollout_length=10), "rollout_length is 10; REINFORCE needs complete episodes"),
    ],
)
def test_hyperparameters_that_cannot_be(tmp_path, algorithm, message):
    with pytest.raises(BadInput, match=message):
        train(tmp_path / "run", algorithm)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    with pytest.raises(EnvironmentFailure):
        train(given, environment=Walk("reset"))
    assert list(given.iterdir()) == []


def test_memory_does_not_grow_with_the_steps(tmp_path):
    """Two million steps of REINFORCE after a warm-up: what is kept of them is on the disk."""
    algorithm = Reinforce(environments=8, rollout_length=1000, hidden=(8,))
    grown = []

    class Watch(Quiet):
        def update(self, step, *numbers, **named):
            grown.append((step, _resident()))

    train(tmp_path / "run", algorithm, steps=2_000_000, progress=Watch())
    warm = next(size for step, size in grown if step > 500_000)
    assert grown[-1][0] == 2_000_000
    assert grown[-1][1] - warm < 20e6


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_numbers_of_a_row_that_has_no_episode_are_not_numbers(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path / "run", environment="Pendulum-v1", steps=100)
    assert rows(tmp_path / "run")[0]["metrics"]["episode/return"] == [None]
