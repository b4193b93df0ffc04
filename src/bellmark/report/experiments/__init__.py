"""Experiments by name, one file each.  Nothing is imported until one is asked for."""

import importlib
from typing import TYPE_CHECKING

from bellmark.errors import unknown

if TYPE_CHECKING:
    from .base import Experiment

EXPERIMENTS = {
    name: f"bellmark.report.experiments.{name.replace('-', '_')}"
    for name in (
        "cliff-walking",
        "on-off-policy",
        "random-walk",
        "exploration",
        "step-sizes",
        "planning-steps",
        "maximisation-bias",
        "discount-noise",
        "baselines",
        "trace-decay",
        "entropy",
        "time-limits",
        "trust-regions",
        "staleness",
        "sample-reuse",
        "activations",
        "aliased-corridor",
    )
}
"""Name, as on the command line, to module."""


def experiment(name: str) -> "Experiment":
    """The experiment of that name, or `BadInput` with the near miss."""
    if (name := name.replace("_", "-")) not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    return importlib.import_module(EXPERIMENTS[name]).EXPERIMENT
