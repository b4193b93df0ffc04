"""Gymnasium's and users' environments on the host: true successors, and every misbehaviour named."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from misbehaving import Broken, BrokenReset, Honest, Masked, Nested, Saved

from bellmark.envs.gymnasium import HostEnvironments, QuickDiscrete
from bellmark.errors import BadInput, EnvironmentFailure

HERE = Path(__file__).parent


@pytest.fixture
def host():
    """Builds environments that are closed after the test."""
    made = []

    def build(make, count=3, **keywords):
        made.append(HostEnvironments(make, count, keywords.pop("name", "World"), **keywords))
        return made[-1]

    yield build
    for environments in made:
        environments.close()


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "Blackjack-v1"])
def test_the_same_steps_as_gymnasium_itself(host, name):
    """All that a plain loop over `gymnasium.make` sees, resets and time limit included."""
    count, steps = 3, 450
    environments = host(lambda: gymnasium.make(name, disable_env_checker=True), count, name=name)
    plain = [gymnasium.make(name, disable_env_checker=True) for _ in range(count)]
    space = plain[0].action_space
    space.seed(0)

    def rows(observations):
        return (
            list(zip(*observations, strict=True)) if isinstance(observations, tuple) else list(observations)
        )

    shown = environments.reset(seeds=np.arange(count))
    expected = [environment.reset(seed=seed)[0] for seed, environment in enumerate(plain)]
    np.testing.assert_array_equal(rows(shown), expected)
    cut = 0
    for _ in range(steps):
        actions = np.stack([space.sample() for _ in range(count)])
        shown, rewards, terminated, truncated = environments.step(actions)
        results = [environment.step(action) for environment, action in zip(plain, actions, strict=True)]
        np.testing.assert_array_equal(rows(shown), [result[0] for result in results])
        np.testing.assert_array_equal(rewards, np.array([result[1] for result in results], np.float32))
        np.testing.assert_array_equal(terminated, [result[2] for result in results])
        np.testing.assert_array_equal(truncated, [result[3] for result in results])
        cut += truncated.sum()
        over = terminated | truncated
        if over.any():
            before = rows(shown)
            now = rows(environments.reset(mask=over))
            for index, environment in enumerate(plain):
                expected_row = environment.reset()[0] if over[index] else before[index]
                np.testing.assert_array_equal(now[index], expected_row)
            np.testing.assert_array_equal(rows(shown), before)  # what was returned is never written to
    assert cut > 0 or name != "Pendulum-v1"


def test_types(host):
    environments = host(lambda: gymnasium.make("CartPole-v1"), 2)
    shown = environments.reset(np.arange(2))
    assert shown is environments.observations
    shown, rewards, terminated, truncated = environments.step(np.array([0, 1]))
    assert (shown.dtype, shown.shape) == (np.float32, (2, 4))
    assert rewards.dtype == np.float32
    assert terminated.dtype == truncated.dtype == np.bool_
    assert environments.action_masks() is None
    assert not environments.can_restore


def test_nested_observations_and_actions_that_start_elsewhere(host):
    environments = host(Nested, 2)
    environments.reset(np.arange(2))
    shown, rewards, _, _ = environments.step(np.array([-1, 1]))
    np.testing.assert_array_equal(rewards, [-1, 1])
    assert shown["where"].shape == (2, 2)
    np.testing.assert_array_equal(shown["inner"]["phase"], [2, 2])
    np.testing.assert_array_equal(shown["inner"]["picture"], np.ones((2, 2, 2, 3), np.uint8))


def test_a_time_limit_with_another_wrapper_outside(host):
    """Only the outermost bookkeeping is taken over; a wrapper in between keeps what it wraps."""

    def make():
        limited = gymnasium.make("Pendulum-v1", max_episode_steps=4)
        return gymnasium.wrappers.TransformReward(limited, lambda reward: reward / 10)

    environments = host(make, 2)
    environments.reset(np.arange(2))
    cuts = [environments.step(np.zeros((2, 1), np.float32))[3].tolist() for _ in range(4)]
    assert cuts == [[False, False]] * 3 + [[True, True]]


FAULTS = {
    "raise": "step raised RuntimeError: the motor is broken",
    "nan observation": "observation[1] is nan; it must be finite",
    "infinite observation": "observation[0] is inf; it must be finite",
    "outside": "observation[0] is 250.0, outside its space's [-100.0, 100.0]",
    "dtype": "observation has dtype float64, its space float32",
    "shape": "observation has shape (1,), its space (2,)",
    "broadcastable": "observation has shape (1, 2), its space (2,)",
    "list": "observation is a list; it must be a NumPy array",
    "none": "observation is a NoneType; it must be a NumPy array",
    "nan reward": "reward is nan; it must be one finite number",
    "infinite reward": "reward is -inf; it must be one finite number",
    "no reward": "reward is None; it must be one finite number",
    "vector reward": "reward is array([1.]); it must be one finite number",
    "text reward": "reward is 'plenty'; it must be one finite number",
    "four values": "step returned 4 values; needed are (observation, reward, terminated, truncated, info)",
    "sleep": "step() did not return within 0.3 seconds",
    "loop": "step() did not return within 0.3 seconds",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_misbehaviour_names_environment_index_step_field_and_value(host, fault):
    """The second of three environments goes wrong at the third step of its second episode."""
    made = iter([Honest(10), Broken(fault), Honest(10)])
    environments = host(lambda: next(made), timeout=0.3)
    environments.reset(np.arange(3))
    environments.step(np.zeros(3, int))
    environments.reset(mask=np.array([True, True, True]))
    environments.step(np.zeros(3, int))
    environments.step(np.zeros(3, int))
    began = time.monotonic()
    with pytest.raises(EnvironmentFailure) as caught:
        environments.step(np.zeros(3, int))
    assert time.monotonic() - began < 3
    assert str(caught.value) == f"World: environment 1 at step 4 (3 of its episode): {FAULTS[fault]}"
    if fault == "raise":
        assert isinstance(caught.value.__cause__, RuntimeError)


def test_ctrl_c_passes_through(host):
    environments = host(lambda: Broken("interrupt"), 1)
    environments.reset(np.arange(1))
    environments.step(np.zeros(1, int))
    environments.step(np.zeros(1, int))
    with pytest.raises(KeyboardInterrupt):
        environments.step(np.zeros(1, int))


def test_a_hang_outside_the_main_thread_ends_too():
    caught = []

    def work():
        environments = HostEnvironments(lambda: Broken("loop"), 1, "World", timeout=0.3)
        try:
            environments.reset(np.arange(1))
            for _ in range(3):
                environments.step(np.zeros(1, int))
        except EnvironmentFailure as error:
            caught.append(str(error))
        finally:
            environments.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert caught == [
        "World: environment 0 at step 3 (3 of its episode): step() did not return within 0.3 seconds"
    ]


UNINTERRUPTIBLE = """
import ctypes, multiprocessing, signal, sys, time
import numpy as np
sys.path.insert(0, {here!r})
from misbehaving import Honest
from bellmark.envs import watchdog
from bellmark.envs.gymnasium import HostEnvironments

