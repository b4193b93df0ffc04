"""Answers drawn from the policy, scored, and laid out as learners see them."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bellmark.algorithms.language.problem import Question, Scores, TextProblem
from bellmark.errors import BellmarkError
from bellmark.experience.conversation import Reply, converse
from bellmark.experience.generation import Completions, Sampling
from bellmark.experience.texts import Texts, answer_log_probs, texts_of
from bellmark.networks.transformer import Transformer
from bellmark.types import Metrics, Scalar

MISMATCH_ALLOWED = {"float32": 1e-2, "bfloat16": 0.5}
"""Largest difference between a log-probability that the sampler remembered and the same one computed anew."""


class Drawn(NamedTuple):
    """Groups of answers.  `score` [P, G] is finite everywhere: a failed reward counts as its group's mean."""

    questions: list[Question]
    answers: Completions
    texts: Texts
    scores: Scores
    score: np.ndarray
    metrics: dict[str, float]


def draw(
    problem: TextProblem,
    transformer: Transformer,
    iteration: int,
    *,
    prompts: int,
    group: int,
    max_new_tokens: int,
    temperature: float,
    mask_truncated: bool = False,
    overlong: int = 0,
    resample: int = 0,
    shared: bool = False,
) -> Drawn:
    """`group` answers to each of `prompts` questions, with their scores.

    mask_truncated   answers that were cut off teach nothing (they still count in their group's mean)
    overlong         tokens before the limit over which the score falls by up to 1 (Q. Yu et al., DAPO, 2025)
    resample         how often groups whose scores are all equal are replaced by other questions' (DAPO)
    shared           nobody will change the rows' order, so a group's prompt is read once (`texts_of`)
    """
    kept: list[tuple[Question, Completions, int, np.ndarray, np.ndarray, dict[str, np.ndarray]]] = []
    spare: list = []
    failed = truncated = drawn = 0
    for attempt in range(resample + 1):
        questions = problem.questions(iteration, prompts, attempt)
        answers = converse(
            transformer,
            [question.prompt for question in questions],
            turns=problem.turns,
            reply=_replies(problem, questions, group),
            max_new_tokens=max_new_tokens,
            group=group,
            seed=problem.draw_seed(iteration, attempt),
            sampling=Sampling(temperature=temperature),
            end_tokens=problem.end_tokens,
            stop=problem.stop,
            decode=problem.decode,
        )
        given = problem.score(questions, answers, iteration)
        score = _without_failures(given, group)
        if overlong:
            length = answers.mask.sum(1).reshape(-1, group)
            score = score - np.clip((length - (max_new_tokens - overlong)) / overlong, 0.0, 1.0)
        failed += int(given.failed.sum())
        truncated += int((~answers.ended).sum())
        drawn += len(answers)
        for p, question in enumerate(questions):
            rows = slice(p * group, (p + 1) * group)
            parts = {name: values[rows] for name, values in given.parts.items()}
            one = (question, answers, p, score[p], given.failed[rows], parts)
            (kept if score[p].max() > score[p].min() or not resample else spare).append(one)
        if len(kept) >= prompts:
            break
    chosen = [*kept, *spare][:prompts]
    answers = _together([(answers, p) for _, answers, p, *_ in chosen], group)
    score = np.stack([one[3] for one in chosen]).astype(np.float32)
    lost = np.concatenate([one[4] for one in chosen])
    parts = {name: np.concatenate([one[5][name] for one in chosen]) for name in chosen[0][5]}
    texts = texts_of(answers, context=transformer.architecture.context, shared=shared)
    silent = lost | (~answers.ended if mask_truncated else False)
    texts = eqx.tree_at(lambda t: t.mask, texts, texts.mask & ~jnp.asarray(silent)[:, None])
    equal = score.max(1) <= score.min(1)
    metrics = {
        "episode/return": float(score.mean()),
        "episode/length": float(answers.mask.sum(1).mean()),
        "answers/truncated": truncated / drawn,
        "answers/failed_rewards": float(failed),
        "groups/without_signal": float(equal.mean()) if group > 1 else 0.0,
        "groups/replaced": float(drawn // group - prompts),
    }
    metrics |= {f"reward/{name}": float(np.nanmean(values)) for name, values in parts.items() if len(values)}
    scores = Scores(score.reshape(-1), lost, parts)
    return Drawn([one[0] for one in chosen], answers, texts, scores, score, metrics)


def _without_failures(given: Scores, group: int) -> np.ndarray:
    score = np.where(given.failed, 0.0, given.score).astype(np.float64).reshape(-1, group)
    good = ~given.failed.reshape(-1, group)
    mean = score.sum(1, keepdims=True) / np.maximum(good.sum(1, keepdims=True), 1)
    return np.where(good, score, mean)


def _replies(problem: TextProblem, questions: list[Question], group: int) -> Reply | None:
    if problem.turns == 1:
        return None
    return lambda row, turns: problem.reply(questions[row // group], turns)


def _together(groups: list[tuple[Completions, int]], size: int) -> Completions:
    """The chosen groups as one batch; conversations of different rounds may differ in width."""
    width = max(a.tokens.shape[1] for a, _ in groups)

    def rows(field: str) -> np.ndarray:
        parts = [getattr(a, field)[p * size : (p + 1) * size] for a, p in groups]
        if parts[0].ndim == 2:
            parts = [np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts]
        return np.concatenate(parts)

    return Completions(
        [a.prompts[p] for a, p in groups],
        size,
        rows("tokens"),
        rows("mask"),
        rows("log_probs"),
        rows("ended"),
        [text for a, p in groups for text in a.texts[p * size : (p + 1) * size]],
        rows("said"),
    )


@eqx.filter_jit
def computed_anew(
    transformer: Transformer, texts: Texts, temperature: Scalar, micro_batch: int, chunk: int
) -> Float[Array, "N A"]:
    """log π of every answer's tokens, `micro_batch` rows at a time."""
    return in_pieces(
        lambda rows: answer_log_probs(transformer, rows, temperature, chunk=chunk)[0], texts, micro_batch
    )


def in_pieces(function, rows, micro_batch: int):
    """`function` of rows, with `micro_batch` of them in memory at a time."""
    count = jax.tree.leaves(rows)[0].shape[0]
    if count <= micro_batch:
        return function(rows)
    filling = -count % micro_batch

    def cut(x):
        filled = jnp.concatenate([x, jnp.zeros((filling, *x.shape[1:]), x.dtype)])
        return filled.reshape(-1, micro_batch, *x.shape[1:])

    out = jax.lax.map(function, jax.tree.map(cut, rows))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], out)


def mismatch(texts: Texts, log_prob: Float[Array, "N A"], dtype: str, iteration: int) -> Metrics:
    """How far the sampler's log-probabilities are from those computed anew, which must be next to nothing.

    Raises: `BellmarkError` where the two disagree before the first update: they are then not of one policy.
    """
    difference = np.where(np.asarray(texts.mask), np.abs(np.asarray(log_prob - texts.log_prob)), 0.0)
    largest = float(difference.max(initial=0.0))
    if iteration == 0 and largest > MISMATCH_ALLOWED.get(dtype, 1e-2):
        row, place = np.unravel_index(int(difference.argmax()), difference.shape)
        raise BellmarkError(
            f"sampler and trainer disagree by {largest:.3g} on the log-probability of token {place} of answer {row} "
            f"before the first update; at most {MISMATCH_ALLOWED.get(dtype, 1e-2):g} is rounding"
        )
    tokens = max(int(np.asarray(texts.mask).sum()), 1)
    return {
        "sampler/mismatch_largest": jnp.float32(largest),
        "sampler/mismatch": jnp.float32(difference.sum() / tokens),
    }
