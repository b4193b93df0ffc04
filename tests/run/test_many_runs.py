"""Hundreds of runs in one process: what each compiled goes with it, for a process has room for so many programs."""

import dataclasses
import gc
import sys
from pathlib import Path

import jax
import pytest
from small import A2C_SMALL, REPLAYED, Quiet

from bellmark.algorithms.value_based.dqn import DQN
from bellmark.envs.registry import resolve
from bellmark.run import train as loop

sys.path.insert(0, str(Path(__file__).parents[1] / "envs"))
from misbehaving import Saved

CASES = {
    "compiled": (A2C_SMALL, "CartPole-v1"),
    "stepped in Python": (DQN(**REPLAYED), Saved),
    "with a replay memory on the host": (DQN(**REPLAYED, replay_memory="host"), Saved),
}


def programs() -> int:
    gc.collect()
    return len(jax.devices()[0].client.live_executables())


@pytest.mark.parametrize("case", CASES)
def test_programs_go_with_their_run(tmp_path, case):
    algorithm, environment = CASES[case]
    left = []
    for index in range(2):
        # another learner to the compiler, of the same shapes
        varied = dataclasses.replace(algorithm, discount=0.9 + 0.01 * index)
        given = {"steps": 200, "seeds": [0], "directory": tmp_path / str(index), "progress": Quiet()}
        loop.train(varied, resolve(environment), **given)
        left.append(programs())
    assert left[1] == left[0]
