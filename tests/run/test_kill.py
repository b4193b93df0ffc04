"""A process that is really killed, at moments that nobody chose, loses nothing that resuming does not recover."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from small import A3C_FLAGS, PPO_FLAGS, RECURRENT_FLAGS, REINFORCE_FLAGS, TRUSTED_FLAGS, assert_same

from bellmark.cli.main import run

BELLMARK = [sys.executable, "-m", "bellmark.cli.main"]


def command(*words):
    return [*BELLMARK, *map(str, words)]


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def here(*words):
    """The same command in this process, which has imported and compiled already."""
    assert run(list(map(str, words))) == 0


def finished(words, **keywords):
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, **keywords)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    "words, kills",
    [
        (["ppo", "CartPole-v1", "--steps=150_000", "--seeds=2", *PPO_FLAGS], 2),
        (["reinforce", "CartPole-v1", "--steps=200_000", *REINFORCE_FLAGS], 1),
        (["a2c", "CartPole-v1", "--steps=100_000", "--environments=2", "--hidden=8", "--shared=yes"], 1),
        (["recurrent_ppo", "CartPole-v1", "--steps=60_000", *RECURRENT_FLAGS, "--minibatches=2"], 1),
        (["recurrent_a2c", "CartPole-v1", "--steps=60_000", *RECURRENT_FLAGS], 1),
        (["a3c", "CartPole-v1", "--steps=60_000", *A3C_FLAGS], 1),
        (["trpo", "CartPole-v1", "--steps=60_000", *TRUSTED_FLAGS, "--value-minibatches=2"], 1),
        (["acktr", "CartPole-v1", "--steps=60_000", *TRUSTED_FLAGS], 1),
    ],
    ids=["ppo", "reinforce", "a2c", "recurrent ppo", "recurrent a2c", "a3c", "trpo", "acktr"],
)
def test_killed_at_random_and_resumed_is_the_same(tmp_path, words, kills):
    here("train", *words, "--episodes=2", "--quiet", f"--directory={tmp_path / 'straight'}")
    often = ["--checkpoint-seconds=0.02", "--episodes=2"]
    generator = random.Random(time.time_ns())
    broken = tmp_path / "broken"
    start = command("train", *words, *often, f"--directory={broken}")
    lives = 0
    for _ in range(kills):
        process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = _size(broken)
        wait_for(lambda process=process, before=before: _size(broken) != before or process.poll() is not None)
        time.sleep(generator.uniform(0, 0.3))
        process.kill()
        if process.wait() == -signal.SIGKILL:
            lives += 1
        start = command("resume", broken, "--checkpoint-seconds=0.02")
    assert lives > 0, "every process had ended before it was killed"
    here("resume", broken, "--quiet")
    assert_same(tmp_path / "straight", broken)
    assert not list(broken.rglob(".unfinished-*"))


def _size(run):
    try:
        return (run / "metrics.jsonl").stat().st_size
    except FileNotFoundError:
        return 0


SLOW = """
import time
import gymnasium
import numpy as np

class Slow(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, seconds=0.3):
        self.seconds = seconds

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        time.sleep(self.seconds)
        return np.zeros(2, np.float32), 1.0, self.steps == 3, False, {}
"""


def started(tmp_path, *words, said="of "):
    """A training process, once it has said `said`."""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command("train", *words),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    heard = []
    for line in process.stderr:
        heard.append(line)
        if said in line:
            return process, heard
    raise AssertionError("".join(heard))


def test_ctrl_c_once_in_the_middle_of_a_slow_step_saves_and_reports(tmp_path):
    """The first row takes 2 × 25 × 0.3 seconds: it is given up and nothing was trained, so nothing is kept."""
    (tmp_path / "slow_world.py").write_text(SLOW)
    run = tmp_path / "run"
    words = ["ppo", "slow_world:Slow", "--steps=500", "--episodes=1", f"--directory={run}", *PPO_FLAGS]
    process, _ = started(tmp_path, *words, said="compiling")
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - began < 3
    assert rest.splitlines()[-1] == "bellmark: interrupted before anything was trained; nothing is kept"
    assert not run.exists()


def test_ctrl_c_once_ends_with_a_checkpoint_a_report_and_the_next_command(tmp_path):
    run = tmp_path / "run"
    words = ["ppo", "CartPole-v1", "--steps=1e9", "--episodes=2", f"--directory={run}", *PPO_FLAGS]
    process, _ = started(tmp_path, *words, said="steps/s")
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted at step" in rest
    assert f"  bellmark resume {run}" in rest.splitlines()
    assert (run / "report/evaluation.json").exists()
    assert (run / "report/learning_curve.png").exists()
    finished(command("evaluate", run, "--episodes=2"))
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert int(max(p.name for p in (run / "checkpoints").iterdir())) == last["step"]


def test_ctrl_c_twice_ends_at_once(tmp_path):
    """The environment swallows the first one; the second waits for nothing."""
    stubborn = SLOW.replace("time.sleep(self.seconds)", "self.sleep()") + (
        "\n    def sleep(self):\n"
        "        try:\n            time.sleep(60)\n"
        "        except KeyboardInterrupt:\n            time.sleep(60)\n"
    )
    (tmp_path / "slow_world.py").write_text(stubborn)
    process, _ = started(
        tmp_path, "ppo", "slow_world:Slow", f"--directory={tmp_path / 'run'}", said="compiling"
    )
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=2)
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "bellmark: ended at once"


def test_ctrl_c_during_the_evaluation_keeps_what_was_trained(tmp_path):
    (tmp_path / "slow_world.py").write_text(SLOW)
    run = tmp_path / "run"
    words = [
        "ppo",
        "slow_world:Slow",
        "--steps=4",
        "--environments=2",
        "--rollout-length=2",
        "--minibatches=1",
    ]
    process, _ = started(tmp_path, *words, f"--directory={run}", said="evaluating")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=10)
    assert process.returncode == 130
    assert rest.splitlines()[-1] == (
        f"bellmark: trained and saved in {run}; only the evaluation is missing: bellmark resume {run} "
        "--environment slow_world:Slow"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = finished(
        command("evaluate", run, "--environment=slow_world:Slow", "--episodes=1"), env=environment
    )
    assert "mean return 3" in done.stdout
