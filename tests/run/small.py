"""Tiny learners that use everything a run has to keep: normalisers, annealing, several seeds, odd numbers of steps."""

import json
import signal
import sys

from bellmark.algorithms.policy_gradient.a2c import A2C
from bellmark.algorithms.policy_gradient.a3c import A3C
from bellmark.algorithms.policy_gradient.acktr import ACKTR
from bellmark.algorithms.policy_gradient.actor_critic import ActorCritic
from bellmark.algorithms.policy_gradient.natural_policy_gradient import NaturalPolicyGradient
from bellmark.algorithms.policy_gradient.ppo import PPO
from bellmark.algorithms.policy_gradient.ppo_penalty import PPOPenalty
from bellmark.algorithms.policy_gradient.q_actor_critic import QActorCritic
from bellmark.algorithms.policy_gradient.recurrent_a2c import RecurrentA2C
from bellmark.algorithms.policy_gradient.recurrent_ppo import RecurrentPPO
from bellmark.algorithms.policy_gradient.reinforce import Reinforce
from bellmark.algorithms.policy_gradient.trpo import TRPO
from bellmark.algorithms.policy_gradient.vpg import VPG
from bellmark.run import checkpoint, engine
from bellmark.run.progress import Lines

SMALL = {
    "environments": 2,
    "rollout_length": 25,
    "hidden": (8,),
    "minibatches": 2,
    "epochs": 2,
    "normalise_observations": True,
    "normalise_rewards": True,
}
PPO_SMALL = PPO(**SMALL)
REINFORCE_SMALL = Reinforce(environments=2, rollout_length=500, hidden=(8,), normalise_observations=True)
SCALED = {"hidden": (8,), "environments": 2, "normalise_observations": True}
REINFORCE_WITH_V_SMALL = Reinforce(**SCALED, rollout_length=500, baseline="state", value_epochs=2)
REINFORCE_CONSTANT_SMALL = Reinforce(**SCALED, rollout_length=500, baseline="constant")
A2C_SMALL = A2C(**SCALED, rollout_length=5, normalise_rewards=True, shared=True)
VPG_SMALL = VPG(**SCALED, rollout_length=24, normalise_rewards=True, value_minibatches=2, value_epochs=2)
TRUSTED = {
    **SCALED,
    "rollout_length": 24,
    "normalise_rewards": True,
    "value_minibatches": 2,
    "value_epochs": 2,
}
NATURAL_SMALL = NaturalPolicyGradient(**TRUSTED)
TRPO_SMALL = TRPO(**TRUSTED)
PPO_PENALTY_SMALL = PPOPenalty(**SMALL)
ACKTR_SMALL = ACKTR(**SCALED, rollout_length=10, normalise_rewards=True)
ACTOR_CRITIC_SMALL = ActorCritic(**SCALED, discounted_states=True)
Q_ACTOR_CRITIC_SMALL = QActorCritic(**SCALED)
RECURRENT_PPO_SMALL = RecurrentPPO(**SMALL, memory=8, sequence_length=5)
RECURRENT_A2C_SMALL = RecurrentA2C(
    environments=2, rollout_length=10, hidden=(8,), memory=8, normalise_observations=True
)
A3C_SMALL = A3C(environments=4, actors=2, rollout_length=5, hidden=(8,))
REPLAYED = {
    **SCALED,
    "rollout_length": 4,
    "train_every": 4,
    "batch_size": 8,
    "learning_start": 64,
    "replay_capacity": 200,
}
"""Of learners from a replay memory, whose ring 800 steps fill and write over."""
A3C_FLAGS = ["--environments=4", "--actors=2", "--rollout-length=5", "--hidden=8"]
TRUSTED_FLAGS = ["--environments=2", "--rollout-length=24", "--hidden=8", "--normalise-rewards=yes"]
RECURRENT_FLAGS = [
    "--environments=2",
    "--rollout-length=25",
    "--hidden=8",
    "--memory=8",
    "--normalise-observations=yes",
]
REINFORCE_FLAGS = ["--environments=2", "--rollout-length=500", "--hidden=8", "--normalise-observations=yes"]
PPO_FLAGS = [
    "--environments=2",
    "--rollout-length=25",
    "--hidden=8",
    "--minibatches=2",
    "--epochs=2",
    "--normalise-observations=yes",
    "--normalise-rewards=yes",
]


class Quiet(Lines):
    """Says nothing, remembers what it was told, and presses Ctrl-C when the run has come to step `interrupt_at`."""

    def __init__(self, interrupt_at=None):
        super().__init__(sys.stderr, quiet=True)
        self.interrupt_at = interrupt_at
        self.told = []

    def update(self, step, *numbers, **named):
        if self.interrupt_at is not None and step >= self.interrupt_at:
            self.interrupt_at = None
            signal.raise_signal(signal.SIGINT)

    def message(self, text):
        self.told.append(text)

    def warning(self, text):
        self.told.append(text)


def rows(directory):
    """The metrics of a run, the clock aside."""
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def assert_same(one, other):
    """Metrics and the last state, in which there are parameters, optimiser, normalisers, episodes and keys."""
    assert rows(one) == rows(other)
    assert checkpoint.steps(one)[-1] == checkpoint.steps(other)[-1]
    last = f"checkpoints/{checkpoint.steps(one)[-1]:012d}/state.safetensors"
    assert (one / last).read_bytes() == (other / last).read_bytes()
    assert (one / "policy/policy.safetensors").read_bytes() == (
        other / "policy/policy.safetensors"
    ).read_bytes()


def share_programs(monkeypatch):
    """Runs of one learner in one test share what was compiled; that another process compiles the same, test_kill shows.

    For the length of a test only: tests that break a learner's mathematics must not meet a program from before.
    """
    programs, iterations = {}, {}
    compile_loop, begin = engine.CompiledEngine._compile, engine._HostIteration

    def compiled(self, states):
        key = (self.algorithm, self.problem.budget, self.problem.time_limit, self.row_every)
        if key not in programs:
            compile_loop(self, states)
            programs[key] = self._program, self._problem_arrays
        self._program, self._problem_arrays = programs[key]

    def iteration(algorithm, problem, state):
        key = (algorithm, problem.budget, problem.time_limit)
        if key not in iterations:
            iterations[key] = begin(algorithm, problem, state)
        return iterations[key]

    monkeypatch.setattr(engine.CompiledEngine, "_compile", compiled)
    monkeypatch.setattr(engine, "_HostIteration", iteration)
