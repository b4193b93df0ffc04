"""Bellmark: reinforcement learning measured against Bellman.

    import bellmark as bm

    solution = bm.solve(bm.examples.grid_world(noise=0.2), discount=0.9)     # exact, with proof
    run = bm.train("ppo", "CartPole-v1", steps=100_000, seeds=10)            # learned, with a verdict
    action = bm.load(run.directory)(observation)                             # NumPy in, NumPy out

Everything is imported when it is first used: `import bellmark` takes milliseconds, and solving never imports JAX.
"""

import importlib

from bellmark._version import __version__

_WHERE = {
    "FiniteMDP": "bellmark.mdp",
    "examples": "bellmark.mdp",
    "solve": "bellmark.algorithms.exact",
    "evaluate_policy": "bellmark.algorithms.exact",
    "optimality_gap": "bellmark.algorithms.exact",
    "train": "bellmark.front",
    "resume": "bellmark.front",
    "evaluate": "bellmark.front",
    "load": "bellmark.front",
    "Run": "bellmark.front",
    "language": "bellmark.language",
    "tune": "bellmark.tuning",
    "PPO": "bellmark.algorithms.policy_gradient.ppo",
    "Reinforce": "bellmark.algorithms.policy_gradient.reinforce",
    "VPG": "bellmark.algorithms.policy_gradient.vpg",
    "ActorCritic": "bellmark.algorithms.policy_gradient.actor_critic",
    "QActorCritic": "bellmark.algorithms.policy_gradient.q_actor_critic",
    "A2C": "bellmark.algorithms.policy_gradient.a2c",
    "A3C": "bellmark.algorithms.policy_gradient.a3c",
    "RecurrentPPO": "bellmark.algorithms.policy_gradient.recurrent_ppo",
    "RecurrentA2C": "bellmark.algorithms.policy_gradient.recurrent_a2c",
    "NaturalPolicyGradient": "bellmark.algorithms.policy_gradient.natural_policy_gradient",
    "TRPO": "bellmark.algorithms.policy_gradient.trpo",
    "PPOPenalty": "bellmark.algorithms.policy_gradient.ppo_penalty",
    "ACKTR": "bellmark.algorithms.policy_gradient.acktr",
    "DQN": "bellmark.algorithms.value_based.dqn",
    "C51": "bellmark.algorithms.value_based.c51",
    "QRDQN": "bellmark.algorithms.value_based.qr_dqn",
    "Rainbow": "bellmark.algorithms.value_based.rainbow",
    "R2D2": "bellmark.algorithms.value_based.r2d2",
    "PQN": "bellmark.algorithms.value_based.pqn",
    "DeepSarsa": "bellmark.algorithms.value_based.deep_sarsa",
    "DDPG": "bellmark.algorithms.continuous.ddpg",
    "TD3": "bellmark.algorithms.continuous.td3",
    "SAC": "bellmark.algorithms.continuous.sac",
    "DiscreteSAC": "bellmark.algorithms.continuous.discrete_sac",
    "MonteCarloPrediction": "bellmark.algorithms.tabular.monte_carlo",
    "MonteCarloControl": "bellmark.algorithms.tabular.monte_carlo",
    "OffPolicyMonteCarlo": "bellmark.algorithms.tabular.monte_carlo",
    "TD": "bellmark.algorithms.tabular.td",
    "NStepTD": "bellmark.algorithms.tabular.td",
    "TDLambda": "bellmark.algorithms.tabular.td",
    "Sarsa": "bellmark.algorithms.tabular.sarsa",
    "ExpectedSarsa": "bellmark.algorithms.tabular.sarsa",
    "NStepSarsa": "bellmark.algorithms.tabular.sarsa",
    "SarsaLambda": "bellmark.algorithms.tabular.sarsa",
    "LinearSarsa": "bellmark.algorithms.tabular.linear",
    "LinearQLearning": "bellmark.algorithms.tabular.linear",
    "TrueOnlineTD": "bellmark.algorithms.tabular.linear",
    "QLearning": "bellmark.algorithms.tabular.q_learning",
    "DoubleQLearning": "bellmark.algorithms.tabular.q_learning",
    "QLambda": "bellmark.algorithms.tabular.q_learning",
    "DynaQ": "bellmark.algorithms.tabular.dyna",
    "DynaQPlus": "bellmark.algorithms.tabular.dyna",
    "PrioritisedSweeping": "bellmark.algorithms.tabular.dyna",
    "AbstractEnvironment": "bellmark.envs.base",
    "Step": "bellmark.envs.base",
    "check_environment": "bellmark.envs.checker",
    "BadInput": "bellmark.errors",
    "BellmarkError": "bellmark.errors",
    "EnvironmentFailure": "bellmark.errors",
    "NonFiniteLoss": "bellmark.errors",
    "CorruptFile": "bellmark.errors",
    "DirectoryInUse": "bellmark.errors",
}
"""Public name to the module that holds it."""

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(
            f"module 'bellmark' has no attribute {name!r}; it offers {', '.join(sorted(_WHERE))}"
        )
    module = importlib.import_module(_WHERE[name])
    if module.__name__ == f"{__name__}.{name}":
        return module
    value = (
        getattr(module, name)
        if hasattr(module, name)
        else importlib.import_module(f"{module.__name__}.{name}")
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
