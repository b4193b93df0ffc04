"""Prompts with their answers, as learners see them: rows of tokens, and where in them the answers are.

    tokens    [N, T]   prompt and answer of every text, one after the other, padded on the right
    start     [N]      how long the prompt is: where the answer begins
    answer    [N, A]   the answer alone; `mask` is set for its tokens, the one that ended it included, and in a
                       conversation not for what the environment said in between
    log_prob  [N, A]   log-probabilities when it was drawn

Everything that a learner computes of answers is [N, A], as the sampler returned it, so that what was remembered and
what is computed anew stand side by side.

Answers to one prompt that stand together, `group` by `group`, need its hidden states once and not each for itself:
where prompts are as long as answers, that is half of the work.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bellmark.errors import BadInput
from bellmark.experience.generation import Completions
from bellmark.maths.token_log_probs import log_probs_and_entropies
from bellmark.networks.transformer import Transformer
from bellmark.types import Scalar


class Texts(eqx.Module):
    """A batch of prompts with their answers; see the module's docstring."""

    tokens: Int[Array, "N T"]
    start: Int[Array, " N"]
    answer: Int[Array, "N A"]
    mask: Bool[Array, "N A"]
    log_prob: Float[Array, "N A"]
    group: int = eqx.field(static=True, default=1)
    """So many rows at a time are answers to the same prompt, which is read once for all; 1 where their order is any."""
    widths: tuple[int, int] | None = eqx.field(static=True, default=None)
    """Of the longest prompt and the longest answer, rounded up, where a group is read together."""


STEP = 8
"""Widths of rows differ by multiples of this many tokens, so that not every batch is compiled anew."""


def rounded(tokens: int, most: int | None) -> int:
    up = -(-tokens // STEP) * STEP
    return up if most is None else min(up, most)


def texts_of(
    completions: Completions, width: int | None = None, context: int | None = None, shared: bool = False
) -> Texts:
    """The sampler's answers behind their prompts, in rows of `width` tokens.

    `width` is by default the longest text, rounded up in steps, but no wider than the `context` that a model reads.
    The last token of a text predicts nothing, so what learners read is one narrower, and that is what is rounded.
    `shared`: the rows will stay in this order, so that a group's prompt can be read once.
    Raises: `BadInput` where a text is longer than `width`.
    """
    prompts = [prompt for prompt in completions.prompts for _ in range(completions.group)]
    start = np.array([len(prompt) for prompt in prompts], np.int32)
    said = completions.said.sum(1)
    longest, widths = int((start + said).max(initial=1)), None
    if shared and completions.group > 1 and completions.tokens.shape[1] > 1:
        # two at least: the first token of an answer is predicted by its prompt, the others by the answer
        most = max(int(said.max(initial=1)), 2)
        widths = rounded(int(start.max(initial=1)), context), rounded(most, completions.tokens.shape[1])
    if width is None:
        width = rounded(longest - 1, None) + 1 if widths is None else max(sum(widths), longest)
        width = width if context is None else min(width, context)
    if longest > width:
        raise BadInput(f"width is {width}; the longest text has {longest} tokens")
    tokens = np.zeros((len(prompts), width), np.int32)
    for row, prompt, answer, kept in zip(tokens, prompts, completions.tokens, completions.said, strict=True):
        text = [*prompt, *answer[kept]]
        row[: len(text)] = text
    return Texts(
        jnp.array(tokens),
        jnp.array(start),
        jnp.array(completions.tokens),
        jnp.array(completions.mask),
        jnp.array(completions.log_probs),
        1 if widths is None else completions.group,
        widths,
    )


def answer_log_probs(
    transformer: Transformer,
    texts: Texts,
    temperature: Scalar = 1.0,
    *,
    chunk: int = 1024,
    checkpoint: bool = False,
) -> tuple[Float[Array, "N A"], Float[Array, "N A"]]:
    """log π(token) and entropy of softmax(logits / temperature) at every token of the answers, 0 outside the mask.

    One pass over the texts, the logits of `chunk` tokens at a time; what the sampler remembered is equal to it up to
    rounding, as long as the weights are those that it drew with.  `checkpoint`: see `Transformer.hidden`.
    """
    length = texts.answer.shape[1]
    if texts.widths is None or texts.answer.shape[0] % texts.group:
        states = _each_alone(transformer, texts, checkpoint)
    else:
        states = _by_group(transformer, texts, texts.widths, checkpoint)
    read = states.shape[1]
    log_prob, entropy = (
        jnp.pad(x, ((0, 0), (0, length - read)))
        for x in log_probs_and_entropies(
            transformer.unembed, states, texts.answer[:, :read], temperature, chunk
        )
    )
    return jnp.where(texts.mask, log_prob, 0.0), jnp.where(texts.mask, entropy, 0.0)


# The token at place t of a text is predicted at t − 1: the first of an answer by its prompt's last.  The last token of
# a text predicts nothing and is not read.  Places beyond a text's end are masked later, and read anything.


def _each_alone(transformer: Transformer, texts: Texts, checkpoint: bool) -> Float[Array, "N A W"]:
    """The hidden states that predict the answers' tokens."""
    hidden = transformer.hidden(texts.tokens[:, :-1], checkpoint=checkpoint)
    before = texts.start[:, None] - 1 + jnp.arange(texts.answer.shape[1])
    before = jnp.minimum(before, hidden.shape[1] - 1)
    return jnp.take_along_axis(hidden, before[..., None], axis=1)


def _by_group(
    transformer: Transformer, texts: Texts, widths: tuple[int, int], checkpoint: bool
) -> Float[Array, "N R W"]:
    """The same of the first tokens, as many as the longest answer has, every prompt read once for all its answers."""
    prompt = texts.tokens[:: texts.group, : widths[0]]
    length = texts.start[:: texts.group]
    answer = texts.answer[:, : widths[1] - 1]
    asked, said = transformer.branches(prompt, length, answer, checkpoint=checkpoint)
    opening = jnp.take_along_axis(asked, length[:, None, None] - 1, axis=1)
    return jnp.concatenate([jnp.repeat(opening, texts.group, axis=0), said], axis=1)
