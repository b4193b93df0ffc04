"""Prompts with answers that are given, not drawn: for imitation and for comparison.

    rows_of    one text a row, padded on the right, as `bellmark.experience.texts`
    pack       several texts a row, numbered, so that attention and positions stay within each of them

A packed batch holds the same texts and the same losses as a padded one; it has fewer places that are padding.
"""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bellmark.errors import BadInput
from bellmark.experience.generation import CHUNK
from bellmark.experience.texts import Texts
from bellmark.maths.token_log_probs import log_probs_and_entropies
from bellmark.networks.transformer import Transformer

Given = Sequence[tuple[Sequence[int], Sequence[int]]]
"""(prompt, answer) as tokens, the answer's end token included."""


class Packed(eqx.Module):
    """Rows of texts one after the other.

    `segment` numbers the texts within a row, from 1, and is 0 on padding; `follows` is set at places whose *next* token
    belongs to the same text's answer: what is predicted there is what the loss counts.
    """

    tokens: Int[Array, "R T"]
    segment: Int[Array, "R T"]
    follows: Bool[Array, "R T"]


def _check(given: Given, longest: int) -> None:
    for number, (prompt, answer) in enumerate(given):
        if not len(prompt) or not len(answer):
            what = "prompt" if not len(prompt) else "answer"
            raise BadInput(f"text {number} has an empty {what}; at least one token is needed")
        if len(prompt) + len(answer) > longest:
            raise BadInput(f"text {number} has {len(prompt)} + {len(answer)} tokens; at most {longest} fit")


def rows_of(given: Given, context: int) -> Texts:
    """One text a row; `log_prob` is 0, for nobody drew these answers."""
    _check(given, context)
    width = min(-(-max(len(p) + len(a) for p, a in given) // CHUNK) * CHUNK, context)
    length = min(-(-max(len(a) for _, a in given) // CHUNK) * CHUNK, context)
    tokens = np.zeros((len(given), width), np.int32)
    answers = np.zeros((len(given), length), np.int32)
    mask = np.zeros((len(given), length), bool)
    for row, (prompt, answer) in enumerate(given):
        tokens[row, : len(prompt) + len(answer)] = [*prompt, *answer]
        answers[row, : len(answer)] = answer
        mask[row, : len(answer)] = True
    start = np.array([len(prompt) for prompt, _ in given], np.int32)
    return Texts(
        jnp.asarray(tokens),
        jnp.asarray(start),
        jnp.asarray(answers),
        jnp.asarray(mask),
        jnp.zeros(mask.shape),
    )


def pack(given: Given, width: int) -> Packed:
    """Texts in rows of `width` tokens, each where it fits first, the longest laid first (first fit decreasing)."""
    _check(given, width)
    order = sorted(range(len(given)), key=lambda i: -len(given[i][0]) - len(given[i][1]))
    rows: list[list[int]] = []
    room: list[int] = []
    for i in order:
        size = len(given[i][0]) + len(given[i][1])
        row = next((r for r, left in enumerate(room) if left >= size), None)
        if row is None:
            rows.append([])
            room.append(width)
            row = len(rows) - 1
        rows[row].append(i)
        room[row] -= size
    tokens = np.zeros((len(rows), width), np.int32)
    segment = np.zeros((len(rows), width), np.int32)
    follows = np.zeros((len(rows), width), bool)
    for r, members in enumerate(rows):
        at = 0
        for number, i in enumerate(members, start=1):
            prompt, answer = given[i]
            end = at + len(prompt) + len(answer)
            tokens[r, at:end] = [*prompt, *answer]
            segment[r, at:end] = number
            follows[r, at + len(prompt) - 1 : end - 1] = True
            at = end
    return Packed(jnp.asarray(tokens), jnp.asarray(segment), jnp.asarray(follows))


def padded_to(packed: Packed, rows: int) -> Packed:
    """The same texts with empty rows added, so that batches of about one size are one program."""
    more = rows - len(packed.tokens)
    fill = lambda x: jnp.concatenate([x, jnp.zeros((more, *x.shape[1:]), x.dtype)])  # noqa: E731
    return Packed(fill(packed.tokens), fill(packed.segment), fill(packed.follows))


def next_log_probs(
    transformer: Transformer, packed: Packed, *, chunk: int = 1024, checkpoint: bool = False
) -> Float[Array, "R T"]:
    """log π of the token that follows each place, 0 where it does not belong to an answer."""
    hidden = transformer.hidden(packed.tokens, packed.segment, checkpoint=checkpoint)
    following = jnp.roll(packed.tokens, -1, axis=1)
    log_prob, _ = log_probs_and_entropies(transformer.unembed, hidden, following, 1.0, chunk)
    return jnp.where(packed.follows, log_prob, 0.0)
