"""Texts as learners ask for them: questions in a seeded order, rewards of answers, and a line for every answer.

Which questions an iteration asks, and with which random numbers they are answered, follows from the seed and the
iteration alone, so nothing of it needs saving.
"""

import json
from collections.abc import Callable, Sequence

import equinox as eqx
import numpy as np

from bellmark.algorithms.language.problem import Example, Pair, Question, Scores
from bellmark.errors import BadInput
from bellmark.experience.generation import Completions
from bellmark.language.model import LanguageModel
from bellmark.language.rewards import RewardFailure, parts_of
from bellmark.language.tasks import Record, Task

Scorer = Callable[[list[list[int]], Completions], np.ndarray]
"""Scores [N] of answers by something that reads tokens: a reward model."""


class LanguageProblem:
    """A task, or pairs, put to a model.  Prompts are tokens from here on.

    `chat` puts every prompt into the model's chat template.  `survive` says what a failing reward does: the answer
    teaches nothing and the run goes on, or the run stops with the sample's name.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        budget: int,
        seed: int = 0,
        task: Task | None = None,
        pairs: Sequence[Record] = (),
        scorer: Scorer | None = None,
        chat: bool = False,
        stop: Sequence[str] = (),
        survive: bool = False,
        keep: Callable[[str], None] = lambda line: None,
        warn: Callable[[str], None] = lambda text: None,
    ):
        self.model, self.task, self.scorer = model, task, scorer
        self.transformer, self.end_tokens, self.stop = model.transformer, model.end_tokens, tuple(stop)
        self.budget, self.seed, self.survive, self.chat = budget, seed, survive, chat
        self.keep, self.warn = keep, warn
        self.turns = task.turns if task is not None else 1
        records = task.questions if task is not None else pairs
        self.records = list(records)
        self.prompts = [self.prompt_of(record["prompt"], number) for number, record in enumerate(records)]
        self.held_out = list(task.held_out) if task is not None else []
        self._given: dict[tuple[int, str], list[int]] = {}

    def let_go(self) -> None:
        """Forget the weights, which a learner that compares with nothing holds a copy of; sizes and types stay."""
        self.transformer = eqx.filter_eval_shape(lambda transformer: transformer, self.transformer)
        self.model = self.model.with_transformer(self.transformer)

    def prompt_of(self, text: str, number: int) -> list[int]:
        tokens = self.model.chat_prompt(text) if self.chat else self.model.encode(text)
        if not tokens:
            raise BadInput(f"prompt {number} is empty; at least one token is needed to begin with")
        context = self.model.architecture.context
        if len(tokens) >= context:
            raise BadInput(f"prompt {number} has {len(tokens)} tokens; this model reads at most {context}")
        return tokens

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt, held-out ones included."""
        held = (self.prompt_of(record["prompt"], n) for n, record in enumerate(self.held_out))
        return max(map(len, [*self.prompts, *held]), default=0)

    def check_room(self, max_new_tokens: int) -> None:
        """Raise `BadInput` where a question and its answer do not fit the model's context."""
        context, longest = self.model.architecture.context, self.longest
        max_new_tokens *= self.turns
        if longest + max_new_tokens > context:
            raise BadInput(
                f"the longest prompt has {longest} tokens and its answers up to {max_new_tokens}: together more than "
                f"the {context} that this model reads"
            )

    def decode(self, tokens: Sequence[int]) -> str:
        return self.model.decode(tokens)

    def reply(self, question: Question, turns: Sequence[Sequence[int]]) -> list[int] | None:
        return self.reply_to(self.records[question.number], turns)

    def reply_to(self, record: Record, turns: Sequence[Sequence[int]]) -> list[int] | None:
        """What the task's environment says to the last of these answers, as tokens; None ends the episode."""
        if self.task is None or self.task.environment is None:
            return None
        said = [self.decode(tokens) for tokens in turns]
        try:
            words = self.task.environment(record, said)
            if words is not None and not isinstance(words, str):
                raise TypeError(f"it returned {words!r}; allowed: a text, or None at the end")
        except Exception as error:  # a user's function may raise anything
            self._failed("the environment", record, said[-1], error)
            return None
        return None if words is None else self.model.encode(words, special=False)

    def draw_seed(self, iteration: int, attempt: int = 0) -> int:
        return int(np.random.SeedSequence([self.seed, iteration, attempt]).generate_state(1)[0])

    def _order(self, iteration: int, count: int, attempt: int = 0) -> list[int]:
        """Which records an iteration takes: all of them in a random order, then all in another, and so on."""
        size, chosen = len(self.records), []
        for place in range(iteration * count, (iteration + 1) * count):
            epoch, within = divmod(place, size)
            chosen.append((epoch, within))
        orders = {
            epoch: np.random.default_rng([self.seed, epoch, attempt, 1]).permutation(size)
            for epoch in {epoch for epoch, _ in chosen}
        }
        return [int(orders[epoch][within]) for epoch, within in chosen]

    def answer_tokens(self, number: int, field: str) -> list[int]:
        """The tokens of a given answer, with the end token where the model has one."""
        if (number, field) not in self._given:
            text = str(self.records[number][field])
            tokens = self.model.encode(text, special=False) + list(self.end_tokens[:1])
            if not tokens:
                raise BadInput(f"the {field} of record {number} is empty, and this model has no end token")
            self._given[number, field] = tokens
        return self._given[number, field]

    def examples(self, iteration: int, count: int) -> list[Example]:
        def example(number: int) -> Example:
            record = self.records[number]
            field = next((name for name in ("completion", "answer") if name in record), None)
            if field is None:
                raise BadInput(f"record {number} has neither a completion nor an answer to imitate")
            return Example(self.prompts[number], self.answer_tokens(number, field))

        return [example(number) for number in self._order(iteration, count)]

    def pairs(self, iteration: int, count: int) -> list[Pair]:
        return [
            Pair(
                self.prompts[number],
                self.answer_tokens(number, "chosen"),
                self.answer_tokens(number, "rejected"),
            )
            for number in self._order(iteration, count)
        ]

    def questions(self, iteration: int, count: int, attempt: int = 0) -> list[Question]:
        return [Question(n, self.prompts[n]) for n in self._order(iteration, count, attempt)]

    def score(self, questions: list[Question], answers: Completions, iteration: int) -> Scores:
        """Rewards of a batch of answers, every one of them kept as a line of completions.jsonl."""
        records = [self.records[question.number] for question in questions for _ in range(answers.group)]
        scores = self.judge(records, answers)
        self.keep_answers(records, answers, scores, iteration)
        return scores

    def judge(self, records: Sequence[Record], answers: Completions) -> Scores:
        if self.scorer is not None:
            prompts = [prompt for prompt in answers.prompts for _ in range(answers.group)]
            score = np.asarray(self.scorer(prompts, answers), np.float64)
            return Scores(score, ~np.isfinite(score), {"reward_model": score})
        if self.task is None or self.task.reward is None:
            raise BadInput("these data have no reward; name one: exact, number, regex:PATTERN, sentiment")
        score, failed = np.zeros(len(records)), np.zeros(len(records), bool)
        table: list[dict[str, float]] = []
        for row, (record, text) in enumerate(zip(records, answers.texts, strict=True)):
            try:
                table.append(parts_of(self.task.reward(record, text)))
                score[row] = sum(table[-1].values())
            except Exception as error:  # a user's function may raise anything
                table.append({})
                failed[row], score[row] = True, np.nan
                reward = "the reward" if self.task is None else f"the reward {self.task.reward_name}"
                self._failed(reward, record, text, error)
        names = dict.fromkeys(name for parts in table for name in parts)
        parts = {name: np.array([row.get(name, np.nan) for row in table]) for name in names}
        return Scores(score, failed, parts)

    def _failed(self, what: str, record: Record, text: str, error: Exception) -> None:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        consequence = "the episode ends there" if what == "the environment" else "this answer teaches nothing"
        sample = f"the answer {text[:60]!r} to {record['prompt'][:60]!r}"
        if not self.survive:
            raise RewardFailure(
                f"{what} failed on {sample}: {said}; --on-reward-error skip goes on without such answers"
            ) from error
        self.warn(f"{what} failed on {sample}: {said}; {consequence}")

    def keep_answers(
        self,
        records: Sequence[Record],
        answers: Completions,
        scores: Scores,
        iteration: int,
    ) -> None:
        for row, record in enumerate(records):
            parts = {name: values[row] for name, values in scores.parts.items()}
            line = {
                "iteration": iteration,
                "prompt": record["prompt"],
                "text": answers.texts[row],
                "reward": None if scores.failed[row] else round(float(scores.score[row]), 6),
                "parts": {name: round(float(part), 6) for name, part in parts.items() if np.isfinite(part)},
                "tokens": int(answers.mask[row].sum()),
                "ended": bool(answers.ended[row]),
            }
            self.keep(json.dumps(line, ensure_ascii=False, separators=(",", ":")))
