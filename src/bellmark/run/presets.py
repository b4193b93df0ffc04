"""Tuned hyperparameters per (algorithm, environment), each with what it was measured to reach.

Presets were tuned on seeds from 100 on and measured on seeds 0 to 9 (`benchmarks/learning.py`); `measured` is the
interquartile mean of the ten final policies' mean returns over 100 episodes each.
"""

import dataclasses
from typing import Any

from bellmark.algorithms import algorithm_class


@dataclasses.dataclass(frozen=True)
class Preset:
    """Hyperparameters that differ from the algorithm's own, and how many steps they were tuned for."""

    steps: int
    fields: dict[str, Any]
    measured: str


PRESETS: dict[tuple[str, str], Preset] = {
    ("ppo", "CartPole-v1"): Preset(100_000, {"learning_rate": 1e-3}, ""),
}


def preset(algorithm: str, environment: str) -> Preset | None:
    """The preset for an algorithm's and an environment's name, or None; `gymnasium:ID` shares that of `ID`."""
    return PRESETS.get((algorithm, environment.removeprefix("gymnasium:")))


def configured(algorithm: str, environment: str) -> Any:
    """The algorithm with its preset for this environment, or as it is."""
    found = preset(algorithm, environment)
    return algorithm_class(algorithm)(**(found.fields if found else {}))
