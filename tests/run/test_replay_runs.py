"""Runs with a replay memory: interrupted, killed and resumed bit for bit, told and refused by their size."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import REPLAYED, Quiet, assert_same, share_programs

from bellmark.algorithms.continuous.ddpg import DDPG
from bellmark.algorithms.continuous.discrete_sac import DiscreteSAC
from bellmark.algorithms.continuous.sac import SAC
from bellmark.algorithms.continuous.td3 import TD3
from bellmark.algorithms.value_based.deep_sarsa import DeepSarsa
from bellmark.algorithms.value_based.dqn import DQN
from bellmark.algorithms.value_based.pqn import PQN
from bellmark.algorithms.value_based.r2d2 import R2D2
from bellmark.algorithms.value_based.rainbow import Rainbow
from bellmark.cli.main import run
from bellmark.envs.registry import resolve
from bellmark.errors import BadInput
from bellmark.run import train as loop
from bellmark.run.interrupts import Interrupts

sys.path.insert(0, str(Path(__file__).parents[1] / "envs"))
from misbehaving import Honest, Saved, Turned

SMALL = {**REPLAYED, "n_step": 2, "double": True}


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-4)
    share_programs(monkeypatch)


TINY = {"environments": 2, "rollout_length": 4, "hidden": (8,)}
RECURRENT = {**SMALL, "memory": 4, "burn_in": 2, "sequence_length": 4}
ACTOR_CRITIC = {name: value for name, value in SMALL.items() if name != "double"}
CASES = {
    "dqn compiled": (DQN(**SMALL, prioritised=True), "CartPole-v1"),
    "dqn gymnasium": (DQN(**SMALL, prioritised=True), Saved),
    # two screens together, each of which is kept once
    "dqn pictures": (DQN(**SMALL), resolve("Catch-v0", frame_stack=2)),
    "sac compiled": (SAC(**ACTOR_CRITIC, anneal=True), "Pendulum-v1"),
    "sac gymnasium": (SAC(**ACTOR_CRITIC), Turned),
    "td3 compiled": (TD3(**ACTOR_CRITIC), "Pendulum-v1"),
    "ddpg gymnasium": (DDPG(**ACTOR_CRITIC), Turned),
    "discrete sac gymnasium": (DiscreteSAC(**ACTOR_CRITIC, automatic_temperature=True), Saved),
    "rainbow": (Rainbow(**{**SMALL, "atoms": 5}), "CartPole-v1"),
    # the memory with which every rollout began is stored, and that of the episodes in flight is kept
    "r2d2 compiled": (R2D2(**RECURRENT, prioritised=True), "PositionOnlyCartPole-v1"),
    "r2d2 gymnasium": (R2D2(**RECURRENT), Saved),
    "pqn": (PQN(**TINY, minibatches=2, epochs=2), "CartPole-v1"),
    # the step that waits for its next action is kept
    "sarsa gymnasium": (DeepSarsa(**TINY), Saved),
}


@pytest.mark.parametrize("case", CASES)
def test_interrupted_and_resumed_is_the_same_replay_included(tmp_path, case):
    """The ring is full and has been written over before and after the interruption."""
    algorithm, environment = CASES[case]
    resolved = resolve(environment)
    given = {"steps": 800, "seeds": [0, 3]}
    loop.train(algorithm, resolved, **given, directory=tmp_path / "straight", progress=Quiet())
    with Interrupts() as interrupts:
        trained = loop.train(
            algorithm,
            resolved,
            **given,
            directory=tmp_path / "broken",
            progress=Quiet(interrupt_at=300),
            interrupts=interrupts,
        )
    assert (trained.outcome, 300 <= trained.step < 800) == ("interrupted", True)
    loop.resume(tmp_path / "broken", environment=resolved, progress=Quiet())
    assert_same(tmp_path / "straight", tmp_path / "broken")


class Interrupting(Saved):
    """Presses Ctrl-C in the middle of a step, once."""

    armed = False

    def step(self, action):
        if Interrupting.armed and self.steps == 2:
            Interrupting.armed = False
            import signal

            signal.raise_signal(signal.SIGINT)
        return super().step(action)


def test_a_step_that_is_interrupted_is_taken_back_from_the_replay(tmp_path):
    """The ring is written in place, so what is gone back to has to be a copy of it."""
    algorithm, resolved = DQN(**SMALL), resolve(Interrupting)
    given = {"steps": 800, "seeds": [0]}
    loop.train(algorithm, resolved, **given, directory=tmp_path / "straight", progress=Quiet())

    class Arm(Quiet):
        def update(self, step, *numbers, **named):
            Interrupting.armed = step >= 304

    with Interrupts() as interrupts:
        trained = loop.train(
            algorithm, resolved, **given, directory=tmp_path / "broken", progress=Arm(), interrupts=interrupts
        )
    assert trained.outcome == "interrupted"
    loop.resume(tmp_path / "broken", environment=resolved, progress=Quiet())
    assert_same(tmp_path / "straight", tmp_path / "broken")


class Unsaved(Honest):
    """Cannot be put back, and presses Ctrl-C in its 150th step of all."""

    taken = 0

    def step(self, action):
        Unsaved.taken += 1
        if Unsaved.taken == 150:
            import signal

            signal.raise_signal(signal.SIGINT)
        return super().step(action)


def test_the_replay_outlives_an_interrupted_step_of_environments_that_cannot_be_put_back(
    tmp_path, monkeypatch
):
    """The step is in the middle of a chunk, whose first update was given the replay that the chunk began with."""
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 10.0)
    monkeypatch.setattr(Unsaved, "taken", 0)
    algorithm, resolved = DQN(**SMALL), resolve(Unsaved)
    with Interrupts() as interrupts:
        trained = loop.train(
            algorithm,
            resolved,
            steps=800,
            seeds=[0],
            directory=tmp_path / "run",
            progress=Quiet(),
            interrupts=interrupts,
        )
    assert trained.outcome == "interrupted"
    assert int(trained.states[0].replay.size) == trained.step > 0
    assert loop.resume(tmp_path / "run", environment=resolved, progress=Quiet()).step == 800


@pytest.mark.parametrize(
    "what", [["dqn", "CartPole-v1", "--prioritised=yes"], ["sac", "Pendulum-v1"]], ids=["dqn", "sac"]
)
def test_a_killed_process_loses_nothing(tmp_path, what):
    flags = ["--environments=2", "--rollout-length=4", "--train-every=4", "--hidden=8", "--batch-size=8"]
    flags += ["--replay-capacity=2000", "--learning-start=64", "--episodes=2"]
    words = [sys.executable, "-m", "bellmark.cli.main"]
    start = [*words, "train", *what, "--steps=20_000", "--checkpoint-seconds=0.02", *flags]
    assert (
        run(["train", *what, "--steps=20_000", *flags, "--quiet", f"--directory={tmp_path / 'straight'}"])
        == 0
    )
    broken = tmp_path / "broken"
    process = subprocess.Popen(
        [*start, f"--directory={broken}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    metrics = broken / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.005)
    process.kill()
    assert process.wait() != 0, "the process had ended before it was killed"
    assert run(["resume", str(broken), "--quiet"]) == 0
    assert_same(tmp_path / "straight", broken)


def test_size_is_told_and_too_much_of_it_refused(tmp_path):
    progress = Quiet()
    cart_pole = resolve("CartPole-v1")
    given = {"steps": 80, "seeds": [0, 1], "progress": progress}
    loop.train(DQN(**SMALL), cart_pole, directory=tmp_path / "run", **given)
    assert "replay of 200 transitions, 16.8 kB for 2 seeds" in progress.told  # 2 × 200 × (2 · 16 + 4 + 4 + 2)
    with pytest.raises(
        BadInput, match=r"replay_capacity is 100,000,000,000 .* 8,400.0 GB for 2 seeds; allowed: at most"
    ):
        loop.train(
            DQN(**{**SMALL, "replay_capacity": 10**11}), cart_pole, directory=tmp_path / "huge", **given
        )
    assert not (tmp_path / "huge").exists()


@pytest.mark.parametrize("kept", ["frames", "transitions"])
def test_what_is_allowed_instead_does_fit(monkeypatch, kept):
    """For pictures, each kept once or whole: the number that the refusal names is accepted, a tenth more is not."""
    monkeypatch.setattr(loop, "memory_bytes", lambda: 10_000_000)
    learner = DQN(**{**SMALL, "replay_capacity": 10_000_000, "image_replay": kept})
    probe = loop._Probe(resolve("Catch-v0", frame_stack=4))
    with pytest.raises(BadInput) as refused:
        loop.replay_in_words(learner, probe, 1)
    most = int(str(refused.value).split("allowed: at most ")[1].split()[0].replace(",", ""))
    fits = dataclasses.replace(learner, replay_capacity=most)
    assert loop.replay_in_words(fits, probe, 1).startswith(f"replay of {most:,} transitions, ")
    with pytest.raises(BadInput, match="allowed: at most"):
        loop.replay_in_words(dataclasses.replace(learner, replay_capacity=most * 11 // 10), probe, 1)
