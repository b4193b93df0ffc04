"""Returns and advantages from consecutive steps.

Time leads: every argument is `[T, *B]`, every function is one backward recursion over `T`.  An episode's end is told by
two factors (see `bellmark.types.Transition`): `continues` c (0 where the process terminated) multiplies what follows in
value, `unbroken` u (0 where it terminated *or* was truncated) cuts the recursion.  With them time limits are right by
construction: at a truncation the recursion stops and bootstraps from the value of the true successor.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bellmark.types import Scalar


def discounted_return(
    reward: Float[Array, "T *B"], unbroken: Float[Array, "T *B"], discount: Scalar
) -> Float[Array, "T *B"]:
    """The Monte Carlo return G_t = R_t + γ u_t G_{t+1}, with nothing after the last step: the reward to go."""
    return lambda_return(reward, jnp.zeros_like(reward), unbroken, unbroken, discount, 1.0)


def td_error(
    reward: Float[Array, "T *B"],
    value: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    continues: Float[Array, "T *B"],
    discount: Scalar,
) -> Float[Array, "T *B"]:
    """δ_t = R_t + γ c_t V(s′_t) − V(s_t) (Sutton & Barto, 2018, eq. 6.5)."""
    return reward + discount * continues * next_value - value


def lambda_return(
    reward: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    continues: Float[Array, "T *B"],
    unbroken: Float[Array, "T *B"],
    discount: Scalar,
    trace_decay: Scalar,
) -> Float[Array, "T *B"]:
    """The λ-return G_t = R_t + γ c_t [(1 − λu_t) V(s′_t) + λu_t G_{t+1}], bootstrapped from V(s′) after the last step.

    λ = 0 is the one-step target, λ = 1 the Monte Carlo return with a bootstrap at truncations and at the end of the
    data (Sutton & Barto, 2018, eq. 12.2 in its recursive form).
    """

    def backward(later, step):
        r, v, c, weight = step
        now = r + discount * c * ((1.0 - weight) * v + weight * later)
        return now, now

    weight = trace_decay * unbroken
    _, returns = jax.lax.scan(backward, next_value[-1], (reward, next_value, continues, weight), reverse=True)
    return returns


def n_step_return(
    reward: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    continues: Float[Array, "T *B"],
    unbroken: Float[Array, "T *B"],
    discount: Scalar,
    steps: int,
) -> Float[Array, "T *B"]:
    """The n-step return G_t = Σ_{k<n} γ^k R_{t+k} + γ^n V(s_{t+n}), stopped early where the episode was broken.

    A sum that meets a truncation, or the end of the data, after m < n steps bootstraps there with γ^m V(s′); one that
    meets a termination stops with nothing.  `steps` = n ≥ 1 is static (Sutton & Barto, 2018, eq. 7.1).
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; an n-step return needs at least 1")
    target = reward + discount * continues * next_value
    returns = target
    for _ in range(steps - 1):
        # G^(n)_t = R_t + γ G^(n−1)_{t+1} where the episode goes on, the one-step target where it does not
        following = jnp.concatenate([returns[1:], returns[-1:]])
        goes_on = unbroken.at[-1].set(0.0)
        returns = jnp.where(goes_on > 0, reward + discount * following, target)
    return returns


def n_step_window(
    reward: Float[Array, "n *N"],
    continues: Float[Array, "n *N"],
    unbroken: Float[Array, "n *N"],
    discount: Scalar,
) -> tuple[Float[Array, "*N"], Float[Array, "*N"], Int[Array, "*N"]]:
    """(Σ_{k<m} γ^k R_k, γ^m c_{m−1}, m − 1): the parts of an n-step target over a window of n consecutive steps.

    m ≤ n counts the steps up to and with the first broken one.  The target is the first plus the second times V of the
    successor of step m − 1, the third: `n_step_return` where the values are known only after the windows were drawn.
    """
    going = jnp.concatenate([jnp.ones_like(unbroken[:1]), jnp.cumprod(unbroken[:-1], axis=0)])
    power = discount ** jnp.arange(len(reward), dtype=reward.dtype)
    power = power.reshape(-1, *(1,) * (reward.ndim - 1))
    last = jnp.sum(going, axis=0).astype(jnp.int32) - 1
    factor = jnp.take_along_axis(discount * power * continues, last[None], axis=0)[0]
    return jnp.sum(power * going * reward, axis=0), factor, last


def generalised_advantage(
    reward: Float[Array, "T *B"],
    value: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    continues: Float[Array, "T *B"],
    unbroken: Float[Array, "T *B"],
    discount: Scalar,
    trace_decay: Scalar,
) -> Float[Array, "T *B"]:
    """Â_t = δ_t + γλ u_t Â_{t+1}: generalised advantage estimation (Schulman et al., 2016, eq. 16).

    `next_value` is V of the true successor, so Â is unbiased by resets; λ = 0 gives δ_t, λ = 1 the Monte Carlo
    advantage.  The matching value target is Â_t + V(s_t), the λ-return.
    """
    delta = td_error(reward, value, next_value, continues, discount)

    def backward(later, step):
        error, decay = step
        now = error + decay * later
        return now, now

    decay = discount * trace_decay * unbroken
    _, advantage = jax.lax.scan(backward, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)
    return advantage


def episode_start(unbroken: Float[Array, "T *B"], fresh: Bool[Array, "*B"]) -> Int[Array, "T *B"]:
    """The time at which each step's episode began, -1 where that was before the data.

    `fresh` says which episodes begin at time 0; all others that are under way then began earlier.
    """
    steps = unbroken.shape[0]
    time = jnp.arange(steps).reshape(steps, *(1,) * (unbroken.ndim - 1))
    begins = jnp.concatenate([fresh[None], unbroken[:-1] == 0])
    return jax.lax.cummax(jnp.where(begins, time, -1), axis=0)


def episode_completes(unbroken: Float[Array, "T *B"]) -> Bool[Array, "T *B"]:
    """Whether each step's episode ends within the data."""
    return jax.lax.cummax((unbroken == 0).astype(jnp.int32), axis=0, reverse=True) > 0
