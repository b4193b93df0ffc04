"""What learning from texts adds to the losses that all learners share: ratios of sequences, weights of tokens, a KL
penalty against a reference, and preferences.

Everything is `[B, T]` with a mask that is set for the tokens of the answer, or `[B]`, one number per text.  Surrogates
themselves are `bellmark.maths.losses`: nothing in them knows whether it is given tokens or steps.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bellmark.maths import divergences
from bellmark.types import Scalar

Ratio = Literal["token", "sequence_mean", "sequence"]
Averaging = Literal["token", "sequence", "constant"]


def log_ratio(
    log_prob: Float[Array, "B T"], old_log_prob: Float[Array, "B T"], mask: Bool[Array, "B T"], ratio: Ratio
) -> Float[Array, "B T"]:
    """log ρ of every token, 0 outside the mask.

    token           log π(y_t|·) − log π_old(y_t|·)                    (PPO, GRPO)
    sequence_mean   its mean over the answer, the same at every token   (C. Zheng et al., GSPO, 2025)
    sequence        its sum over the answer: importance sampling of whole answers, unbiased and of high variance
    """
    each = jnp.where(mask, log_prob - old_log_prob, 0.0)
    if ratio == "token":
        return each
    whole = jnp.sum(each, axis=1, keepdims=True)
    if ratio == "sequence_mean":
        whole = whole / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
    return jnp.where(mask, whole, 0.0)


def token_weights(
    mask: Bool[Array, "B T"], averaging: Averaging, length: int | None = None
) -> Float[Array, "B T"]:
    """w with loss = Σ w · (loss per token), 0 outside the mask.

    token      1 / all tokens of the batch                        (Q. Yu et al., DAPO, 2025)
    sequence   1 / (texts · the text's own tokens)                (GRPO as first published: long answers count less)
    constant   1 / (texts · `length`)                             (Dr. GRPO: no bias by length)

    Weights are made from the whole batch; however it is then cut into micro-batches, the sums add up to the same.
    """
    texts = mask.shape[0]
    tokens = jnp.sum(mask, axis=1, keepdims=True)
    if averaging == "token":
        weight = jnp.broadcast_to(1.0 / jnp.maximum(jnp.sum(tokens), 1), mask.shape)
    elif averaging == "sequence":
        weight = jnp.broadcast_to(1.0 / (texts * jnp.maximum(tokens, 1)), mask.shape)
    else:
        weight = jnp.full(mask.shape, 1.0 / (texts * (mask.shape[1] if length is None else length)))
    return jnp.where(mask, weight, 0.0)


def weighted_sum(loss: Float[Array, "B T"], weight: Float[Array, "B T"]) -> Float[Array, ""]:
    """Σ w · loss over the tokens that have a weight; what stands elsewhere, NaN included, stays out."""
    return jnp.sum(jnp.where(weight > 0, loss, 0.0) * weight)


def reference_kl(
    log_prob: Float[Array, "*N"],
    old_log_prob: Float[Array, "*N"],
    reference_log_prob: Float[Array, "*N"],
    estimator: Literal["k2", "k3"] = "k3",
) -> Float[Array, "*N"]:
    """A term for the loss whose expectation under π_old has the gradient of KL(π ‖ reference) at each state visited.

    k3    ρ (r − 1 − log r), r = π_ref/π, ρ = π/π_old: value and gradient unbiased, also off-policy
    k2    ρ̄ ½ (log r)², ρ̄ the ratio held fixed: gradient unbiased, value not

    Neither the plain k1 (its gradient is zero on average) nor the plain k3 (its gradient is that of the reverse
    divergence, KL(π_ref ‖ π)) will do.  States are taken as they come: the effect of a token on the divergence of
    later ones is what `token_rewards` counts and a term in the loss does not.
    """
    log_rho = log_prob - old_log_prob
    if estimator == "k3":
        return jnp.exp(log_rho) * divergences.k3(reference_log_prob, log_prob)
    return jax.lax.stop_gradient(jnp.exp(log_rho)) * divergences.k2(reference_log_prob, log_prob)


def token_rewards(
    score: Float[Array, " B"],
    log_prob: Float[Array, "B T"],
    reference_log_prob: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    kl_weight: Scalar,
) -> Float[Array, "B T"]:
    """r_t = −β (log π(t) − log π_ref(t)), plus the score once, on the answer's last real token (Ziegler et al., 2019).

    The sum over an answer is score − β log(π/π_ref): its expectation is the objective with KL(π ‖ π_ref) of whole
    answers, exactly.  `score` must not contain that penalty already.
    """
    penalty = jnp.where(mask, -kl_weight * (log_prob - reference_log_prob), 0.0)
    # of all real tokens, whatever stands between them: in a conversation others speak too
    left = jnp.cumsum(mask[:, ::-1], axis=1)[:, ::-1]
    return penalty + jnp.where(mask & (left == 1), score[:, None], 0.0)


def bradley_terry(
    chosen: Float[Array, "*N"], rejected: Float[Array, "*N"], margin: Scalar = 0.0
) -> Float[Array, "*N"]:
    """−log σ(r_chosen − r_rejected − margin): minus the log-likelihood of a preference (Bradley & Terry, 1952)."""
    return jax.nn.softplus(rejected - chosen + margin)


def direct_preference(
    chosen: Float[Array, " N"],
    rejected: Float[Array, " N"],
    reference_chosen: Float[Array, " N"],
    reference_rejected: Float[Array, " N"],
    kl_weight: Scalar,
    label_noise: Scalar = 0.0,
) -> Float[Array, " N"]:
    """Bradley–Terry with the reward that the policy itself implies, β log π/π_ref of whole answers (R. Rafailov et al.,
    "Direct preference optimization", 2023); `label_noise` is the share of preferences believed to be the wrong way
    round (E. Mitchell, 2023)."""
    ours, theirs = kl_weight * (chosen - reference_chosen), kl_weight * (rejected - reference_rejected)
    return (1.0 - label_noise) * bradley_terry(ours, theirs) + label_noise * bradley_terry(theirs, ours)
