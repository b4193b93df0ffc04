"""The checker finds what is wrong, says it in one sentence, and lets pass what is right."""

import gymnasium
import jax
import jax.numpy as jnp
import misbehaving
import numpy as np
import pytest

from bellmark.cli.main import run
from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.envs.checker import check_environment
from bellmark.envs.wrappers import TimeLimit


class Walk(AbstractEnvironment):
    """A compiled environment that keeps its contract, to be broken method by method."""

    @property
    def observation_space(self):
        return gymnasium.spaces.Box(-1000.0, 1000.0, (1,), np.float32)

    @property
    def action_space(self):
        return gymnasium.spaces.Discrete(2)

    def reset(self, key):
        return jax.random.uniform(key, ())

    def observe(self, state):
        return state[None]

    def step(self, state, action, key):
        after = state + 2.0 * action - 0.5
        return after, Step(-jnp.abs(after), after > 20, jnp.bool_(False))


def broken(**methods):
    return type("Broken", (Walk,), methods)


def errors(report):
    return [finding for finding in report.findings if finding.severity == "error"]


@pytest.mark.parametrize(
    "good", ["CartPole-v1", "gymnasium:CartPole-v1", "FrozenLake-v1", "grid-world", Walk]
)
def test_what_is_right_passes(good):
    report = check_environment(good)
    assert report.passed, errors(report)
    assert not any(finding.severity == "warning" for finding in report.findings)


@pytest.mark.parametrize("good", [misbehaving.Honest, misbehaving.Masked, misbehaving.Nested])
def test_honest_hosts_pass(good):
    report = check_environment(good)
    assert report.passed, errors(report)


HOST = [
    (lambda: misbehaving.Broken("nan observation"), "observation[1] is nan", "behaviour"),
    (lambda: misbehaving.Broken("raise"), "RuntimeError: the motor is broken", "behaviour"),
    (lambda: misbehaving.Broken("dtype"), "has dtype float64, its space float32", "behaviour"),
    (misbehaving.SelfResetting, "it resets itself", "resets"),
    (misbehaving.Unseeded, "the same seed and actions gave two different episodes", "seed"),
    (lambda: misbehaving.Masked([0, 0, 0]), "action_mask allows no action", "behaviour"),
    (lambda: misbehaving.BrokenReset(), "observation has shape (1,)", "behaviour"),
]


@pytest.mark.parametrize("make, said, subject", HOST)
def test_faults_of_host_environments(make, said, subject):
    report = check_environment(make)
    (error,) = errors(report)
    assert said in error.found
    assert error.subject == subject
    assert error.mend
    assert not report.passed


def test_faults_of_the_first_calls():
    def wrong(**methods):
        return type("Wrong", (misbehaving.Honest,), methods)

    for cls, said in [
        (wrong(observation_space=None), "observation_space is a NoneType"),
        (wrong(action_space=gymnasium.spaces.Text(3)), "action_space is Text"),
        (wrong(reset=lambda self: (np.zeros(2, np.float32), {})), "reset(seed=0) raised TypeError"),
        (wrong(reset=lambda self, **_: np.zeros(2, np.float32)), "reset returned a ndarray"),
        (wrong(reset=lambda self, **_: (np.zeros(2), {})), "observation has dtype float64"),
        (wrong(step=lambda self, action: (self.show(), 0.0, False, {})), "step returned 4 values"),
        (wrong(step=lambda self, action: (self.show(), 0.0, 0, False, {})), "terminated is 0"),
    ]:
        (error,) = errors(check_environment(cls))
        assert said in error.found


COMPILED = [
    ({"observe": lambda self, state: state}, "observation has shape (), its space (1,)"),
    (
        {"observe": lambda self, state: state[None].astype(int)},
        "observation has dtype int32, its space float32",
    ),
    ({"observe": lambda self, state: state[None] + 5000}, "outside its space's [-1000.0, 1000.0]"),
    (
        {"step": lambda self, s, a, k: (s + 1, Step(1.0 if s > 0 else 0.0, s > 9, s > 99))},
        "step cannot be compiled: TracerBoolConversionError",
    ),
    ({"step": lambda self, s, a, k: (s, s, s > 9, s > 99)}, "step cannot be compiled"),
    ({"step": lambda self, s, a, k: (s, (s, s > 9, s > 99))}, "step returned a tuple beside the state"),
    (
        {"step": lambda self, s, a, k: (s.astype(int), Step(s, s > 9, s > 99))},
        "state is float32[] after reset and int32[] after step",
    ),
    ({"step": lambda self, s, a, k: ((s, s), Step(s, s > 9, s > 99))}, "another kind of state than reset"),
    (
        {"step": lambda self, s, a, k: (s, Step(s[None], s > 9, s > 99))},
        "reward is float32[1]; it must be one float32",
    ),
    ({"step": lambda self, s, a, k: (s, Step(s, s, s > 99))}, "terminated is float32[]; it must be one bool"),
    (
        {"step": lambda self, s, a, k: (s + np.random.default_rng().uniform(), Step(s, s > 9, s > 99))},
        "two results for the same state, action and key",
    ),
    ({"step": lambda self, s, a, k: (s / 0, Step(s, s > 9, s > 99))}, "is inf; it must be finite"),
]


@pytest.mark.parametrize("methods, said", COMPILED)
def test_faults_of_compiled_environments(methods, said):
    (error,) = errors(check_environment(broken(**methods)))
    assert said in error.found
    assert error.mend


def test_episodes_without_an_end_are_a_warning():
    endless = broken(step=lambda self, s, a, k: (s * 0.9, Step(s, jnp.bool_(False), jnp.bool_(False))))
    report = check_environment(endless)
    assert report.passed
    assert any(
        finding.severity == "warning" and "no episode ended" in finding.found for finding in report.findings
    )
    assert check_environment(TimeLimit(endless(), 50)).findings[-2].severity == "passed"


def test_the_command(capsys):
    assert run(["check", "misbehaving:Honest"]) == 0
    assert "it can be trained on" in capsys.readouterr().out
    assert run(["check", "misbehaving:SelfResetting"]) == 1
    out = capsys.readouterr().out
    assert "it resets itself" in out
    assert "→" in out
