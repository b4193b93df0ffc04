"""Supervised fine-tuning: imitate given answers.

    repeat
        draw N texts (prompt, answer), pack them into rows
        descend  −Σ log π(y_t | x, y_<t) / (number of answer tokens)      over the answers' tokens, not the prompts'

Behaviour cloning of a language model: maximum likelihood of the actions that somebody took (D. Pomerleau, 1989; L.
Ouyang et al., "InstructGPT", 2022, step 1).  The mean is over all answer tokens of the batch, so packing and the split
into micro-batches change nothing.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least
from bellmark.algorithms.language.weights import (
    Weights,
    check_settings,
    descended,
    learning_rate_at,
    optimiser_of,
    start_weights,
)
from bellmark.errors import BadInput
from bellmark.experience.packing import Packed, next_log_probs, pack, padded_to
from bellmark.types import Key, Metrics


class Rows(eqx.Module):
    """Packed texts with every place's weight in the batch's mean."""

    texts: Packed
    weight: Float[Array, "R T"]


class SFTState(eqx.Module):
    weights: Weights
    optimiser: Any
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]


class SFT(AbstractLearner):
    """Supervised fine-tuning: maximum likelihood of given answers, prompts left out."""

    name: ClassVar[str] = "sft"

    batch_size: int = 32
    width: int = 0
    learning_rate: float = 3e-4
    warm_up: int = 10
    anneal: bool = True
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    micro_batch: int = 16
    chunk: int = 1024
    checkpoint: bool = False
    rank: int = 0
    alpha: float = 32.0

    def check(self, problem) -> None:
        check_settings(self)
        at_least(1, batch_size=self.batch_size)
        at_least(0, width=self.width)
        context = problem.transformer.architecture.context
        if self.width > context:
            raise BadInput(f"width is {self.width}; this model reads at most {context} tokens")

    def steps_per_iteration(self, problem) -> int:
        return 1

    def init(self, problem, key: Key) -> SFTState:
        weights = start_weights(problem.transformer, self.rank, self.alpha, key, compared=False)
        return SFTState(
            weights, optimiser_of(self).init(weights.learned), jnp.int32(0), jnp.int32(problem.budget)
        )

    def policy(self, state: SFTState):
        return state.weights.policy

    def collect(self, problem, state: SFTState) -> tuple[SFTState, Packed]:
        examples = problem.examples(int(state.iteration), self.batch_size)
        longest = max(len(example.prompt) + len(example.answer) for example in examples)
        # by default rows hold four texts or so, rounded up so that few programs are compiled
        width = self.width or min(-(-4 * longest // 64) * 64, problem.transformer.architecture.context)
        packed = pack([(example.prompt, example.answer) for example in examples], width)
        return state, padded_to(packed, -(-len(packed.tokens) // 4) * 4)

    def update(self, state: SFTState, data: Packed) -> tuple[SFTState, Metrics]:
        count = jnp.maximum(jnp.sum(data.follows), 1)
        rows = Rows(data, data.follows / count)
        weights = state.weights

        def loss(learned, rows: Rows) -> tuple[Array, Metrics]:
            policy = weights.with_learned(learned)
            log_prob = next_log_probs(policy, rows.texts, chunk=self.chunk, checkpoint=self.checkpoint)
            total = -jnp.sum(rows.weight * log_prob)
            # a right guess is at least as probable as all others together where its probability is a half
            likely = jnp.sum(rows.weight * (log_prob > jnp.log(0.5)))
            return total, {"loss/negative_log_likelihood": total, "text/likely_tokens": likely}

        rate = learning_rate_at(self, state.iteration, state.horizon)
        moving = (weights.learned, state.optimiser)
        (learned, optimiser), metrics = descended(self, moving, loss, rows, rate)
        state = SFTState(weights.moved(learned), optimiser, state.iteration + 1, state.horizon)
        filled = jnp.mean((data.segment > 0).astype(jnp.float32))
        return state, {
            **metrics,
            "text/answer_tokens": count.astype(jnp.float32),
            "text/filled": filled,
        }
