"""Prompts with their answers, as learners see them: rows of tokens, and where in them the answers are.

    tokens    [N, T]   prompt and answer of every text, one after the other, padded on the right
    start     [N]      how long the prompt is: where the answer begins
    answer    [N, A]   the answer alone; `mask` is set for its tokens, the one that ended it included, and in a
                       conversation not for what the environment said in between
    log_prob  [N, A]   log-probabilities when it was drawn

Everything that a learner computes of answers is [N, A], as the sampler returned it, so that what was remembered and
what is computed anew stand side by side.
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


STEP = 8
"""Widths of rows differ by multiples of this many tokens, so that not every batch is compiled anew."""


def texts_of(completions: Completions, width: int | None = None, context: int | None = None) -> Texts:
    """The sampler's answers behind their prompts, in rows of `width` tokens.

    `width` is by default the longest text, rounded up in steps, but no wider than the `context` that a model reads.
    The last token of a text predicts nothing, so what learners read is one narrower, and that is what is rounded.
    Raises: `BadInput` where a text is longer than `width`.
    """
    prompts = [prompt for prompt in completions.prompts for _ in range(completions.group)]
    start = np.array([len(prompt) for prompt in prompts], np.int32)
    longest = int((start + completions.said.sum(1)).max(initial=1))
    if width is None:
        width = -(-(longest - 1) // STEP) * STEP + 1
        width = width if context is None else min(width, context)
    if longest > width:
        raise BadInput(f"width is {width}; the longest text has {longest} tokens")
    tokens = np.zeros((len(prompts), width), np.int32)
    for row, prompt, answer, kept in zip(tokens, prompts, completions.tokens, completions.said, strict=True):
        text = [*prompt, *answer[kept]]
        row[: len(text)] = text
    arrays = (tokens, start, completions.tokens, completions.mask, completions.log_probs)
    return Texts(*map(jnp.array, arrays))


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
    # the token at place t is predicted at t − 1, and the last one predicts nothing
    hidden = transformer.hidden(texts.tokens[:, :-1], checkpoint=checkpoint)
    before = texts.start[:, None] - 1 + jnp.arange(texts.answer.shape[1])
    # places beyond a row's end are masked, and read anything
    before = jnp.minimum(before, hidden.shape[1] - 1)
    states = jnp.take_along_axis(hidden, before[..., None], axis=1)
    log_prob, entropy = log_probs_and_entropies(transformer.unembed, states, texts.answer, temperature, chunk)
    return jnp.where(texts.mask, log_prob, 0.0), jnp.where(texts.mask, entropy, 0.0)
