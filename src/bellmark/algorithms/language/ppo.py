"""Proximal policy optimisation of a language model, with a critic and a KL penalty in the reward.

D. Ziegler et al., "Fine-tuning language models from human preferences", 2019; N. Stiennon et al., 2020; L. Ouyang et
al., "InstructGPT", 2022, step 3.

    repeat
        draw G answers to each of P prompts from π_old, score them: s
        r_t ← −β (log π_old(y_t) − log π_ref(y_t)) + 1{y_t is the last real token} s
        Â_t ← generalised advantage of r and V, γ = 1;  V̂_t ← Â_t + V(t)           over the answer's tokens only
        Â ← whitened over all real tokens                                           after the returns were made
        for each of E epochs, for each of M minibatches
            ascend  mean over real tokens of min(ρÂ, clip(ρ, 1−ε, 1+ε) Â) − c_v ½(V − V̂)²
        β ← β (1 + η clip((KL/target − 1), −0.2, 0.2))                              where a target is given

V(t) is a linear function of what the model knows before it writes token t: on the policy's own trunk, or on a trunk of
the critic's own.  KL is of whole answers, Σ_t log π_old/π_ref, averaged over answers, and so is its target: nats per
answer.  An answer that was cut off ends there like any other, unless `truncated` says to mask it or to bootstrap.
"""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, positive
from bellmark.algorithms.language.drawing import computed_anew, draw, in_pieces, mismatch
from bellmark.algorithms.language.weights import (
    Weights,
    check_settings,
    descended,
    in_float32,
    learning_rate_at,
    optimiser_of,
    start_weights,
    whole_minibatches,
)
from bellmark.errors import BadInput
from bellmark.experience.minibatches import minibatch_indices, take
from bellmark.experience.texts import Texts
from bellmark.maths import divergences, losses, means
from bellmark.maths.returns import generalised_advantage
from bellmark.maths.token_log_probs import log_probs_and_entropies
from bellmark.maths.token_losses import token_rewards, token_weights, weighted_sum
from bellmark.networks.transformer import Transformer
from bellmark.types import Key, Metrics


class Critic(eqx.Module):
    """V = wᵀh + b; `trunk` is None where h is the policy's."""

    trunk: Transformer | None
    weight: Float[Array, " W"]
    bias: Float[Array, ""]

    def __call__(self, hidden: Float[Array, "*N W"]) -> Float[Array, "*N"]:
        return jnp.matmul(hidden.astype(jnp.float32), self.weight) + self.bias


class Judged(eqx.Module):
    """What a policy and its critic say of answers, at every token."""

    log_prob: Float[Array, "N A"]
    entropy: Float[Array, "N A"]
    value: Float[Array, "N A"]
    final_value: Float[Array, " N"]


class Rows(eqx.Module):
    texts: Texts
    log_prob: Float[Array, "N A"]
    advantage: Float[Array, "N A"]
    value: Float[Array, "N A"]
    value_target: Float[Array, "N A"]
    weight: Float[Array, "N A"]


class Data(eqx.Module):
    """Answers with their scores, as `update` takes them apart."""

    texts: Texts
    score: Float[Array, " N"]
    cut_off: Bool[Array, " N"]
    old: Judged
    reference: Float[Array, "N A"]
    metrics: Metrics


class LanguagePPOState(eqx.Module):
    weights: Weights
    critic: Critic
    optimiser: Any
    kl_weight: Float[Array, ""]
    key: Key
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]


def judged(
    policy: Transformer, critic: Critic, texts: Texts, temperature, chunk: int, checkpoint: bool = False
) -> Judged:
    """Log-probabilities, entropies and values before every token of the answers, 0 outside the mask."""
    hidden = policy.hidden(texts.tokens, checkpoint=checkpoint)
    length = texts.answer.shape[1]
    # the token at place t is predicted at t − 1, and so is what it will come to
    before = texts.start[:, None] - 1 + jnp.arange(length + 1)
    before = jnp.minimum(before, texts.tokens.shape[1] - 1)
    read = lambda h: jnp.take_along_axis(h, before[..., None], axis=1)  # noqa: E731
    states = read(hidden)
    log_prob, entropy = log_probs_and_entropies(
        policy.unembed, states[:, :-1], texts.answer, temperature, chunk
    )
    if critic.trunk is not None:
        states = read(critic.trunk.hidden(texts.tokens, checkpoint=checkpoint))
    values = critic(states)
    inside = lambda x: jnp.where(texts.mask, x, 0.0)  # noqa: E731
    after = jnp.max(jnp.where(texts.mask, jnp.arange(1, length + 1), 0), axis=1)
    final = jnp.take_along_axis(values, after[:, None], axis=1)[:, 0]
    return Judged(inside(log_prob), inside(entropy), inside(values[:, :-1]), final)


