"""How often a model answers right: pass@k on questions that it has not learned from.

pass@k is the chance that at least one of k answers is right; from n ≥ k answers with c right ones its unbiased estimate
is 1 − C(n−c, k)/C(n, k) (M. Chen et al., "Evaluating large language models trained on code", 2021).  An answer is right
where its reward is at least 1 up to rounding (countdown's parts add up to 1).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bellmark.experience.conversation import Reply, converse
from bellmark.experience.generation import Sampling
from bellmark.language.problem import LanguageProblem
from bellmark.language.tasks import Record
from bellmark.networks.transformer import Transformer

RIGHT = 1.0 - 1e-6


@dataclasses.dataclass(frozen=True)
class Answered:
    """Rewards [questions, n] of answers, and the answers' texts, question by question."""

    prompts: list[str]
    texts: list[list[str]]
    rewards: np.ndarray
    ended: np.ndarray

    @property
    def mean(self) -> float:
        return float(np.nanmean(self.rewards)) if self.rewards.size else math.nan

    def pass_at(self, k: int) -> float:
        """The unbiased estimate of pass@k, averaged over questions."""
        n = self.rewards.shape[1]
        right = (np.nan_to_num(self.rewards, nan=-np.inf) >= RIGHT).sum(1)
        return float(np.mean([1.0 - math.comb(n - int(c), k) / math.comb(n, k) for c in right]))

    def interval(self, repeats: int = 2000) -> tuple[float, float]:
        """95 % bootstrap interval of pass@1, questions drawn with replacement."""
        each = (np.nan_to_num(self.rewards, nan=-np.inf) >= RIGHT).mean(1)
        drawn = np.random.default_rng(0).choice(each, (repeats, len(each))).mean(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(low), float(high)

    def samples(self, count: int = 8) -> list[dict[str, Any]]:
        """The first answer to each of the first questions."""
        return [
            {
                "prompt": prompt,
                "text": texts[0],
                "reward": None if math.isnan(reward[0]) else float(reward[0]),
            }
            for prompt, texts, reward in zip(
                self.prompts[:count], self.texts[:count], self.rewards[:count], strict=True
            )
        ]


def _replies(problem: LanguageProblem, records: Sequence[Record], n: int) -> Reply | None:
    if problem.turns == 1:
        return None
    return lambda row, turns: problem.reply_to(records[row // n], turns)


def answered(
    problem: LanguageProblem,
    transformer: Transformer,
    *,
    n: int = 4,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
    seed: int = 1_000_003,
    most: int = 64,
    batch: int = 32,
) -> Answered:
    """`n` answers to each of the held-out questions, `most` of them at most, with their rewards.

    Questions are answered `batch` at a time; the seed is apart from those that learners draw with.
    """
    records = problem.held_out[:most]
    texts: list[list[str]] = []
    rewards: list[np.ndarray] = []
    ended: list[np.ndarray] = []
    for first in range(0, len(records), batch):
        part = records[first : first + batch]
        prompts = [problem.prompt_of(record["prompt"], first + i) for i, record in enumerate(part)]
        # the last batch is filled up, so that one program serves all
        filling = min(batch, len(records)) - len(part)
        answers = converse(
            transformer,
            [*prompts, *[prompts[0]] * filling],
            turns=problem.turns,
            reply=_replies(problem, [*part, *[part[0]] * filling], n),
            max_new_tokens=max_new_tokens,
            group=n,
            seed=seed + first,
            sampling=Sampling(temperature=temperature),
            end_tokens=problem.end_tokens,
            stop=problem.stop,
            decode=problem.decode,
        )
        kept = dataclasses.replace(
            answers,
            prompts=answers.prompts[: len(part)],
            real=answers.said[: len(part) * n],
            **{
                name: getattr(answers, name)[: len(part) * n]
                for name in ("tokens", "mask", "log_probs", "ended", "texts")
            },
        )
        scores = problem.judge([record for record in part for _ in range(n)], kept)
        rewards.append(np.where(scores.failed, np.nan, scores.score).reshape(-1, n))
        ended.append(np.asarray(kept.ended).reshape(-1, n))
        texts += [list(kept.texts[i * n : (i + 1) * n]) for i in range(len(part))]
    nothing: Sequence[np.ndarray] = [np.zeros((0, n))]
    return Answered(
        [record["prompt"] for record in records],
        texts,
        np.concatenate(rewards or nothing),
        np.concatenate(ended or nothing).astype(bool),
    )
