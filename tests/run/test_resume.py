"""Train 2N = train N, interrupt, resume N: bit for bit, whatever was interrupted."""

import dataclasses
import json
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from small import (
    A2C_SMALL,
    A3C_SMALL,
    ACKTR_SMALL,
    ACTOR_CRITIC_SMALL,
    NATURAL_SMALL,
    PPO_PENALTY_SMALL,
    PPO_SMALL,
    Q_ACTOR_CRITIC_SMALL,
    RECURRENT_A2C_SMALL,
    RECURRENT_PPO_SMALL,
    REINFORCE_CONSTANT_SMALL,
    REINFORCE_SMALL,
    REINFORCE_WITH_V_SMALL,
    TRPO_SMALL,
    VPG_SMALL,
    Quiet,
    assert_same,
    rows,
    share_programs,
)

from bellmark.envs.registry import resolve
from bellmark.errors import BadInput, CorruptFile
from bellmark.run import checkpoint
from bellmark.run import train as loop
from bellmark.run.interrupts import Interrupts

sys.path.insert(0, str(Path(__file__).parents[1] / "envs"))
from misbehaving import Honest, Masked, Saved


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Many returns to the host, so that there are many moments at which to interrupt; compiled once per test."""
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-4)
    share_programs(monkeypatch)


def interrupted(algorithm, environment, directory, steps, seeds, at):
    with Interrupts() as interrupts:
        trained = loop.train(
            algorithm,
            environment,
            steps=steps,
            seeds=seeds,
            directory=directory,
            progress=Quiet(interrupt_at=at),
            interrupts=interrupts,
        )
    assert trained.outcome == "interrupted"
    assert at <= trained.step < steps
    return trained


class SavedMasked(Masked):
    """A mask, and a state to be saved."""

    get_state, set_state = Saved.get_state, Saved.set_state


@pytest.mark.parametrize(
    "algorithm, environment, steps, seeds",
    [
        (PPO_SMALL, "CartPole-v1", 1030, [3, 5]),
        (PPO_SMALL, "Pendulum-v1", 1030, [0]),
        (REINFORCE_SMALL, "CartPole-v1", 6000, [1, 0]),
        (PPO_SMALL, Saved, 530, [0, 7]),
        (PPO_SMALL, SavedMasked, 530, [0]),
        (RECURRENT_PPO_SMALL, "CartPole-v1", 1030, [3]),
        (RECURRENT_A2C_SMALL, "Pendulum-v1", 530, [1]),
        (RECURRENT_A2C_SMALL, SavedMasked, 130, [0]),
        (A3C_SMALL, "CartPole-v1", 430, [2]),
        (A3C_SMALL, Saved, 330, [0]),
        (RECURRENT_PPO_SMALL, SavedMasked, 330, [0]),
        (A2C_SMALL, "CartPole-v1", 510, [3, 5]),
        (A2C_SMALL, SavedMasked, 130, [0]),
        (VPG_SMALL, "Pendulum-v1", 500, [2]),
        (ACTOR_CRITIC_SMALL, "CartPole-v1", 202, [1]),
        (Q_ACTOR_CRITIC_SMALL, SavedMasked, 62, [4]),
        (REINFORCE_WITH_V_SMALL, "CartPole-v1", 6000, [0]),
        (REINFORCE_CONSTANT_SMALL, "CartPole-v1", 6000, [0]),
        (TRPO_SMALL, "CartPole-v1", 500, [3, 5]),
        (TRPO_SMALL, SavedMasked, 200, [0]),
        (NATURAL_SMALL, "Pendulum-v1", 500, [1]),
        (PPO_PENALTY_SMALL, "CartPole-v1", 530, [2]),
        (ACKTR_SMALL, "Pendulum-v1", 300, [1]),
        (ACKTR_SMALL, SavedMasked, 120, [0]),
    ],
    ids=[
        "ppo",
        "ppo continuous",
        "reinforce",
        "ppo on gymnasium",
        "ppo on gymnasium with masks",
        "recurrent ppo",
        "recurrent a2c",
        "recurrent a2c on gymnasium with masks",
        "a3c",
        "a3c on gymnasium",
        "recurrent ppo on gymnasium",
        "a2c, one network",
        "a2c on gymnasium with masks",
        "vpg continuous",
        "actor-critic",
        "q actor-critic on gymnasium with masks",
        "reinforce with V",
        "reinforce with an average",
        "trpo",
        "trpo on gymnasium with masks",
        "natural policy gradient continuous",
        "ppo-penalty",
        "acktr continuous",
        "acktr on gymnasium with masks",
    ],
)
def test_interrupted_and_resumed_is_the_same(tmp_path, algorithm, environment, steps, seeds):
    resolved = resolve(environment)
    straight = {"steps": steps, "seeds": seeds, "progress": Quiet()}
    loop.train(algorithm, resolved, directory=tmp_path / "straight", **straight)
    interrupted(algorithm, resolved, tmp_path / "broken", steps, seeds, at=steps // 3)
    again = loop.resume(tmp_path / "broken", environment=resolved, progress=Quiet())
    assert again.outcome == "finished"
    assert_same(tmp_path / "straight", tmp_path / "broken")


def test_a_row_of_several_iterations_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MOST_ROWS_PER_RUN", 7)
    cart_pole = resolve("CartPole-v1")
    loop.train(PPO_SMALL, cart_pole, steps=1000, seeds=[0], directory=tmp_path / "straight", progress=Quiet())
    assert [row["iteration"] for row in rows(tmp_path / "straight")] == [3, 6, 9, 12, 15, 18, 20]
    interrupted(PPO_SMALL, cart_pole, tmp_path / "broken", 1000, [0], at=300)
    loop.resume(tmp_path / "broken", progress=Quiet())
    assert_same(tmp_path / "straight", tmp_path / "broken")


class Interrupting(Saved):
    """Presses Ctrl-C in the middle of a step, once, when half of its state has changed."""

    armed = False

    def step(self, action):
        self.steps += 1
        if Interrupting.armed and self.steps == 3:
            Interrupting.armed = False
            import signal

            signal.raise_signal(signal.SIGINT)
        self.steps -= 1
        return super().step(action)


def test_a_step_that_is_interrupted_is_taken_back(tmp_path):
    resolved = resolve(Interrupting)
    loop.train(PPO_SMALL, resolved, steps=300, seeds=[0], directory=tmp_path / "straight", progress=Quiet())

    class Arm(Quiet):
        def update(self, step, *numbers, **named):
            Interrupting.armed = step == 100

    with Interrupts() as interrupts:
        given = {"steps": 300, "seeds": [0], "directory": tmp_path / "broken", "progress": Arm()}
        trained = loop.train(PPO_SMALL, resolved, interrupts=interrupts, **given)
    assert (trained.outcome, trained.step) == ("interrupted", 100)
    loop.resume(tmp_path / "broken", environment=resolved, progress=Quiet())
    assert_same(tmp_path / "straight", tmp_path / "broken")


def test_a_damaged_newest_checkpoint_is_left_aside(tmp_path):
    cart_pole = resolve("CartPole-v1")
    given = {"steps": 500, "seeds": [0], "progress": Quiet()}
    for name in ("straight", "broken"):
        loop.train(PPO_SMALL, cart_pole, directory=tmp_path / name, **given, checkpoint_seconds=1e-6)
    newest, older = (checkpoint.steps(tmp_path / "broken")[i] for i in (-1, -2))
    assert older > 0
    state = tmp_path / f"broken/checkpoints/{newest:012d}/state.safetensors"
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    progress = Quiet()
    loop.resume(tmp_path / "broken", progress=progress)
    assert any("going back to step" in text for text in progress.told)
    assert_same(tmp_path / "straight", tmp_path / "broken")


def test_nothing_but_damaged_checkpoints(tmp_path):
    loop.train(
        PPO_SMALL, resolve("CartPole-v1"), steps=50, seeds=[0], directory=tmp_path / "run", progress=Quiet()
    )
    for state in (tmp_path / "run/checkpoints").glob("*/state.safetensors"):
        state.write_bytes(b"nonsense")
    with pytest.raises(CorruptFile, match="no checkpoint is good"):
        loop.resume(tmp_path / "run", progress=Quiet())


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path):
    cart_pole = resolve("CartPole-v1")
    for name in ("straight", "broken"):
        loop.train(PPO_SMALL, cart_pole, steps=200, seeds=[0], directory=tmp_path / name, progress=Quiet())
    for folder in (tmp_path / "broken/checkpoints").iterdir():
        folder.rename(folder.with_name(".unfinished-" + folder.name))
    loop.resume(tmp_path / "broken", progress=Quiet())
    assert_same(tmp_path / "straight", tmp_path / "broken")


def test_a_finished_run_says_so_and_stays_as_it_is(tmp_path):
    loop.train(
        PPO_SMALL, resolve("CartPole-v1"), steps=200, seeds=[0], directory=tmp_path / "run", progress=Quiet()
    )
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file() and p.name != "lock"}
    progress = Quiet()
    trained = loop.resume(tmp_path / "run", progress=progress)
    assert (trained.outcome, trained.step) == ("finished", 200)
    assert progress.told[0] == "this run is finished at step 200; its policy is evaluated again"
    after = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file() and p.name != "lock"}
    assert after == before


def test_a_run_can_be_extended(tmp_path):
    """Without annealing, which depends on the whole length, an extended run is the longer run."""
    algorithm = dataclasses.replace(PPO_SMALL, anneal=False)
    cart_pole = resolve("CartPole-v1")
    for name, steps in (("long", 400), ("short", 200)):
        loop.train(
            algorithm, cart_pole, steps=steps, seeds=[0, 1], directory=tmp_path / name, progress=Quiet()
        )
    assert loop.resume(tmp_path / "short", steps=400, progress=Quiet()).step == 400
    assert rows(tmp_path / "long") == rows(tmp_path / "short")
    assert json.loads((tmp_path / "short/config.json").read_text())["steps"] == 400
    with pytest.raises(BadInput, match="this run has 400 already"):
        loop.resume(tmp_path / "short", steps=300, progress=Quiet())


def test_an_extension_that_is_interrupted_is_not_forgotten(tmp_path):
    cart_pole = resolve("CartPole-v1")
    loop.train(PPO_SMALL, cart_pole, steps=100, seeds=[0], directory=tmp_path / "run", progress=Quiet())
    with Interrupts() as interrupts:
        loop.resume(tmp_path / "run", steps=1000, progress=Quiet(interrupt_at=200), interrupts=interrupts)
    assert loop.resume(tmp_path / "run", progress=Quiet()).step == 1000


def test_episodes_that_cannot_be_saved_are_announced(tmp_path):
    resolved = resolve(Honest)
    interrupted(PPO_SMALL, resolved, tmp_path / "run", 200, [0], at=100)
    progress = Quiet()
    trained = loop.resume(tmp_path / "run", environment=resolved, progress=progress)
    assert trained.outcome == "finished"
    assert any("the episodes that were in flight are dropped" in text for text in progress.told)


def test_a_users_environment_has_to_be_named_again_and_to_fit(tmp_path):
    interrupted(PPO_SMALL, resolve(Honest), tmp_path / "run", 200, [0], at=100)
    with pytest.raises(
        BadInput, match=r"this run used your own environment misbehaving:Honest; name it again"
    ):
        loop.resume(tmp_path / "run", progress=Quiet())
    with pytest.raises(BadInput, match="CartPole-v1 has the observation space"):
        loop.resume(tmp_path / "run", environment="CartPole-v1", progress=Quiet())


def test_the_gymnasium_environments_of_a_seed_do_not_depend_on_the_others(tmp_path):
    class Continuous(gymnasium.Env):
        """Acts on a number; pays for staying near zero."""

        observation_space = gymnasium.spaces.Box(-10, 10, (1,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.at, self.steps = self.np_random.uniform(-1, 1), 0
            return np.array([self.at], np.float32), {}

        def step(self, action):
            self.at, self.steps = self.at + float(action[0]) / 10, self.steps + 1
            return np.array([self.at], np.float32), -abs(self.at), False, self.steps == 20, {}

    resolved = resolve(Continuous)
    both = loop.train(
        PPO_SMALL, resolved, steps=100, seeds=[4, 9], directory=tmp_path / "both", progress=Quiet()
    )
    alone = loop.train(
        PPO_SMALL, resolved, steps=100, seeds=[9], directory=tmp_path / "alone", progress=Quiet()
    )
    for one, other in zip(_leaves(both.states[1]), _leaves(alone.states[0]), strict=True):
        np.testing.assert_array_equal(one, other)


def _leaves(state):
    import jax

    return [
        np.asarray(x) for x in jax.tree.leaves(dataclasses.replace(state, key=jax.random.key_data(state.key)))
    ]
