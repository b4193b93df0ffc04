"""Tasks whose answers can be checked, and files of questions, texts and preferences.

    addition         "7+5="           12          a task is a list of questions with its reward; a fixed fifth of the
    multiplication   "7*5="           35          questions is held out: no learner ever sees them, and pass@1 is
    sorting          "sort 3142="     1234        measured on them
    reversing        "reverse 3142="  2413
    countdown        "3 5 7=22"       an expression of the numbers, each used once, that comes to 22: "3*5+7"
    guessing         "guess 2-8:"     a conversation: "5", "higher:", "7", "lower:", "6"; three guesses

A task's question is a plain text; `template` turns it into what a certain model is asked ("What is {a} + {b}?").
Files are JSONL: {"prompt", "answer"} for questions, {"prompt", "completion"} for imitation (an "answer" will do), and
{"prompt", "chosen", "rejected"} for comparison.
"""

import ast
import dataclasses
import itertools
import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.errors import BadInput, unknown
from bellmark.language import rewards

Record = dict[str, Any]
"""A question: `prompt`, mostly `answer`, and whatever else a reward wants to know."""


Environment = Callable[[Mapping[str, Any], list[str]], str | None]
"""(question's fields, the answers given so far) to what is said to the last of them; None ends the episode."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Questions to learn from, questions that are held out, and the reward of an answer."""

    name: str
    questions: list[Record]
    held_out: list[Record]
    reward: rewards.Reward | None
    reward_name: str
    """As a configuration names it: a task's own reward has the task's name."""
    environment: Environment | None = None
    turns: int = 1


def _split(name: str, records: list[Record], share: float = 0.2) -> tuple[list[Record], list[Record]]:
    """A fixed fifth is held out: the same in every run, whatever its seed."""
    order = np.random.default_rng(sum(name.encode())).permutation(len(records))
    # one record alone is to be learned from
    held = set(order[: max(min(1, len(records) - 1), round(share * len(records)))].tolist())
    learned = [record for i, record in enumerate(records) if i not in held]
    return learned, [records[i] for i in sorted(held)]


def _sums() -> Iterator[Record]:
    for a, b in itertools.product(range(10), repeat=2):
        yield {"prompt": f"{a}+{b}=", "answer": str(a + b), "a": a, "b": b}


def _products() -> Iterator[Record]:
    for a, b in itertools.product(range(10), repeat=2):
        yield {"prompt": f"{a}*{b}=", "answer": str(a * b), "a": a, "b": b}


def _lists(verb: str, change: Callable[[str], str], length: int = 4) -> Iterator[Record]:
    rng = np.random.default_rng(7)
    seen: set[str] = set()
    while len(seen) < 1000:
        digits = "".join(str(d) for d in rng.integers(0, 10, length))
        if digits not in seen:
            seen.add(digits)
            yield {"prompt": f"{verb} {digits}=", "answer": change(digits), "digits": digits}


_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def _countdowns() -> Iterator[Record]:
    rng = np.random.default_rng(11)
    seen: set[tuple[int, int, int, int]] = set()
    while len(seen) < 500:
        a, b, c = sorted(int(x) for x in rng.integers(1, 10, 3))
        one, two = rng.choice(["+", "-", "*"], 2)
        order = [int(x) for x in rng.permutation([a, b, c])]
        answer = f"{order[0]}{one}{order[1]}{two}{order[2]}"
        target = _value(answer)
        if target >= 0 and (a, b, c, target) not in seen:
            seen.add((a, b, c, target))
            prompt = f"{a} {b} {c}={target}:"
            yield {"prompt": prompt, "answer": answer, "numbers": [a, b, c], "target": target}


def _value(expression: str) -> int:
    """The value of an expression of whole numbers with + − * and brackets; nothing else is looked at.

    Raises: `ValueError` for anything else.
    """

    def walk(node: ast.AST) -> int:
        if isinstance(node, ast.Expression):
            return walk(node.body)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        raise ValueError(expression)

    if len(expression) > 200:
        raise ValueError(expression)
    try:
        return walk(ast.parse(expression, mode="eval"))
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(expression) from None


