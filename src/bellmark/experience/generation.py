"""Episodes of a language model: answers to prompts, with the log-probabilities of their tokens.

    state = text so far, action = next token, episode = one answer

    prefill    every prompt once, whatever the size of its group; what attention remembers of it is shared
    repeat     draw a token for every answer from softmax(logits / temperature)
               the tokens' keys and values join the answers' own memory
    until      every answer has ended, or is as long as allowed

The prompts' memory [P, K, T, D] and the answers' own memory [N, K, S, D] stay apart: prompts of different lengths are
padded on the right and masked, all answers write to the same slot of their memory at the same time, and a token's
position is its prompt's length plus its place in the answer.  So nothing is ever padded on the left.  Answers are drawn
in compiled chunks; between two of them the host looks for stop texts, and for answers still under way.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bellmark.errors import BadInput
from bellmark.maths import token_sampling
from bellmark.networks.transformer import Layer, Transformer

CHUNK = 16
"""Tokens between two looks from the host."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn; temperature 0 is greedy.  Learning needs the full vocabulary, the default."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0

    def check(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise BadInput(f"temperature is {self.temperature}; allowed: 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise BadInput(f"top_k is {self.top_k}; allowed: 1 or more")
        if not 0 < self.top_p <= 1:
            raise BadInput(f"top_p is {self.top_p}; allowed: above 0, at most 1")
        if not 0 <= self.min_p <= 1:
            raise BadInput(f"min_p is {self.min_p}; allowed: 0 to 1")


@dataclasses.dataclass(frozen=True)
class Completion:
    """One answer: its tokens (the one that ended it included), their log-probabilities, whether it ended by itself."""

    prompt: list[int]
    tokens: np.ndarray
    log_probs: np.ndarray
    ended: bool
    text: str


@dataclasses.dataclass(frozen=True)
class Completions(Sequence[Completion]):
    """`group` answers to every prompt, one after the other: answer g of prompt p is number p·group + g.

    As arrays: `tokens` int32 [N, T], `mask` [N, T] True for the tokens of the answer (the one that ended it included),
    `log_probs` float32 [N, T], 0 outside the mask; `ended` [N] is False where an answer was cut off at T tokens.
    `real` [N, T] is set for everything that is no padding: the mask, and in a conversation what the environment said.
    """

    prompts: list[list[int]]
    group: int
    tokens: np.ndarray
    mask: np.ndarray
    log_probs: np.ndarray
    ended: np.ndarray
    texts: list[str]
    real: np.ndarray | None = None

    @property
    def said(self) -> np.ndarray:
        """`real`, or the mask where nobody else has said anything."""
        return self.mask if self.real is None else self.real

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        length = int(self.said[index].sum())
        return Completion(
            self.prompts[index // self.group],
            self.tokens[index, :length],
            self.log_probs[index, :length],
            bool(self.ended[index]),
            self.texts[index],
        )


class Memory(eqx.Module):
    """What one layer's attention remembers: of the prompts, shared by a group, and of the answers."""

    prompt_key: Float[Array, "P K T D"]
    prompt_value: Float[Array, "P K T D"]
    key: Float[Array, "N K S D"]
    value: Float[Array, "N K S D"]


class Answers(eqx.Module):
    """The answers under way, and everything that the next token depends on."""

    memory: list[Memory]
    tokens: Int[Array, "N S"]
    log_probs: Float[Array, "N S"]
    mask: Bool[Array, "N S"]
    running: Bool[Array, " N"]


class Prompts(eqx.Module):
    """Prompts padded on the right, and a random key for every answer."""

    tokens: Int[Array, "P T"]
    length: Int[Array, " P"]
    key: Array
    temperature: Float[Array, ""]
    end_tokens: Int[Array, " E"]


@dataclasses.dataclass(frozen=True)
class _Way:
    """What a program is compiled for, beside shapes."""

    greedy: bool
    top_k: int | None
    top_p: float
    min_p: float


def generate(
    transformer: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    group: int,
    seed: int,
    sampling: Sampling,
    end_tokens: Sequence[int],
    stop: Sequence[str] = (),
    decode: Callable[[Sequence[int]], str] = lambda tokens: "",
) -> Completions:
    """`group` answers to every prompt (lists of tokens); see the module's docstring.

    Raises: `BadInput` where a prompt and its answer do not fit the model's context.
    """
    state, ended = None, np.zeros(0, bool)
    walk = chunks(
        transformer,
        prompts,
        max_new_tokens=max_new_tokens,
        group=group,
        seed=seed,
        sampling=sampling,
        end_tokens=end_tokens,
        stop=stop,
        decode=decode,
    )
    for now in walk:
        state, ended = now
    if state is None:
        nothing = np.zeros((0, max_new_tokens))
        empty = nothing.astype(np.int32), nothing.astype(bool), nothing.astype(np.float32)
        return Completions([], group, *empty, ended, [])
    tokens, mask, log_probs = (
        np.array(x)[:, :max_new_tokens] for x in (state.tokens, state.mask, state.log_probs)
    )
    texts = [decode(row[kept].tolist()) for row, kept in zip(tokens, mask, strict=True)]
    return Completions(
        [list(prompt) for prompt in prompts],
        group,
        np.where(mask, tokens, 0).astype(np.int32),
        mask,
        np.where(mask, log_probs, 0).astype(np.float32),
        ended,
        texts,
    )


def chunks(
    transformer: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    group: int,
    seed: int,
    sampling: Sampling,
    end_tokens: Sequence[int],
    stop: Sequence[str] = (),
    decode: Callable[[Sequence[int]], str] = lambda tokens: "",
    chunk: int = CHUNK,
) -> Iterator[tuple[Answers, np.ndarray]]:
    """The answers after every chunk of tokens, and which of them [N] have ended by themselves."""
    for name, value in {"max_new_tokens": max_new_tokens, "group": group}.items():
        if value < 1:
            raise BadInput(f"{name} is {value}; allowed: 1 or more")
    if seed < 0:
        raise BadInput(f"seed is {seed}; allowed: 0 or more")
    sampling.check()
    context = transformer.architecture.context
    for number, prompt in enumerate(prompts):
        if len(prompt) + max_new_tokens > context:
            raise BadInput(
                f"prompt {number} has {len(prompt)} tokens and max_new_tokens is {max_new_tokens}: "
                f"together more than the {context} that this model reads"
            )
    if not prompts:
        return
    given = _prompts(prompts, context, group, seed, sampling.temperature, end_tokens)
    way = _Way(sampling.temperature == 0, sampling.top_k, sampling.top_p, sampling.min_p)
    # one size of memory serves many lengths, so that not every length is compiled anew
    slots = -(-max_new_tokens // CHUNK) * CHUNK
    layers, answers = _begin(transformer, given, group, slots, way)
    rest = eqx.tree_at(lambda t: t.layers, transformer, layers)
    ended = np.zeros(len(prompts) * group, bool)
    done, seen = 1, 0
    while True:
        running = np.asarray(answers.running)
        ended |= ~running
        if stop:
            answers, ended = _stop(answers, ended, stop, decode, seen, min(done, max_new_tokens))
        seen = done
        yield answers, ended.copy()
        if done >= max_new_tokens or not np.asarray(answers.running).any():
            return
        steps = min(chunk - (1 if done == 1 and chunk > 1 else 0), max_new_tokens - done)
        answers = _continue(rest, given, answers, jnp.int32(done), jnp.int32(steps), group, way)
        done += steps


def _prompts(prompts, context: int, group: int, seed: int, temperature: float, end_tokens) -> Prompts:
    longest = max(map(len, prompts))
    width = min(-(-longest // CHUNK) * CHUNK, context)
    tokens = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    # by prompt and answer, so that neither later prompts nor a larger group change earlier answers
    root = jax.random.key(seed)
    by_prompt = jax.vmap(lambda p: jax.random.fold_in(root, p))(jnp.arange(len(prompts)))
    key = jax.vmap(lambda k: jax.vmap(lambda g: jax.random.fold_in(k, g))(jnp.arange(group)))(by_prompt)
    return Prompts(
        jnp.asarray(tokens),
        jnp.asarray([len(prompt) for prompt in prompts], jnp.int32),
        key.reshape(-1),
        jnp.float32(temperature or 1.0),
        jnp.asarray(list(end_tokens), jnp.int32).reshape(-1),
    )


@eqx.filter_jit
def _begin(
    transformer: Transformer, prompts: Prompts, group: int, slots: int, way: _Way
) -> tuple[list[Layer], Answers]:
    """The prompts read, the first token of every answer drawn, and the layers as separate arrays.

    Drawing reads every weight for every token: in one stacked array each layer would be copied out of it each time.
    """
    hidden, remembered = transformer.prefill(prompts.tokens)
    last = jnp.take_along_axis(hidden, (prompts.length - 1)[:, None, None], axis=1)[:, 0]
    count, shared = len(prompts.tokens) * group, transformer.architecture.key_value_heads
    empty = jnp.zeros((count, shared, slots, transformer.architecture.head_size), hidden.dtype)
    memory = [
        Memory(key.swapaxes(1, 2), value.swapaxes(1, 2), empty, empty)
        for key, value in zip(remembered.key, remembered.value, strict=True)
    ]
    nothing = jnp.zeros((count, slots))
    answers = Answers(memory, nothing.astype(jnp.int32), nothing, nothing > 0, jnp.ones(count, bool))
    logits = jnp.repeat(transformer.unembed(last), group, axis=0)
    layers = [transformer.layer(i) for i in range(len(memory))]
    return layers, _drawn(answers, logits, prompts, jnp.int32(0), way)


@eqx.filter_jit(donate="all-except-first")
def _continue_donating(fixed, answers):
    rest, prompts, done, steps, group, way = fixed

    def step(i: Array, answers: Answers) -> Answers:
        time = done + i
        token = jax.lax.dynamic_index_in_dim(answers.tokens, time - 1, 1, keepdims=False)
        position = jnp.repeat(prompts.length, group) + time - 1
        x = rest.embed(token, position)
        rotation = rest.rotation(position)
        memory = []
        for layer, remembered in zip(rest.layers, answers.memory, strict=True):
            query, key, value = layer.queries_keys_values(x, rest.architecture.head_size, rotation)
            remembered = _remember(remembered, key, value, time - 1)
            x = layer.after_attention(x, _read(query, remembered, prompts.length, time))
            memory.append(remembered)
        answers = eqx.tree_at(lambda a: a.memory, answers, memory)
        return _drawn(answers, rest.unembed(rest.norm(x)), prompts, time, way)

    return jax.lax.fori_loop(0, steps, step, answers)


def _continue(rest, prompts: Prompts, answers: Answers, done, steps, group: int, way: _Way) -> Answers:
    """`steps` more tokens for every answer, the first of them number `done`."""
    return _continue_donating((rest, prompts, done, steps, group, way), answers)


def _remember(
    memory: Memory, key: Float[Array, "N K D"], value: Float[Array, "N K D"], slot: Array
) -> Memory:
    place = lambda where, what: jax.lax.dynamic_update_slice(where, what[:, :, None], (0, 0, slot, 0))  # noqa: E731
    return dataclasses.replace(memory, key=place(memory.key, key), value=place(memory.value, value))


def _read(
    query: Float[Array, "N H D"], memory: Memory, length: Int[Array, " P"], written: Array
) -> Float[Array, "N H D"]:
    """Attention of one new token per answer over its prompt and over the first `written` slots of its own memory."""
    count, heads, size = query.shape
    prompts, shared, width, _ = memory.prompt_key.shape
    slots = memory.key.shape[2]
    query = query / math.sqrt(size)
    own = query.reshape(count, shared, heads // shared, size)
    of_group = query.reshape(prompts, count // prompts, shared, heads // shared, size)
    wide = {"preferred_element_type": jnp.float32}
    before = jnp.einsum("pgkrd,pktd->pgkrt", of_group, memory.prompt_key, **wide)
    before = jnp.where(jnp.arange(width) < length[:, None, None, None, None], before, -1e30)
    before = before.reshape(count, shared, -1, width)
    since = jnp.einsum("nkrd,nksd->nkrs", own, memory.key, **wide)
    since = jnp.where(jnp.arange(slots) < written, since, -1e30)
    # one softmax over both: the larger of the two maxima, one sum
    top = jnp.maximum(jnp.max(before, axis=-1), jnp.max(since, axis=-1))[..., None]
    before, since = jnp.exp(before - top), jnp.exp(since - top)
    total = jnp.sum(before, axis=-1, keepdims=True) + jnp.sum(since, axis=-1, keepdims=True)
    before, since = ((part / total).astype(memory.value.dtype) for part in (before, since))
    before = before.reshape(prompts, count // prompts, shared, heads // shared, width)
    read = jnp.einsum("pgkrt,pktd->pgkrd", before, memory.prompt_value).reshape(own.shape)
    return (read + jnp.einsum("nkrs,nksd->nkrd", since, memory.value)).reshape(count, heads, size)


def _drawn(
    answers: Answers, logits: Float[Array, "N V"], prompts: Prompts, time: Array, way: _Way
) -> Answers:
    """The answers with token number `time` drawn; an answer that has ended gets none."""
    if way.greedy:
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        log_prob = jnp.zeros(token.shape)
    else:
        log_probs = token_sampling.log_probabilities(logits, prompts.temperature)
        if way.top_k is not None:
            log_probs = token_sampling.top_k(log_probs, way.top_k)
        if way.top_p < 1:
            log_probs = token_sampling.top_p(log_probs, way.top_p)
        if way.min_p > 0:
            log_probs = token_sampling.min_p(log_probs, way.min_p)
        uniform = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, time)))(prompts.key)
        token = token_sampling.draw(log_probs, uniform)
        log_prob = jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0]
    place = lambda where, what: jax.lax.dynamic_update_slice(where, what[:, None], (0, time))  # noqa: E731
    ends = jnp.any(token[:, None] == prompts.end_tokens, axis=-1)
    return dataclasses.replace(
        answers,
        tokens=place(answers.tokens, token),
        log_probs=place(answers.log_probs, log_prob),
        mask=place(answers.mask, answers.running),
        running=answers.running & ~ends,
    )


def _stop(
    answers: Answers,
    ended: np.ndarray,
    stop: Sequence[str],
    decode: Callable[[Sequence[int]], str],
    seen: int,
    done: int,
) -> tuple[Answers, np.ndarray]:
    """Answers whose text has come to hold one of `stop` ended, right after the token that completed it."""
    tokens, mask = np.asarray(answers.tokens), np.array(answers.mask)
    ended = ended.copy()
    for row in np.flatnonzero(mask[:, seen:done].any(axis=1)):
        length = int(mask[row, :done].sum())
        if not any(text in decode(tokens[row, :length].tolist()) for text in stop):
            continue
        first = next(
            n
            for n in range(min(seen, length), length + 1)
            if any(text in decode(tokens[row, :n].tolist()) for text in stop)
        )
        mask[row, first:] = False
        ended[row] = True
    running = answers.running & ~jnp.asarray(ended)
    return dataclasses.replace(answers, mask=jnp.array(mask), running=running), ended
