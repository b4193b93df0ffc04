"""Checks of hyperparameters: one line that says what was given and what is allowed."""

import math

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
