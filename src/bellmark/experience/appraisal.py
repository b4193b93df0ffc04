"""What a critic makes of a rollout: V(s), V(s′) and the advantages, and the rollout laid flat with them.

    δ_t = r_t + γ c_t V(s′_t) − V(s_t),   Â_t = δ_t + γλ u_t Â_{t+1},   V̂_t = Â_t + V(s_t)

(J. Schulman et al., "High-dimensional continuous control using generalised advantage estimation", ICLR 2016), with c_t
and u_t as in `bellmark.types.Transition`, and r_t scaled where a run scales its rewards.
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bellmark.experience.minibatches import flatten
from bellmark.experience.normalisation import RewardScale
from bellmark.experience.policy import Inputs
from bellmark.maths.returns import generalised_advantage
from bellmark.networks.recurrent import Recurrent, episode_begins
from bellmark.types import Rollout, Scalar


class Appraisal(eqx.Module):
    """A rollout's features, the rewards to learn from, and a critic's values, in their order."""

    features: Float[Array, "T B *F"]
    reward: Float[Array, "T B"]
    value: Float[Array, "T B"]
    next_value: Float[Array, "T B"]


class Samples(eqx.Module):
    """A rollout, flattened, with what a policy and a critic are to learn from it."""

    features: Float[Array, "N *F"]
    action: Array
    action_mask: Array | None
    advantage: Float[Array, " N"]
    value: Float[Array, " N"]
    value_target: Float[Array, " N"]


def appraise(
    rollout: Rollout,
    inputs: Inputs,
    critic: Callable[[Float[Array, "*B F"]], Float[Array, "*B"]],
    reward_scale: RewardScale | None = None,
) -> Appraisal:
    """V(s) and V(s′) in one batched call, s′ being the true successor also where an episode ended."""
    transition = rollout.transition
    features = inputs(transition.observation)
    values = critic(jnp.stack([features, inputs(transition.next_observation)]))
    reward = transition.reward if reward_scale is None else reward_scale(transition.reward)
    return Appraisal(features, reward, values[0], values[1])


def advantages(
    rollout: Rollout, appraisal: Appraisal, discount: Scalar, trace_decay: Scalar
) -> Float[Array, "T B"]:
    """Generalised advantages Â [T, B]."""
    transition = rollout.transition
    return generalised_advantage(
        appraisal.reward,
        appraisal.value,
        appraisal.next_value,
        transition.continues,
        transition.unbroken,
        discount,
        trace_decay,
    )


def flattened(
    rollout: Rollout,
    appraisal: Appraisal,
    advantage: Float[Array, "T B"],
    value_target: Float[Array, "T B"] | None = None,
) -> Samples:
    """The samples [T·B]; the critic's target is Â + V(s), the λ-return, unless another is given."""
    return Samples(
        features=flatten(appraisal.features),
        action=flatten(rollout.transition.action),
        action_mask=flatten(rollout.action_mask),
        advantage=flatten(advantage),
        value=flatten(appraisal.value),
        value_target=flatten(advantage + appraisal.value if value_target is None else value_target),
    )


def appraise_remembering(
    rollout: Rollout,
    inputs: Inputs,
    core: Recurrent,
    critic: Callable[[Float[Array, "*B H"]], Float[Array, "*B"]],
    memory: Float[Array, "B H"],
    reward_scale: RewardScale | None = None,
) -> tuple[Appraisal, Bool[Array, "T B"], Float[Array, "T B H"]]:
    """V(h) and V(h′) where a memory h is what the critic sees; where episodes begin, and the memory after every step.

    `memory` is what the rollout began with.  The true successor is seen with the memory of the step before it, also
    where an episode ended.
    """
    transition = rollout.transition
    features = inputs(transition.observation)
    begins = episode_begins(transition.unbroken)
    memories = core.unroll(features, begins, memory)
    following = core(inputs(transition.next_observation), memories)
    reward = transition.reward if reward_scale is None else reward_scale(transition.reward)
    return Appraisal(features, reward, critic(memories), critic(following)), begins, memories