def countdown_reward(question: Mapping[str, Any], text: str) -> rewards.Parts:
    """1 for an expression that uses every number once and comes to the target, 0.1 for one that only uses them."""
    expression = text.strip()
    try:
        value = _value(expression)
    except ValueError:
        return {"correct": 0.0, "numbers": 0.0}
    digits = "".join(c if c.isdigit() else " " for c in expression).split()
    used = sorted(map(int, digits)) == sorted(question["numbers"])
    return {"correct": 0.9 * (used and value == question["target"]), "numbers": 0.1 * used}


def _guesses() -> Iterator[Record]:
    for low, high in itertools.combinations(range(10), 2):
        for target in range(low, high + 1):
            yield {"prompt": f"guess {low}-{high}:", "answer": str(target), "low": low, "high": high}


def higher_or_lower(question: Mapping[str, Any], turns: list[str]) -> str | None:
    """What is said to a guess; nothing to the right one."""
    guess = turns[-1].strip()
    if not guess.isdecimal():
        return "a number:"
    if int(guess) == int(question["answer"]):
        return None
    return "higher:" if int(guess) < int(question["answer"]) else "lower:"


def guessing_reward(question: Mapping[str, Any], text: str) -> float:
    """1 where the last guess is right."""
    guesses = re.findall(r"\d+", text)
    return float(bool(guesses) and guesses[-1] == question["answer"])


_MAKERS: dict[str, tuple[Callable[[], Iterator[Record]], rewards.Reward]] = {
    "addition": (_sums, rewards.number),
    "multiplication": (_products, rewards.number),
    "sorting": (lambda: _lists("sort", lambda digits: "".join(sorted(digits))), rewards.exact),
    "reversing": (lambda: _lists("reverse", lambda digits: digits[::-1]), rewards.exact),
    "countdown": (_countdowns, countdown_reward),
    "guessing": (_guesses, guessing_reward),
}
_CONVERSATIONS: dict[str, tuple[Environment, int]] = {"guessing": (higher_or_lower, 3)}
TASKS = tuple(_MAKERS)


def task_of(
    data: str | Path | list[Record],
    *,
    reward: str | rewards.Reward | None = None,
    template: str | None = None,
    held_out: str | Path | None = None,
    from_file: bool = False,
) -> Task:
    """The task of that name, or the questions of a JSONL file with `reward` (`exact` unless another is named).

    `template` makes the prompt of a question's fields; `held_out` is a file of questions that are kept apart, otherwise
    a fifth of the file is.  Raises: `BadInput`.
    """
    own: rewards.Reward | None = None
    name = "records" if isinstance(data, list) else str(data)
    if isinstance(data, list):
        if not data or not all(isinstance(record.get("prompt"), str) for record in data):
            raise BadInput("records need at least one, and a text `prompt` in each of them")
        learned, held = _split(name, data)
    elif name in _MAKERS:
        make, own = _MAKERS[name]
        learned, held = _split(name, list(make()))
    elif Path(name).expanduser().is_file():
        records = read_records(name)
        learned, held = (
            (records, read_records(held_out, least=0)) if held_out else _split(Path(name).name, records)
        )
    else:
        raise unknown("task or file", name, TASKS)
    if template is not None:
        learned, held = ([_written(template, record) for record in part] for part in (learned, held))
    if callable(reward):
        return Task(name, learned, held, reward, "your own function")
    if reward is not None:
        return Task(name, learned, held, rewards.reward_of(reward, from_file=from_file), reward)
    if name in _CONVERSATIONS and own is not None:
        environment, turns = _CONVERSATIONS[name]
        return Task(name, learned, held, own, name, environment, turns)
    answered = all("answer" in record for record in learned)
    return Task(name, learned, held, own or (rewards.exact if answered else None), name if own else "exact")


def _written(template: str, record: Record) -> Record:
    try:
        return {**record, "prompt": template.format(**record)}
    except (KeyError, IndexError, ValueError, AttributeError):
        raise BadInput(
            f"template {template!r} cannot be filled in; allowed fields: {', '.join(map(str, record))}"
        ) from None


def read_records(path: str | Path, needed: tuple[str, ...] = ("prompt",), least: int = 1) -> list[Record]:
    """The objects of a JSONL file, each with the texts `needed`.  Raises: `BadInput` naming the line."""
    file = Path(path).expanduser()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in needed):
            wanted = ", ".join(f'"{name}": "…"' for name in needed)
            raise BadInput(f"line {number} of {file} is {line[:60]!r}; allowed: {{{wanted}}}")
        records.append(record)
    if len(records) < least:
        raise BadInput(f"{file} is empty; at least one line is needed")
    return records
