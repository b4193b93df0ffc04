"""Algorithms by name.  Nothing here imports JAX until an algorithm is asked for."""

import dataclasses
import importlib
import types
import typing
from typing import Any

from bellmark.errors import BadInput, unknown

ALGORITHMS = {
    "ppo": "bellmark.algorithms.policy_gradient.ppo:PPO",
    "reinforce": "bellmark.algorithms.policy_gradient.reinforce:Reinforce",
    "vpg": "bellmark.algorithms.policy_gradient.vpg:VPG",
    "actor_critic": "bellmark.algorithms.policy_gradient.actor_critic:ActorCritic",
    "q_actor_critic": "bellmark.algorithms.policy_gradient.q_actor_critic:QActorCritic",
    "a2c": "bellmark.algorithms.policy_gradient.a2c:A2C",
    "a3c": "bellmark.algorithms.policy_gradient.a3c:A3C",
    "recurrent_ppo": "bellmark.algorithms.policy_gradient.recurrent_ppo:RecurrentPPO",
    "recurrent_a2c": "bellmark.algorithms.policy_gradient.recurrent_a2c:RecurrentA2C",
    "natural_policy_gradient": "bellmark.algorithms.policy_gradient.natural_policy_gradient:NaturalPolicyGradient",
    "trpo": "bellmark.algorithms.policy_gradient.trpo:TRPO",
    "ppo_penalty": "bellmark.algorithms.policy_gradient.ppo_penalty:PPOPenalty",
    "acktr": "bellmark.algorithms.policy_gradient.acktr:ACKTR",
    "dqn": "bellmark.algorithms.value_based.dqn:DQN",
    "c51": "bellmark.algorithms.value_based.c51:C51",
    "qr_dqn": "bellmark.algorithms.value_based.qr_dqn:QRDQN",
    "rainbow": "bellmark.algorithms.value_based.rainbow:Rainbow",
    "r2d2": "bellmark.algorithms.value_based.r2d2:R2D2",
    "pqn": "bellmark.algorithms.value_based.pqn:PQN",
    "deep_sarsa": "bellmark.algorithms.value_based.deep_sarsa:DeepSarsa",
    "ddpg": "bellmark.algorithms.continuous.ddpg:DDPG",
    "td3": "bellmark.algorithms.continuous.td3:TD3",
    "sac": "bellmark.algorithms.continuous.sac:SAC",
    "discrete_sac": "bellmark.algorithms.continuous.discrete_sac:DiscreteSAC",
    "monte_carlo_prediction": "bellmark.algorithms.tabular.monte_carlo:MonteCarloPrediction",
    "td": "bellmark.algorithms.tabular.td:TD",
    "n_step_td": "bellmark.algorithms.tabular.td:NStepTD",
    "td_lambda": "bellmark.algorithms.tabular.td:TDLambda",
    "monte_carlo_control": "bellmark.algorithms.tabular.monte_carlo:MonteCarloControl",
    "off_policy_monte_carlo": "bellmark.algorithms.tabular.monte_carlo:OffPolicyMonteCarlo",
    "sarsa": "bellmark.algorithms.tabular.sarsa:Sarsa",
    "expected_sarsa": "bellmark.algorithms.tabular.sarsa:ExpectedSarsa",
    "n_step_sarsa": "bellmark.algorithms.tabular.sarsa:NStepSarsa",
    "sarsa_lambda": "bellmark.algorithms.tabular.sarsa:SarsaLambda",
    "q_learning": "bellmark.algorithms.tabular.q_learning:QLearning",
    "double_q_learning": "bellmark.algorithms.tabular.q_learning:DoubleQLearning",
    "q_lambda": "bellmark.algorithms.tabular.q_learning:QLambda",
    "dyna_q": "bellmark.algorithms.tabular.dyna:DynaQ",
    "dyna_q_plus": "bellmark.algorithms.tabular.dyna:DynaQPlus",
    "prioritised_sweeping": "bellmark.algorithms.tabular.dyna:PrioritisedSweeping",
    "linear_sarsa": "bellmark.algorithms.tabular.linear:LinearSarsa",
    "linear_q_learning": "bellmark.algorithms.tabular.linear:LinearQLearning",
    "true_online_td": "bellmark.algorithms.tabular.linear:TrueOnlineTD",
}
"""Name, as on the command line and in saved configurations, to `module:Class`."""


def algorithm_class(name: str) -> type:
    """The class of that name, or `BadInput` with the near miss."""
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    module, class_name = ALGORITHMS[name].split(":")
    return getattr(importlib.import_module(module), class_name)


def make_algorithm(name: str, fields: dict[str, Any], base: Any = None) -> Any:
    """An algorithm with these hyperparameters, the rest as in `base` or as the class has them.

    Raises: `BadInput` naming a hyperparameter that does not exist or has the wrong type.
    """
    cls = algorithm_class(name)
    hints = typing.get_type_hints(cls)
    allowed = [field.name for field in dataclasses.fields(cls)]
    for field in fields:
        if field not in allowed:
            raise unknown(f"hyperparameter of {name}", field, allowed)
    values = {field: fitted(f"{name}'s {field}", value, hints[field]) for field, value in fields.items()}
    return cls(**values) if base is None else dataclasses.replace(base, **values)


def well_typed(algorithm: Any) -> Any:
    """`algorithm` with every hyperparameter in its declared type: 8.0 environments are 8, 2.5 are refused."""
    hints = typing.get_type_hints(type(algorithm))
    fields = {
        name: fitted(f"{algorithm.name}'s {name}", value, hints[name])
        for name, value in fields_of(algorithm).items()
    }
    return dataclasses.replace(algorithm, **fields)


def fields_of(algorithm: Any) -> dict[str, Any]:
    """An algorithm's hyperparameters as plain data for a configuration."""
    return {field.name: getattr(algorithm, field.name) for field in dataclasses.fields(algorithm)}


def fitted(name: str, value: Any, annotation: Any) -> Any:
    """`value` as the type `annotation`: whole floats pass as integers and lists as tuples; anything else is refused."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        members = typing.get_args(annotation)
        if value is None and type(None) in members:
            return None
        annotation = next(member for member in members if member is not type(None))
    if typing.get_origin(annotation) is typing.Literal:
        if value not in typing.get_args(annotation):
            raise unknown(name, str(value), typing.get_args(annotation))
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is bool and isinstance(value, bool):
        return value
    if annotation is int and number and value == int(value):
        return int(value)
    if annotation is float and number:
        return float(value)
    if annotation is str and isinstance(value, str):
        return value
    if typing.get_origin(annotation) is tuple and isinstance(value, list | tuple):
        return tuple(fitted(name, item, typing.get_args(annotation)[0]) for item in value)
    wanted = getattr(annotation, "__name__", str(annotation))
    raise BadInput(f"{name} is {value!r}; a value of type {wanted} is allowed")
