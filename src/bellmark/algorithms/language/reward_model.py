"""A reward model: preferences to a number.

R. Bradley, M. Terry, "Rank analysis of incomplete block designs", 1952; L. Ouyang et al., "InstructGPT", 2022, step 2.

    r(x, y) = wᵀ h(x, y),   h: the last hidden state of the text, at its last real token
    descend  −log σ(r(x, y_chosen) − r(x, y_rejected))

Only differences are learned, so the scores' zero means nothing; `centre` adds a little (r_chosen + r_rejected)² to keep
it near 0.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
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
from bellmark.experience.packing import rows_of
from bellmark.experience.texts import Texts
from bellmark.maths.token_losses import bradley_terry
from bellmark.networks.transformer import Transformer
from bellmark.types import Key, Metrics


def text_scores(
    transformer: Transformer, head: Float[Array, " W"], texts: Texts, *, checkpoint: bool = False
) -> Float[Array, " N"]:
    """wᵀh at the last real token of every text; what pads it is to its right and is never seen."""
    hidden = transformer.hidden(texts.tokens, checkpoint=checkpoint)
    last = texts.start - 1 + jnp.max(jnp.where(texts.mask, jnp.arange(1, texts.mask.shape[1] + 1), 0), axis=1)
    state = jnp.take_along_axis(hidden, jnp.maximum(last, 0)[:, None, None], axis=1)[:, 0]
    return jnp.matmul(state.astype(jnp.float32), head)


class Pairs(eqx.Module):
    """Chosen and rejected texts, row by row, with each row's weight in the batch's mean."""

    chosen: Texts
    rejected: Texts
    weight: Float[Array, " N"]


class RewardState(eqx.Module):
    weights: Weights
    head: Float[Array, " W"]
    optimiser: Any
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]


class RewardModelling(AbstractLearner):
    """Bradley–Terry on pairs of answers: a reward model from preferences."""

    name: ClassVar[str] = "reward"

    batch_size: int = 16
    centre: float = 0.01
    learning_rate: float = 1e-4
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
        at_least(0, centre=self.centre)

    def steps_per_iteration(self, problem) -> int:
        return 1

    def init(self, problem, key: Key) -> RewardState:
        weights_key, head_key = jax.random.split(key)
        weights = start_weights(problem.transformer, self.rank, self.alpha, weights_key, compared=False)
        width = problem.transformer.architecture.width
        head = jax.random.normal(head_key, (width,)) / (width + 1) ** 0.5
        optimiser = optimiser_of(self).init((weights.learned, head))
        return RewardState(weights, head, optimiser, jnp.int32(0), jnp.int32(problem.budget))

    def policy(self, state: RewardState):
        return state.weights.policy

    def collect(self, problem, state: RewardState) -> tuple[RewardState, Pairs]:
        pairs = problem.pairs(int(state.iteration), self.batch_size)
        context = problem.transformer.architecture.context
        chosen = rows_of([(pair.prompt, pair.chosen) for pair in pairs], context)
        rejected = rows_of([(pair.prompt, pair.rejected) for pair in pairs], context)
        return state, Pairs(chosen, rejected, jnp.full(len(pairs), 1.0 / len(pairs)))

    def update(self, state: RewardState, data: Pairs) -> tuple[RewardState, Metrics]:
        def loss(learned, rows: Pairs) -> tuple[Array, Metrics]:
            policy = state.weights.with_learned(learned[0])
            chosen, rejected = (
                text_scores(policy, learned[1], texts, checkpoint=self.checkpoint)
                for texts in (rows.chosen, rows.rejected)
            )
            each = bradley_terry(chosen, rejected) + self.centre * jnp.square(chosen + rejected)
            total = jnp.sum(rows.weight * each)
            return total, {
                "preference/accuracy": jnp.sum(rows.weight * (chosen > rejected)),
                "loss/margin": jnp.sum(rows.weight * (chosen - rejected)),
                "loss/negative_log_likelihood": jnp.sum(rows.weight * bradley_terry(chosen, rejected)),
                "preference/score": jnp.sum(rows.weight * (chosen + rejected) / 2),
            }

        moving = (state.weights.learned, state.head)
        rate = learning_rate_at(self, state.iteration, state.horizon)
        ((learned, head), optimiser), metrics = descended(self, (moving, state.optimiser), loss, data, rate)
        weights = state.weights.moved(learned)
        return RewardState(weights, head, optimiser, state.iteration + 1, state.horizon), metrics
