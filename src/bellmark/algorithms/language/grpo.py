"""Group-relative policy optimisation and its relatives, by composition.

Z. Shao et al., "DeepSeekMath: pushing the limits of mathematical reasoning in open language models", 2024.

    repeat
        draw G answers to each of P prompts from π_old, score them: r
        Â ← (r − mean of the group) / (its standard deviation + ε)
        for each of E epochs, for each of M minibatches
            ascend  Σ_t w_t [min(ρ_t Â, clip(ρ_t, 1−ε, 1+ε') Â) − β KL(π ‖ π_ref)_t],   ρ = π/π_old

What the relatives differ in is a field each, and `PRESETS` names them:

                 advantage           ratio            clip          w_t
    grpo         group, divided      token            0.2           1/tokens of the batch; KL in the loss
    grpo_2024    group, divided      token            0.2           1/(N · own tokens), as first published
    dr_grpo      group               token            0.2           1/(N · longest)           Z. Liu et al., 2025
    dapo         group, divided      token            0.2, 0.28     1/tokens of the batch     Q. Yu et al., 2025
    gspo         group, divided      mean of a text   3e-4, 4e-4    1/(N · own tokens)        C. Zheng et al., 2025
    rloo         leave one out       token            none          1/N; KL in the reward     A. Ahmadian et al., 2024
    reinforce    mean of the batch   token            none          1/N                       R. Williams, 1992

KL goes into the reward (exact for the divergence of whole answers) or into the loss (an unbiased gradient at the states
visited), never into both.  One update per batch needs no old log-probabilities: they are the new ones.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, positive
from bellmark.algorithms.language.drawing import computed_anew, draw, mismatch
from bellmark.algorithms.language.weights import (
    Weights,
    check_settings,
    descended,
    learning_rate_at,
    optimiser_of,
    start_weights,
    whole_minibatches,
)
from bellmark.errors import BadInput, unknown
from bellmark.experience.minibatches import minibatch_indices, take
from bellmark.experience.texts import Texts, answer_log_probs
from bellmark.maths import divergences, losses
from bellmark.maths.group_advantages import group_relative, leave_one_out
from bellmark.maths.token_losses import Averaging, Ratio, log_ratio, reference_kl, token_weights, weighted_sum
from bellmark.types import Key, Metrics

UNCLIPPED = 1e9


class Rows(eqx.Module):
    """Answers with everything that their loss needs.

    `old` is None where the policy is the one that drew them; `weight` is a token's in the loss, `share` its in what is
    logged.
    """

    texts: Texts
    old: Float[Array, "N A"] | None
    reference: Float[Array, "N A"] | None
    advantage: Float[Array, " N"]
    weight: Float[Array, "N A"]
    share: Float[Array, "N A"]


class Data(eqx.Module):
    """What `collect` hands to `update`; the weights in `rows` are made there."""

    rows: Rows
    metrics: Metrics


class GRPOState(eqx.Module):
    weights: Weights
    optimiser: Any
    key: Key
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]


class GRPO(AbstractLearner):
    """Group-relative policy optimisation: answers compared with the other answers to the same prompt."""

    name: ClassVar[str] = "grpo"

    prompts: int = 8
    group: int = 8
    max_new_tokens: int = 32
    temperature: float = 1.0
    advantage: Literal["group", "leave_one_out", "batch"] = "group"
    divide: bool = True
    ratio: Ratio = "token"
    clip: float | None = 0.2
    clip_high: float | None = None
    averaging: Averaging = "token"
    constant_length: int = 0
    kl_weight: float = 0.02
    kl_in: Literal["loss", "reward"] = "loss"
    kl_estimator: Literal["k2", "k3"] = "k3"
    truncated: Literal["keep", "mask"] = "keep"
    overlong: int = 0
    resample: int = 0
    epochs: int = 1
    minibatches: int = 1
    learning_rate: float = 1e-5
    warm_up: int = 0
    anneal: bool = False
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    micro_batch: int = 32
    chunk: int = 1024
    checkpoint: bool = False
    rank: int = 0
    alpha: float = 32.0

    def check(self, problem) -> None:
        check_settings(self)
        at_least(1, prompts=self.prompts, max_new_tokens=self.max_new_tokens)
        at_least(1, epochs=self.epochs, minibatches=self.minibatches)
        at_least(0, kl_weight=self.kl_weight, overlong=self.overlong, resample=self.resample)
        at_least(0, constant_length=self.constant_length)
        positive(temperature=self.temperature)
        for name in ("clip", "clip_high"):
            if getattr(self, name) is not None:
                positive(**{name: getattr(self, name)})
        at_least(1 if self.advantage == "batch" else 2, group=self.group)
        if self.overlong > self.max_new_tokens:
            raise BadInput(
                f"overlong is {self.overlong}; allowed: up to max_new_tokens, {self.max_new_tokens}"
            )
        whole_minibatches(self.prompts * self.group, self.minibatches)

    def steps_per_iteration(self, problem) -> int:
        return 1

    @property
    def on_policy(self) -> bool:
        """Whether the only update of a batch is made with the weights that drew it."""
        return self.epochs * self.minibatches == 1

    def init(self, problem, key: Key) -> GRPOState:
        key, weights_key = jax.random.split(key)
        compared = self.kl_weight > 0
        weights = start_weights(problem.transformer, self.rank, self.alpha, weights_key, compared)
        optimiser = optimiser_of(self).init(weights.learned)
        return GRPOState(weights, optimiser, key, jnp.int32(0), jnp.int32(problem.budget))

    def policy(self, state: GRPOState):
        return state.weights.policy

    def collect(self, problem, state: GRPOState) -> tuple[GRPOState, Data]:
        iteration, policy = int(state.iteration), state.weights.policy
        drawn = draw(
            problem,
            policy,
            iteration,
            prompts=self.prompts,
            group=self.group,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            mask_truncated=self.truncated == "mask",
            overlong=self.overlong,
            resample=self.resample,
            shared=self.on_policy,
        )
        metrics = {name: jnp.float32(value) for name, value in drawn.metrics.items()}
        texts, old, reference = drawn.texts, None, None
        anew = (self.temperature, self.micro_batch, self.chunk)
        # before the first update the sampler is held against the trainer, whatever the learner needs
        if not self.on_policy or iteration == 0 or self.penalised:
            old = computed_anew(policy, texts, *anew)
            metrics |= mismatch(texts, old, str(policy.embedding.dtype), iteration)
        score = jnp.asarray(drawn.score)
        if self.kl_weight > 0:
            reference = computed_anew(state.weights.reference, texts, *anew)
        if self.penalised and old is not None and reference is not None:
            # whole answers are the actions here: log π/π_ref of each, once, with its score
            whole = jnp.sum(jnp.where(texts.mask, old - reference, 0.0), axis=1)
            score = score - self.kl_weight * whole.reshape(score.shape)
            metrics["policy/kl_whole"] = jnp.mean(whole)
        rows = Rows(
            texts,
            None if self.on_policy else old,
            None if self.penalised else reference,
            self.advantages(score).reshape(-1),
            weight=jnp.zeros(texts.mask.shape),
            share=jnp.zeros(texts.mask.shape),
        )
        return state, Data(rows, metrics)

    @property
    def penalised(self) -> bool:
        """Whether the divergence is paid for in the reward."""
        return self.kl_weight > 0 and self.kl_in == "reward"

    def advantages(self, score: Float[Array, "P G"]) -> Float[Array, "P G"]:
        if self.advantage == "leave_one_out":
            return leave_one_out(score)
        if self.advantage == "group":
            return group_relative(score, divide=self.divide)
        return score - jnp.mean(score)

    def update(self, state: GRPOState, data: Data) -> tuple[GRPOState, Metrics]:
        key, order_key = jax.random.split(state.key)
        rate = learning_rate_at(self, state.iteration, state.horizon)

        def improve(carry, rows: Rows):
            mask = rows.texts.mask
            weight = token_weights(mask, self.averaging, self.constant_length or self.max_new_tokens)
            rows = eqx.tree_at(lambda r: (r.weight, r.share), rows, (weight, token_weights(mask, "token")))
            loss = lambda learned, rows: self.loss(state.weights.with_learned(learned), rows)  # noqa: E731
            return descended(self, carry, loss, rows, rate)

        carry = (state.weights.learned, state.optimiser)
        if self.on_policy:
            (learned, optimiser), metrics = improve(carry, data.rows)
        else:
            count = data.rows.advantage.shape[0]
            indices = minibatch_indices(order_key, count, self.minibatches, self.epochs)
            carry, each = jax.lax.scan(lambda c, i: improve(c, take(data.rows, i)), carry, indices)
            (learned, optimiser), metrics = carry, jax.tree.map(jnp.mean, each)
        weights = state.weights.moved(learned)
        state = GRPOState(weights, optimiser, key, state.iteration + 1, state.horizon)
        if not self.on_policy:
            metrics.pop("sampler/mismatch", None)
        return state, {**metrics, **data.metrics}

    def loss(self, policy, rows: Rows) -> tuple[Array, Metrics]:
        """The rows' share of −surrogate + β KL, and of what is logged."""
        texts, weight = rows.texts, rows.weight
        log_prob, entropy = answer_log_probs(
            policy, texts, self.temperature, chunk=self.chunk, checkpoint=self.checkpoint
        )
        old = jax.lax.stop_gradient(log_prob) if rows.old is None else rows.old
        log_rho = log_ratio(log_prob, old, texts.mask, self.ratio)
        wide = jnp.broadcast_to(rows.advantage[:, None], log_rho.shape)
        clip = UNCLIPPED if self.clip is None else self.clip
        surrogate = losses.clipped_surrogate(log_rho, jnp.zeros_like(log_rho), wide, clip, self.clip_high)
        policy_loss = weighted_sum(surrogate, weight)
        share = rows.share
        outside = (log_rho < jnp.log1p(-min(clip, 0.999))) | (log_rho > jnp.log1p(self.clip_high or clip))
        metrics = {
            "loss/policy": policy_loss,
            "policy/entropy": weighted_sum(entropy, share),
            "policy/kl": weighted_sum(divergences.k3(log_prob, old), share),
            "policy/clipped": jnp.sum(share * outside),
            "sampler/mismatch": weighted_sum(jnp.abs(log_prob - texts.log_prob), share),
        }
        if rows.reference is None:
            return policy_loss, metrics
        penalty = weighted_sum(reference_kl(log_prob, old, rows.reference, self.kl_estimator), weight)
        # k3 with the roles so that its mean under π is KL(π ‖ π_ref)
        metrics["policy/kl_reference"] = weighted_sum(divergences.k3(rows.reference, log_prob), share)
        return policy_loss + self.kl_weight * penalty, metrics


PRESETS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "grpo_2024": {"averaging": "sequence", "kl_weight": 0.04},
    "dr_grpo": {"divide": False, "averaging": "constant", "kl_weight": 0.0},
    "dapo": {"clip_high": 0.28, "kl_weight": 0.0, "resample": 3},
    "gspo": {"ratio": "sequence_mean", "averaging": "sequence", "clip": 3e-4, "clip_high": 4e-4},
    "rloo": {
        "advantage": "leave_one_out",
        "clip": None,
        "averaging": "constant",
        "constant_length": 1,
        "kl_in": "reward",
    },
    "reinforce": {
        "advantage": "batch",
        "clip": None,
        "averaging": "constant",
        "constant_length": 1,
        "kl_weight": 0.0,
    },
}
"""What the relatives change; everything else is a default, and everything may be changed further."""


def grpo_preset(name: str, **fields: Any) -> GRPO:
    """GRPO as one of its relatives: `grpo_preset("dr_grpo", group=16)`."""
    if name not in PRESETS:
        raise unknown("preset of grpo", name, PRESETS)
    return dataclasses.replace(GRPO(), **{**PRESETS[name], **fields})
