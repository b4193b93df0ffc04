"""A learner's hyperparameters as the kernels read them: numbers of fixed types, so that each kernel compiles once."""

from typing import Any, NamedTuple

from . import exploration, step_sizes

MODES = {"accumulating": 0, "replacing": 1, "dutch": 2, "first": 0, "every": 1, "weighted": 0, "ordinary": 1}
"""What a learner's own choice (`traces`, `visit`, `sampling`) is to its kernels."""


class Settings(NamedTuple):
    """See the learners' fields; `decay_steps` is T of the schedules, `limit` the time limit (0: none)."""

    discount: float
    trace_decay: float
    step_size: float
    step_schedule: int
    step_power: float
    exploration: int
    epsilon: float
    epsilon_final: float
    epsilon_schedule: int
    decay_steps: float
    temperature: float
    confidence: float
    n: int
    planning_steps: int
    bonus: float
    priority_threshold: float
    mode: int
    limit: int


def settings_of(learner: Any, budget: int, time_limit: int | None) -> Settings:
    """Fields that a learner lacks have no effect in its kernels."""
    # looked up in plain dictionaries: a module checks every look-up, twenty of which cost more than a row of metrics
    fields, kind = vars(learner), type(learner)

    def value(name: str, otherwise: Any) -> Any:
        return fields[name] if name in fields else getattr(kind, name, otherwise)

    def number(name: str, otherwise: float) -> float:
        return float(value(name, otherwise))

    return Settings(
        discount=number("discount", 1.0),
        trace_decay=number("trace_decay", 0.0),
        step_size=number("step_size", 1.0),
        step_schedule=step_sizes.CODES[value("step_size_schedule", "constant")],
        step_power=number("step_size_power", 1.0),
        exploration=exploration.CODES[value("exploration", "epsilon_greedy")],
        epsilon=number("epsilon", 0.0),
        epsilon_final=number("epsilon_final", 0.0),
        epsilon_schedule=exploration.SCHEDULE_CODES[value("epsilon_schedule", "constant")],
        decay_steps=max(number("epsilon_share", 1.0) * budget, 1.0),
        temperature=number("temperature", 1.0),
        confidence=number("confidence", 0.0),
        n=int(value("n", 1)),
        planning_steps=int(value("planning_steps", 0)),
        bonus=number("bonus", 0.0),
        priority_threshold=number("priority_threshold", 0.0),
        mode=next((MODES[fields[n]] for n in ("traces", "visit", "sampling") if n in fields), 0),
        limit=time_limit or 0,
    )