@eqx.filter_jit
def _judged_in_pieces(policy, critic, texts, temperature, micro_batch: int, chunk: int) -> Judged:
    return in_pieces(lambda rows: judged(policy, critic, rows, temperature, chunk), texts, micro_batch)


def answer_advantages(
    reward: Float[Array, "N A"],
    value: Float[Array, "N A"],
    mask: Bool[Array, "N A"],
    trace_decay,
    bootstrap: Float[Array, " N"] | None = None,
) -> Float[Array, "N A"]:
    """Generalised advantages of answers, γ = 1, 0 outside the mask: an answer's last real token ends its episode.

    What an environment says between two turns is no step of the policy's: a turn's last token is followed by the next
    turn's first.
    `bootstrap` is what stands after the last token: V there for an answer that was cut off, 0 otherwise.
    """
    # the policy's own tokens first, in their order: elsewhere than in conversations they stand there already
    order = jnp.argsort(~mask, axis=1, stable=True)
    reward, value, mask = (jnp.take_along_axis(x, order, axis=1) for x in (reward, value, mask))
    later = jnp.concatenate([mask[:, 1:], jnp.zeros_like(mask[:, :1])], axis=1)
    following = jnp.concatenate([value[:, 1:], jnp.zeros_like(value[:, :1])], axis=1)
    ahead = jnp.where(later, following, 0.0 if bootstrap is None else bootstrap[:, None])
    goes_on = later.astype(reward.dtype)
    # V after the last token is what `ahead` says, so nothing is multiplied by 0 there
    advantage = generalised_advantage(
        reward.T, value.T, ahead.T, jnp.ones_like(goes_on).T, goes_on.T, 1.0, trace_decay
    ).T
    back = jnp.argsort(order, axis=1)
    return jnp.take_along_axis(jnp.where(mask, advantage, 0.0), back, axis=1)


