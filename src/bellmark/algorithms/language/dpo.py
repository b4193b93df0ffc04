"""Direct preference optimisation: learning from preferences without a reward model and without sampling.

R. Rafailov, A. Sharma, E. Mitchell, S. Ermon, C. Manning, C. Finn, "Direct preference optimization: your language model
is secretly a reward model", 2023.

    descend  −log σ(β [log π(y_c|x)/π_ref(y_c|x) − log π(y_r|x)/π_ref(y_r|x)])

The optimum of E[r] − β KL(π ‖ π_ref) is π ∝ π_ref exp(r/β): so β log π/π_ref is a reward, up to a constant for each
prompt, and Bradley–Terry on it needs no other.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, fraction, positive
from bellmark.algorithms.language.drawing import computed_anew
from bellmark.algorithms.language.weights import (
    Weights,
    check_settings,
    descended,
    learning_rate_at,
    optimiser_of,
    start_weights,
)
from bellmark.experience.packing import rows_of
from bellmark.experience.texts import Texts, answer_log_probs
from bellmark.maths.token_losses import direct_preference
from bellmark.types import Key, Metrics


class Pairs(eqx.Module):
    """Chosen and rejected answers, the reference's log-probabilities of them, and each row's weight in the mean."""

    chosen: Texts
    rejected: Texts
    reference_chosen: Float[Array, " N"]
    reference_rejected: Float[Array, " N"]
    weight: Float[Array, " N"]


class DPOState(eqx.Module):
    weights: Weights
    optimiser: Any
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]


class DPO(AbstractLearner):
    """Direct preference optimisation: Bradley–Terry with the reward that the policy implies."""

    name: ClassVar[str] = "dpo"

    batch_size: int = 16
    kl_weight: float = 0.1
    label_noise: float = 0.0
    learning_rate: float = 1e-5
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
        positive(kl_weight=self.kl_weight)
        fraction("label_noise", self.label_noise)

    def steps_per_iteration(self, problem) -> int:
        return 1

    def init(self, problem, key: Key) -> DPOState:
        weights = start_weights(problem.transformer, self.rank, self.alpha, key, compared=True)
        optimiser = optimiser_of(self).init(weights.learned)
        return DPOState(weights, optimiser, jnp.int32(0), jnp.int32(problem.budget))

    def policy(self, state: DPOState):
        return state.weights.policy

    def collect(self, problem, state: DPOState) -> tuple[DPOState, Pairs]:
        pairs = problem.pairs(int(state.iteration), self.batch_size)
        context = problem.transformer.architecture.context
        chosen = rows_of([(pair.prompt, pair.chosen) for pair in pairs], context)
        rejected = rows_of([(pair.prompt, pair.rejected) for pair in pairs], context)
        reference = [
            jnp.sum(computed_anew(state.weights.reference, texts, 1.0, self.micro_batch, self.chunk), axis=1)
            for texts in (chosen, rejected)
        ]
        weight = jnp.full(len(pairs), 1.0 / len(pairs))
        return state, Pairs(chosen, rejected, reference[0], reference[1], weight)

    def update(self, state: DPOState, data: Pairs) -> tuple[DPOState, Metrics]:
        def loss(learned, rows: Pairs) -> tuple[Array, Metrics]:
            policy = state.weights.with_learned(learned)
            chosen, rejected = (
                jnp.sum(
                    answer_log_probs(policy, texts, chunk=self.chunk, checkpoint=self.checkpoint)[0], axis=1
                )
                for texts in (rows.chosen, rows.rejected)
            )
            reference = rows.reference_chosen, rows.reference_rejected
            each = direct_preference(chosen, rejected, *reference, self.kl_weight, self.label_noise)
            margin = self.kl_weight * ((chosen - reference[0]) - (rejected - reference[1]))
            total = jnp.sum(rows.weight * each)
            return total, {
                "loss/preference": total,
                "loss/margin": jnp.sum(rows.weight * margin),
                "preference/accuracy": jnp.sum(rows.weight * (margin > 0)),
                "policy/chosen_log_ratio": jnp.sum(rows.weight * (chosen - reference[0])),
                "policy/rejected_log_ratio": jnp.sum(rows.weight * (rejected - reference[1])),
            }

        rate = learning_rate_at(self, state.iteration, state.horizon)
        moving = (state.weights.learned, state.optimiser)
        (learned, optimiser), metrics = descended(self, moving, loss, data, rate)
        weights = state.weights.moved(learned)
        return DPOState(weights, optimiser, state.iteration + 1, state.horizon), metrics
