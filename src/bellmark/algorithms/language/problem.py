"""What learners of texts ask of the world: texts to imitate, pairs to compare, questions to answer, and scores.

Learners see tokens only.  Files, tokenizers and rewards lie behind this door (`bellmark.language.problem`), and so a
world of three tokens in a test is as good a problem as a real model with its tokenizer.  Everything is a function of
the iteration and the seed: a run that is resumed asks the same questions.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from bellmark.experience.generation import Completions
from bellmark.networks.transformer import Transformer

Tokens = Sequence[int]


class Example(NamedTuple):
    """A prompt and the answer that is to be imitated."""

    prompt: Tokens
    answer: Tokens


class Pair(NamedTuple):
    """A prompt with the answer that was preferred and the one that was not."""

    prompt: Tokens
    chosen: Tokens
    rejected: Tokens


class Question(NamedTuple):
    """A prompt; `number` says which of the problem's it is."""

    number: int
    prompt: Tokens


class Scores(NamedTuple):
    """Rewards of answers [N]; where `failed` is set there is none, and the answer teaches nothing."""

    score: np.ndarray
    failed: np.ndarray
    parts: dict[str, np.ndarray]


class TextProblem(Protocol):
    """A problem made of texts."""

    budget: int
    transformer: Transformer
    end_tokens: tuple[int, ...]
    stop: tuple[str, ...]
    turns: int
    """Answers in an episode, at most; from 2 on, `reply` says what comes between them."""

    def examples(self, iteration: int, count: int) -> list[Example]: ...

    def pairs(self, iteration: int, count: int) -> list[Pair]: ...

    def questions(self, iteration: int, count: int, attempt: int = 0) -> list[Question]: ...

    def draw_seed(self, iteration: int, attempt: int = 0) -> int: ...

    def decode(self, tokens: Tokens) -> str: ...

    def reply(self, question: Question, turns: Sequence[Tokens]) -> Tokens | None:
        """What the environment says after the last of these answers; None ends the episode."""
        ...

    def score(self, questions: list[Question], answers: Completions, iteration: int) -> Scores: ...