class Stuck(Honest):
    def step(self, action):
        {stuck}

if __name__ == "__main__":
    if {worker}:
        child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,), daemon=True)
        child.start()
        print(child.pid, flush=True)
    watchdog.LAST_RESORT = 2.0
    environments = HostEnvironments(Stuck, 1, "World", timeout=0.5)
    environments.reset(np.arange(1))
    environments.step(np.zeros(1, int))
"""


@pytest.mark.parametrize(
    "stuck, said",
    [
        # A call that no signal ends: as a loop inside a C library.
        (
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG]); time.sleep(60)",
            "World: environment 0 at step 1 (1 of its episode): step() did not return within 0.5 seconds",
        ),
        # The same while it also keeps Python's lock, so that no other thread runs.
        ("time.sleep(0.3); ctypes.PyDLL(None).sleep(60)", "Timeout"),
    ],
)
def test_what_cannot_be_interrupted_ends_the_process(tmp_path, stuck, said):
    script = tmp_path / "stuck.py"
    script.write_text(UNINTERRUPTIBLE.format(here=str(HERE), stuck=stuck, worker=said != "Timeout"))
    began = time.monotonic()
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert said in done.stderr
    assert time.monotonic() - began < 20
    if said.startswith("World"):
        child = Path(f"/proc/{int(done.stdout)}/cmdline")
        assert not child.exists() or b"python" not in child.read_bytes()


def test_slow_but_alive_is_not_a_hang(host):
    class Slow(Honest):
        def step(self, action):
            time.sleep(0.1)
            return super().step(action)

    environments = host(lambda: Slow(100), 4, timeout=0.3)
    environments.reset(np.arange(4))
    for _ in range(3):
        environments.step(np.zeros(4, int))


def test_a_reset_that_goes_wrong(host):
    environments = host(BrokenReset, 2)
    environments.reset(np.arange(2))
    environments.step(np.zeros(2, int))
    with pytest.raises(
        EnvironmentFailure, match=r"environment 1 at reset, after 1 steps: observation has shape \(1,\)"
    ):
        environments.reset(mask=np.array([False, True]))


def test_stepping_past_the_end_is_refused(host):
    environments = host(lambda: Honest(1), 2)
    with pytest.raises(EnvironmentFailure, match="reset it first"):
        environments.step(np.zeros(2, int))
    environments.reset(np.arange(2))
    environments.step(np.zeros(2, int))
    environments.reset(mask=np.array([True, False]))
    with pytest.raises(EnvironmentFailure, match=r"environment 1 .*was stepped after its episode's end"):
        environments.step(np.zeros(2, int))


def test_construction_that_goes_wrong():
    def broken():
        raise OSError("no display")

    with pytest.raises(
        EnvironmentFailure, match="construction, after 0 steps: construction raised OSError: no display"
    ):
        HostEnvironments(broken, 2, "World")
    with pytest.raises(BadInput, match="at least 1"):
        HostEnvironments(Honest, 0, "World")
    with pytest.raises(BadInput, match=r"expected a gymnasium.Env, got dict"):
        HostEnvironments(dict, 1, "World")


def test_wrong_number_of_actions(host):
    environments = host(Honest, 3)
    environments.reset(np.arange(3))
    with pytest.raises(BadInput, match="2 actions were given for 3 environments"):
        environments.step(np.zeros(2, int))


def test_bounds_of_gymnasiums_own_environments_are_not_enforced(host):
    """Some declare their bounds too narrow, which their users cannot mend; NaN is still an error."""
    environments = host(lambda: gymnasium.make("MountainCar-v0"), 1)
    environments.reset(np.arange(1))
    core = environments._cores[0]
    core.max_position, core.goal_position, core.state = 2.0, 3.0, np.array([1.5, 0.07])
    environments.step(np.array([2]))
    core.state = np.array([np.nan, 0.0])
    with pytest.raises(EnvironmentFailure, match=r"observation\[0\] is nan"):
        environments.step(np.array([2]))


def test_action_masks(host):
    environments = host(Masked, 2)
    environments.reset(np.arange(2))
    for step in range(5):
        masks = environments.action_masks()
        assert masks.dtype == np.bool_
        np.testing.assert_array_equal(masks, np.tile(np.arange(3) == step % 3, (2, 1)))
        environments.step(np.full(2, step % 3))
    environments.reset(mask=np.array([True, False]))
    np.testing.assert_array_equal(environments.action_masks(), [[True, False, False], [False, False, True]])


@pytest.mark.parametrize(
    "spoiled, said",
    [
        ([1, 1], r"action_mask has shape \(2,\); needed is \(3,\)"),
        ([0, 0, 0], "action_mask allows no action"),
        ("missing", 'info has no "action_mask"'),
    ],
)
def test_spoiled_masks(host, spoiled, said):
    environments = host(lambda: Masked(spoiled), 1)
    environments.reset(np.arange(1))
    environments.step(np.array([0]))
    with pytest.raises(EnvironmentFailure, match=said):
        environments.step(np.array([1]))


def test_saved_state_goes_on_exactly(host):
    """Counters, random generators and what is shown: the same future, also through later resets."""

    def future(environments):
        rows = []
        for t in range(12):
            shown, rewards, terminated, truncated = environments.step(np.full(3, t % 3))
            over = terminated | truncated
            rows.append((shown, rewards, over))
            if over.any():
                rows.append((environments.reset(mask=over),))
        return rows

    make = lambda: gymnasium.wrappers.TimeLimit(Saved(4), 3)  # noqa: E731
    first = host(make)
    assert first.can_restore
    first.reset(np.arange(3))
    first.step(np.zeros(3, int))
    first.step(np.zeros(3, int))
    state = first.get_state()
    assert all(isinstance(value, np.ndarray) and value.dtype != object for value in state.values())
    expected = future(first)
    second = host(make)
    second.set_state(state)
    for ours, theirs in zip(future(second), expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_closing_ends_the_watchdog(host):
    environments = host(Honest, 1, timeout=1.0)
    environments.close()
    environments.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and environments._watchdog._thread.is_alive():
        time.sleep(0.05)
    assert not environments._watchdog._thread.is_alive()


@pytest.mark.parametrize("start", [0, -2])
def test_quick_discrete_gives_gymnasiums_answers(start):
    plain = gymnasium.spaces.Discrete(3, start=start)
    quick = QuickDiscrete.like(plain)
    assert quick == plain
    values = [
        *range(-4, 5),
        *map(np.int64, range(-4, 5)),
        np.int8(1),
        np.array(1),
        1.0,
        np.float64(1),
        "1",
        None,
        True,
    ]
    for value in values:
        assert quick.contains(value) == plain.contains(value), value
