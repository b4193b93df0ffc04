"""Learners of texts by name, and what each of them learns from."""

import dataclasses
import importlib
import typing
from typing import Any

from bellmark.algorithms import fitted
from bellmark.errors import unknown

LEARNERS = {
    "sft": "bellmark.algorithms.language.sft:SFT",
    "reward": "bellmark.algorithms.language.reward_model:RewardModelling",
    "ppo": "bellmark.algorithms.language.ppo:LanguagePPO",
    "grpo": "bellmark.algorithms.language.grpo:GRPO",
    "dpo": "bellmark.algorithms.language.dpo:DPO",
}
"""Name, as on the command line and in saved configurations, to `module:Class`."""

FROM_PAIRS = ("reward", "dpo")
"""Learners that compare a chosen answer with a rejected one; all others have questions."""

DRAWING = ("ppo", "grpo")
"""Learners that draw answers of their own and need a reward."""


def learner_class(name: str) -> type:
    if name not in LEARNERS:
        raise unknown("language learner", name, LEARNERS)
    module, class_name = LEARNERS[name].split(":")
    return getattr(importlib.import_module(module), class_name)


def presets_of(name: str) -> dict[str, dict[str, Any]]:
    """Named settings of a learner, by name."""
    module = importlib.import_module(LEARNERS[name].split(":")[0])
    return getattr(module, "PRESETS", {})


def make_learner(name: str, fields: dict[str, Any], preset: str | None = None) -> Any:
    """A learner with these hyperparameters, the rest as its preset or its class has them.

    Raises: `BadInput` naming a hyperparameter that does not exist or has the wrong type.
    """
    cls = learner_class(name)
    presets = presets_of(name)
    if preset is not None and preset not in presets:
        raise unknown(f"preset of {name}", preset, presets)
    hints = typing.get_type_hints(cls)
    allowed = [field.name for field in dataclasses.fields(cls)]
    values = {**(presets[preset] if preset else {}), **fields}
    for field in values:
        if field not in allowed:
            raise unknown(f"hyperparameter of {name}", field, allowed)
    return cls(**{field: fitted(f"{name}'s {field}", value, hints[field]) for field, value in values.items()})
