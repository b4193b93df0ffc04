"""Reward scaling by the spread of the discounted return, shared by all parallel environments."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bellmark.maths.moments import Moments
from bellmark.types import Scalar


class RewardScale(eqx.Module):
    """Running discounted returns per environment, R ← γR + r (from 0 after an episode's end), and their moments.

    Rewards are divided by the standard deviation of R and never shifted, so that signs survive (Engstrom et al., 2020).
    """

    running: Float[Array, " B"]
    moments: Moments

    @staticmethod
    def start(environments: int) -> "RewardScale":
        return RewardScale(jnp.zeros(environments), Moments.start(()))

    def seen(
        self, reward: Float[Array, "T B"], unbroken: Float[Array, "T B"], discount: Scalar
    ) -> "RewardScale":
        """The scale after the rewards of a rollout were counted."""

        def forward(running, step):
            r, u = step
            running = discount * running + r
            return running * u, running

        running, returns = jax.lax.scan(forward, self.running, (reward, unbroken))
        return RewardScale(running, self.moments.add(returns.reshape(-1)))

    def __call__(self, reward: Float[Array, "T B"]) -> Float[Array, "T B"]:
        return self.moments.scale(reward)
