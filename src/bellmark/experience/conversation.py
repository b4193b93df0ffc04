"""Conversations of a language model with an environment: several answers in one episode, and what is said between them.

    text ← prompt
    repeat, at most `turns` times
        y ← an answer to the text so far, drawn from π         actions: the model's own tokens, what `mask` is set for
        e ← what the environment says to it; nothing ends the episode
        text ← text, y, e                                      observations: never drawn, never learned from

An episode is one row: everything that was said after the prompt, in the order in which it was said.  Every turn draws
for all rows, with keys that follow from the seed, the turn and the row's place, so that an episode does not depend on
when the others end.  The first turn's are those of `bellmark.experience.generation.generate`.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from bellmark.experience.generation import CHUNK, Completions, Sampling, generate
from bellmark.networks.transformer import Transformer

Reply = Callable[[int, list[list[int]]], Sequence[int] | None]
"""(row, tokens of every turn that it has answered) to the tokens that the environment says, or None at the end."""


def converse(
    transformer: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    turns: int = 1,
    reply: Reply | None = None,
    max_new_tokens: int,
    group: int,
    seed: int,
    sampling: Sampling,
    end_tokens: Sequence[int],
    stop: Sequence[str] = (),
    decode: Callable[[Sequence[int]], str] = lambda tokens: "",
) -> Completions:
    """`group` episodes of at most `turns` answers to every prompt; an answer has at most `max_new_tokens`.

    `ended` is set where the environment ended the episode, and not where turns or the model's context ran out.
    """
    answer_all = functools.partial(
        generate,
        transformer,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        end_tokens=end_tokens,
        stop=stop,
        decode=decode,
    )
    if reply is None:
        return answer_all(prompts, group=group, seed=seed)
    texts = [list(prompt) for prompt in prompts for _ in range(group)]
    starts = [len(text) for text in texts]
    own: list[list[bool]] = [[] for _ in texts]
    log_probs: list[list[float]] = [[] for _ in texts]
    answered: list[list[list[int]]] = [[] for _ in texts]
    ended, going = np.zeros(len(texts), bool), np.ones(len(texts), bool)
    for turn in range(turns):
        if turn == 0:
            drawn = answer_all(prompts, group=group, seed=seed)
        else:
            another = int(np.random.SeedSequence([seed, turn]).generate_state(1)[0])
            # rows that are over keep their place, so that the others' keys stay theirs
            asked = [text if on else text[:1] for text, on in zip(texts, going, strict=True)]
            drawn = answer_all(asked, group=1, seed=another)
        for row in np.flatnonzero(going).tolist():
            answer = drawn[row]
            texts[row] += answer.tokens.tolist()
            own[row] += [True] * len(answer.tokens)
            log_probs[row] += answer.log_probs.tolist()
            answered[row].append(answer.tokens.tolist())
            said = reply(row, answered[row])
            ended[row] = said is None
            room = transformer.architecture.context - len(texts[row]) - len(said or ()) - max_new_tokens
            going[row] = said is not None and turn + 1 < turns and room >= 0
            if going[row] and said is not None:
                texts[row] += said
                own[row] += [False] * len(said)
                log_probs[row] += [0.0] * len(said)
        if not going.any():
            break
    width = -(-max(map(len, own), default=1) // CHUNK) * CHUNK
    shape = (len(texts), width)
    tokens, mask, real = np.zeros(shape, np.int32), np.zeros(shape, bool), np.zeros(shape, bool)
    remembered = np.zeros(shape, np.float32)
    for row, (text, start) in enumerate(zip(texts, starts, strict=True)):
        length = len(text) - start
        tokens[row, :length], real[row, :length] = text[start:], True
        mask[row, :length], remembered[row, :length] = own[row], log_probs[row]
    said_in_all = [decode(text[start:]) for text, start in zip(texts, starts, strict=True)]
    return Completions([list(p) for p in prompts], group, tokens, mask, remembered, ended, said_in_all, real)
