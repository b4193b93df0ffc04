"""A replay memory on the host: the same run bit for bit as with the compiled one, interrupted, resumed, and mapped."""

import dataclasses
import sys
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import REPLAYED, Quiet

from bellmark.algorithms.continuous.sac import SAC
from bellmark.algorithms.value_based.dqn import DQN
from bellmark.envs.registry import resolve
from bellmark.errors import BadInput
from bellmark.experience.host_replay import HostReplay, mapped
from bellmark.experience.replay import Replay
from bellmark.run import train as loop
from bellmark.run.interrupts import Interrupts
from bellmark.types import Episodes, Rollout, Transition

sys.path.insert(0, str(Path(__file__).parents[1] / "envs"))
from misbehaving import Honest, Saved, Turned

SMALL = {**REPLAYED, "n_step": 3}
GIVEN = {"steps": 800, "seeds": [0, 3]}


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-4)


def test_what_is_handed_is_what_the_compiled_memory_gives():
    """Rings that have been written over, sums of three steps that meet ends, cuts and the newest step."""
    generator, count, length = np.random.default_rng(0), 2, 4
    zeros = jnp.zeros(count)
    episodes = Episodes(None, jnp.zeros((count, 3)), None, zeros, zeros.astype(jnp.int32))
    compiled = Replay.start(episodes, gymnasium.spaces.Discrete(2), 24, length)
    hosted = HostReplay.like(Replay.start(episodes, gymnasium.spaces.Discrete(2), 8, length), 24)

    def rollout():
        def numbers(*shape):
            return jnp.asarray(generator.normal(size=(length, count, *shape)), jnp.float32)

        terminated, cut = (jnp.asarray(generator.random((length, count)) < 0.2) for _ in range(2))
        action = jnp.ones((length, count), jnp.int32)
        steps = Transition(numbers(3), action, numbers(), terminated, cut & ~terminated, numbers(3))
        return Rollout(steps, None, None, None), jnp.asarray(generator.random(count) < 0.3)

    for _ in range(5):
        given = rollout()
        compiled, hosted = compiled.add(*given), hosted.add(*given)
    bits = jax.random.bits(jax.random.key(1), (2, 50))
    # a compiled update is given it, which makes JAX's arrays of it
    handed = jax.tree.map(jnp.asarray, hosted.handed(np.asarray(bits), 3))
    for update in range(2):
        wanted = compiled.take(compiled.draw(bits[update]), 0.9, 3)
        part = handed.at(jnp.array(update))
        got = part.take(part.draw(bits[update]), 0.9, 3)
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_array_equal(one, other)
    # what was written over since a mark is put back
    before = jax.tree.map(np.copy, hosted.marked().arrays)
    later = hosted.add(*rollout()).add(*rollout())
    assert int(later.position) != int(hosted.position)
    hosted.undone()
    for one, other in zip(jax.tree.leaves(hosted.arrays), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(one, other)


CASES = {"dqn": (DQN(**SMALL, double=True), Saved), "sac": (SAC(**SMALL), Turned)}


@pytest.mark.parametrize("case", CASES)
def test_the_run_is_the_same_wherever_the_memory_lies(tmp_path, case):
    """Also interrupted in the middle and resumed, and mapped from a file."""
    algorithm, environment = CASES[case]
    resolved = resolve(environment)
    straight = loop.train(algorithm, resolved, **GIVEN, directory=tmp_path / "compiled", progress=Quiet())
    hosted = dataclasses.replace(algorithm, replay_memory="host")
    progress = Quiet(interrupt_at=300)
    with Interrupts() as interrupts, pytest.MonkeyPatch.context() as patch:
        if case == "sac":  # larger than memory, says a machine with hardly any
            patch.setattr(loop, "memory_bytes", lambda: 5_000)
        trained = loop.train(
            hosted, resolved, **GIVEN, directory=tmp_path / "host", progress=progress, interrupts=interrupts
        )
        assert (trained.outcome, 300 <= trained.step < 800) == ("interrupted", True)
        ring = trained.states[0].replay.arrays[0].reward
        assert isinstance(ring, np.memmap) == (case == "sac")
        trained = loop.resume(tmp_path / "host", environment=resolved, progress=Quiet())
        assert isinstance(trained.states[0].replay.arrays[0].reward, np.memmap) == (case == "sac")
    assert any(
        ("mapped from a file" if case == "sac" else "in host memory") in told for told in progress.told
    )
    for mine, compiled in zip(trained.states, straight.states, strict=True):
        stored, _, _ = mine.replay.arrays
        for one, other in zip(jax.tree.leaves(stored), jax.tree.leaves(compiled.replay.stored), strict=True):
            np.testing.assert_array_equal(one, other)
        assert jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), mine.learned, compiled.learned))


class Unsaved(Honest):
    """Cannot be put back, and presses Ctrl-C in its 150th step of all."""

    taken = 0

    def step(self, action):
        Unsaved.taken += 1
        if Unsaved.taken == 150:
            import signal

            signal.raise_signal(signal.SIGINT)
        return super().step(action)


def test_a_step_that_is_interrupted_is_taken_back(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 10.0)
    monkeypatch.setattr(Unsaved, "taken", 0)
    algorithm = DQN(**SMALL, replay_memory="host")
    with Interrupts() as interrupts:
        trained = loop.train(
            algorithm,
            resolve(Unsaved),
            steps=800,
            seeds=[0],
            directory=tmp_path / "run",
            progress=Quiet(),
            interrupts=interrupts,
        )
    assert trained.outcome == "interrupted"
    replay = trained.states[0].replay
    assert int(replay.size) == trained.step > 0
    # nothing of what came after the last whole chunk is left in the ring
    assert not np.any(replay.arrays[0].observation[int(replay.size) :])
    assert loop.resume(tmp_path / "run", environment=resolve(Unsaved), progress=Quiet()).step == 800


def test_what_cannot_be_is_refused(tmp_path, monkeypatch):
    given = {"steps": 800, "seeds": [0], "progress": Quiet(), "directory": tmp_path / "run"}
    host = DQN(**SMALL, replay_memory="host")
    with pytest.raises(
        BadInput, match=r"this environment is compiled: .* allowed: compiled, or .* gymnasium:ID"
    ):
        loop.train(host, resolve("CartPole-v1"), **given)
    with pytest.raises(BadInput, match="prioritised is yes: priorities change with every update"):
        loop.train(dataclasses.replace(host, prioritised=True), resolve(Saved), **given)
    huge = dataclasses.replace(host, replay_capacity=10**14)
    with pytest.raises(BadInput, match=r"allowed: at most [\d,]+ with the .* that are free on the disk of"):
        loop.train(huge, resolve(Saved), **given)
    assert not (tmp_path / "run").exists()
    with pytest.raises(BadInput, match="does not fit on the disk of"):
        mapped((1 << 50,), np.uint8, tmp_path)
