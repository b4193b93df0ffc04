"""Command-line arguments: argparse with one-line errors and flags made from a dataclass's fields.

Every command module exposes `main(arguments: list[str]) -> int`; it raises `BadInput` for what cannot be done, and
`cli.main` prints that one line and exits with status 2.
"""

import argparse
import dataclasses
import difflib
import json
import types
import typing
from typing import Any, NoReturn

from bellmark.errors import BadInput


class Parser(argparse.ArgumentParser):
    """An argument parser whose every complaint is a single `BadInput` line, with a suggestion for a misspelt flag."""

    def __init__(self, **keywords):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see {self.prog} --help")

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Parse all of `arguments`, or say which flag is unknown and which one was probably meant."""
        namespace, unknown = self.parse_known_args(arguments)
        if not unknown:
            return namespace
        flag = next((word for word in unknown if word.startswith("-")), unknown[0])
        flags = sorted(f for action in self._actions for f in action.option_strings if f.startswith("--"))
        near = difflib.get_close_matches(flag.split("=")[0], flags, n=1, cutoff=0.5)
        if not flag.startswith("-"):
            raise BadInput(f"unexpected argument {flag!r}; see {self.prog} --help")
        hint = f" (did you mean {near[0]}?)" if near else ""
        shown = [flag for flag in flags if "_" not in flag]
        raise BadInput(f"unknown flag {flag.split('=')[0]}{hint}; allowed: {', '.join(shown)}")


def boolean(text: str) -> bool:
    if text.lower() in ("true", "yes", "on", "1"):
        return True
    if text.lower() in ("false", "no", "off", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is not true or false")


def integer(text: str) -> int:
    """An integer, with `100_000` and `1e6` understood."""
    try:
        value = float(text.replace("_", ""))
        if value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")


def real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def integers(text: str) -> tuple[int, ...]:
    """`64,64` as (64, 64)."""
    return tuple(integer(part) for part in text.replace("(", "").replace(")", "").split(",") if part.strip())


def _reader(annotation: Any):
    """The function that reads a flag's text as `annotation`; None where a field cannot be a flag."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        members = typing.get_args(annotation)
        readers = [_reader(member) for member in members if member is not type(None)]
        reader = next((r for r in readers if r is not None), None)
        if reader is None or type(None) not in members:
            return reader
        return lambda text: None if text.lower() == "none" else reader(text)
    if typing.get_origin(annotation) is typing.Literal:
        return str
    if typing.get_origin(annotation) is tuple:
        return integers
    return {bool: boolean, int: integer, float: real, str: str}.get(annotation)


def add_fields(group, cls: type, defaults: Any) -> None:
    """One flag per field of the dataclass `cls`: `learning_rate` becomes `--learning-rate` (or `--learning_rate`)."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        reader = _reader(hints[field.name])
        if reader is None:
            continue
        dashed = "--" + field.name.replace("_", "-")
        names = [dashed] if "_" not in field.name else [dashed, "--" + field.name]
        literal = typing.get_origin(hints[field.name]) is typing.Literal
        choices = list(typing.get_args(hints[field.name])) if literal else None
        default = getattr(defaults, field.name)
        text = default if isinstance(default, str) else json.dumps(default, default=str)
        group.add_argument(
            *names,
            dest=f"field:{field.name}",
            type=reader,
            choices=choices,
            default=argparse.SUPPRESS,
            metavar=None if choices else field.name.split("_")[-1].upper(),
            help=f"default {text}",
        )


def given_fields(namespace: argparse.Namespace) -> dict[str, Any]:
    """The fields that the user set by a flag."""
    return {
        name.removeprefix("field:"): value
        for name, value in vars(namespace).items()
        if name.startswith("field:")
    }