class LanguagePPO(AbstractLearner):
    """Proximal policy optimisation for answers: a critic per token, KL to the reference in the reward."""

    name: ClassVar[str] = "ppo"

    prompts: int = 16
    group: int = 1
    max_new_tokens: int = 32
    temperature: float = 1.0
    trace_decay: float = 0.95
    clip: float = 0.2
    kl_weight: float = 0.05
    kl_target: float | None = None
    kl_gain: float = 0.1
    critic: Literal["shared", "separate"] = "shared"
    value_weight: float = 0.1
    value_clip: float | None = None
    whiten: bool = True
    truncated: Literal["keep", "mask", "bootstrap"] = "keep"
    epochs: int = 2
    minibatches: int = 2
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
        at_least(1, prompts=self.prompts, group=self.group, max_new_tokens=self.max_new_tokens)
        at_least(1, epochs=self.epochs, minibatches=self.minibatches)
        at_least(0, kl_weight=self.kl_weight, value_weight=self.value_weight, kl_gain=self.kl_gain)
        positive(temperature=self.temperature, clip=self.clip)
        for name in ("kl_target", "value_clip"):
            if getattr(self, name) is not None:
                positive(**{name: getattr(self, name)})
        if self.kl_target is not None and self.kl_weight == 0:
            raise BadInput(
                "kl_target is given and kl_weight is 0; an adaptive weight needs one to begin with"
            )
        whole_minibatches(self.prompts * self.group, self.minibatches)

    def steps_per_iteration(self, problem) -> int:
        return 1

    def init(self, problem, key: Key) -> LanguagePPOState:
        key, weights_key = jax.random.split(key)
        start = problem.transformer
        weights = start_weights(start, self.rank, self.alpha, weights_key, compared=True)
        trunk = in_float32(start) if self.critic == "separate" else None
        # V = 0 at the start: advantages are then the rewards to go
        critic = Critic(trunk, jnp.zeros(start.architecture.width), jnp.zeros(()))
        optimiser = optimiser_of(self).init((weights.learned, critic))
        return LanguagePPOState(
            weights,
            critic,
            optimiser,
            jnp.float32(self.kl_weight),
            key,
            jnp.int32(0),
            jnp.int32(problem.budget),
        )

    def policy(self, state: LanguagePPOState):
        return state.weights.policy

    def collect(self, problem, state: LanguagePPOState) -> tuple[LanguagePPOState, Data]:
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
        )
        texts = drawn.texts
        pieces = (self.temperature, self.micro_batch, self.chunk)
        old = _judged_in_pieces(policy, state.critic, texts, *pieces)
        reference = computed_anew(state.weights.reference, texts, *pieces)
        metrics = {name: jnp.float32(value) for name, value in drawn.metrics.items()}
        metrics |= mismatch(texts, old.log_prob, str(policy.embedding.dtype), iteration)
        cut_off = jnp.asarray(~drawn.answers.ended)
        return state, Data(texts, jnp.asarray(drawn.score).reshape(-1), cut_off, old, reference, metrics)

    def rows(self, state: LanguagePPOState, data: Data) -> Rows:
        """Rewards per token, advantages and value targets of a batch."""
        mask, old = data.texts.mask, data.old
        reward = token_rewards(data.score, old.log_prob, data.reference, mask, state.kl_weight)
        bootstrap = None
        if self.truncated == "bootstrap":
            bootstrap = jnp.where(data.cut_off, old.final_value, 0.0)
        advantage = answer_advantages(reward, old.value, mask, self.trace_decay, bootstrap)
        # returns before whitening: the critic learns what really came
        target = jnp.where(mask, advantage + old.value, 0.0)
        if self.whiten:
            advantage = means.standardise(advantage, mask)
        return Rows(data.texts, old.log_prob, advantage, old.value, target, jnp.zeros(mask.shape))

    def update(self, state: LanguagePPOState, data: Data) -> tuple[LanguagePPOState, Metrics]:
        key, order_key = jax.random.split(state.key)
        rate = learning_rate_at(self, state.iteration, state.horizon)
        rows = self.rows(state, data)

        def improve(carry, index):
            batch = take(rows, index)
            batch = eqx.tree_at(lambda r: r.weight, batch, token_weights(batch.texts.mask, "token"))
            loss = lambda moving, rows: self.loss(  # noqa: E731
                state.weights.with_learned(moving[0]), moving[1], rows
            )
            return descended(self, carry, loss, batch, rate)

        indices = minibatch_indices(order_key, len(data.score), self.minibatches, self.epochs)
        carry = ((state.weights.learned, state.critic), state.optimiser)
        ((learned, critic), optimiser), metrics = jax.lax.scan(improve, carry, indices)

        mask = data.texts.mask
        whole = jnp.mean(jnp.sum(jnp.where(mask, data.old.log_prob - data.reference, 0.0), axis=1))
        state = LanguagePPOState(
            state.weights.moved(learned),
            critic,
            optimiser,
            self.adapted(state.kl_weight, whole),
            key,
            state.iteration + 1,
            state.horizon,
        )
        inside = jnp.where(mask, rows.value_target, 0.0)
        error = means.mean(jnp.square(rows.value_target - rows.value), mask)
        spread = means.variance(inside, mask)
        return state, {
            **{name: jnp.mean(values) for name, values in metrics.items()},
            **data.metrics,
            "policy/kl_whole": whole,
            "policy/kl_weight": state.kl_weight,
            "value/explained_variance": jnp.where(spread > 0, 1.0 - error / jnp.maximum(spread, 1e-9), 0.0),
        }

    def adapted(self, kl_weight: Float[Array, ""], kl: Float[Array, ""]) -> Float[Array, ""]:
        """β for the next batch: larger where answers are further from the reference than `kl_target` nats."""
        if self.kl_target is None:
            return kl_weight
        error = jnp.clip(kl / self.kl_target - 1.0, -0.2, 0.2)
        return kl_weight * (1.0 + self.kl_gain * error)

    def loss(self, policy: Transformer, critic: Critic, rows: Rows) -> tuple[Array, Metrics]:
        """The rows' share of −surrogate + c_v · value error."""
        now = judged(policy, critic, rows.texts, self.temperature, self.chunk, self.checkpoint)
        surrogate = losses.clipped_surrogate(now.log_prob, rows.log_prob, rows.advantage, self.clip)
        if self.value_clip is None:
            error = losses.squared_error(now.value, rows.value_target)
        else:
            error = losses.clipped_squared_error(now.value, rows.value, rows.value_target, self.value_clip)
        policy_loss, value_loss = weighted_sum(surrogate, rows.weight), weighted_sum(error, rows.weight)
        outside = jnp.abs(jnp.exp(now.log_prob - rows.log_prob) - 1.0) > self.clip
        return policy_loss + self.value_weight * value_loss, {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "policy/entropy": weighted_sum(now.entropy, rows.weight),
            "policy/kl": weighted_sum(divergences.k3(now.log_prob, rows.log_prob), rows.weight),
            "policy/clipped": jnp.sum(rows.weight * outside),
        }
