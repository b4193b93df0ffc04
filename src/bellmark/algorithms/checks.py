"""Checks of hyperparameters: one line that says what was given and what is allowed."""

import math
from typing import Any

import gymnasium

from bellmark.errors import BadInput


def fraction(name: str, given: float) -> None:
    if not (isinstance(given, int | float) and 0.0 <= given <= 1.0):
        raise BadInput(f"{name} is {given}; allowed: from 0 to 1")


def positive(**fields: float) -> None:
    for name, given in fields.items():
        if not (math.isfinite(given) and given > 0):
            raise BadInput(f"{name} is {given}; allowed: more than 0, finite")


def at_least(least: int, **fields: float) -> None:
    for name, given in fields.items():
        if not (math.isfinite(given) and given >= least):
            raise BadInput(f"{name} is {given}; allowed: at least {least}, finite")


def layer_sizes(hidden: tuple[int, ...]) -> None:
    if not all(isinstance(size, int) and size >= 1 for size in hidden):
        raise BadInput(f"hidden is {hidden}; allowed: layer sizes of at least 1, or none: ()")


def encoded(hidden: tuple[int, ...]) -> None:
    """The layers before a memory."""
    layer_sizes(hidden)
    if not hidden:
        raise BadInput("hidden is (); allowed: at least one layer, which encodes what the memory reads")


def divides(name: str, divisor: int, whole_name: str, whole: int) -> None:
    if whole % divisor:
        allowed = ", ".join(str(n) for n in range(1, whole + 1) if whole % n == 0)
        hint = f"; allowed: {allowed}" if len(allowed) <= 60 else ""
        raise BadInput(f"{name} is {divisor}, which does not divide {whole_name} = {whole}{hint}")


def check_discrete(name: str, problem: Any) -> None:
    """Refuse action spaces whose actions cannot be listed."""
    space = problem.action_space
    if not isinstance(space, gymnasium.spaces.Discrete):
        described = " ".join(str(space).split())
        raise BadInput(
            f"{name} compares the values of all actions, so the action space must be Discrete; it is {described}"
        )


def check_steps(learner: Any) -> None:
    at_least(
        1,
        environments=learner.environments,
        rollout_length=learner.rollout_length,
    )


def check_replay(learner: Any, problem: Any) -> None:
    """Refuse sizes with which no update could ever be made, or the wrong number of them."""
    check_steps(learner)
    at_least(1, batch_size=learner.batch_size, train_every=learner.train_every)
    if getattr(learner, "replay_memory", "compiled") == "host":
        if problem.compiled:
            raise BadInput(
                "replay_memory is host, and this environment is compiled: its steps never leave the program; allowed: "
                "compiled, or the same environment as gymnasium:ID"
            )
        if getattr(learner, "prioritised", False):
            raise BadInput(
                "replay_memory is host, and prioritised is yes: priorities change with every update, and what comes "
                "from host memory is gathered before; allowed: one or the other"
            )
    rollout = learner.steps_per_iteration(problem)
    divides("train_every", learner.train_every, "environments × rollout_length", rollout)
    if learner.replay_capacity < rollout:
        raise BadInput(
            f"replay_capacity is {learner.replay_capacity:,}; allowed: at least environments × rollout_length = "
            f"{rollout:,}"
        )
    capacity = learner.replay_capacity // rollout * rollout
    if learner.learning_start > capacity:
        raise BadInput(
            f"learning_start is {learner.learning_start:,} stored transitions, and the replay holds {capacity:,}: "
            "learning would never start"
        )
    if learner.batch_size > max(learner.learning_start, rollout):
        raise BadInput(
            f"batch_size is {learner.batch_size:,}, and when learning starts {max(learner.learning_start, rollout):,} "
            "transitions are stored (learning_start); allowed: a batch of at most that many"
        )
    budget = problem.budget
    if budget > 1 and learner.learning_start > -(-budget // rollout) * rollout:
        raise BadInput(
            f"learning_start is {learner.learning_start:,} and the run has {budget:,} steps: learning would never start"
        )
