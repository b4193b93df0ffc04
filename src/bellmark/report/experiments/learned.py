"""Many seeds of a deep learner on a compiled environment, in one program, looked at along the way.

The learners are those of `bellmark train`; only when they are looked at is decided here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bellmark.algorithms.exact import evaluate_policy
from bellmark.mdp.model import FiniteMDP

from .base import Float


def followed(
    setting: Callable[[Any], tuple[Any, Any]],
    values: Any,
    seeds: Sequence[int],
    iterations: int,
    seen: Callable[[Any, Any, dict[str, Any]], Any],
    *,
    every: int = 1,
) -> Any:
    """`seen(learner, state, metrics)` after every `every`-th iteration: arrays [values, seeds, iterations, …].

    `setting(value)` is a learner and its problem, for each of `values`, which may be arrays of one length in a tuple.
    """
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    def one(value, seed):
        learner, problem = setting(value)

        def stretch(state, _):
            state, _ = jax.lax.scan(lambda s, _: (learner.step(problem, s)[0], None), state, None, every - 1)
            state, metrics = learner.step(problem, state)
            return state, seen(learner, state, metrics)

        return jax.lax.scan(stretch, learner.init(problem, jax.random.key(seed)), None, iterations // every)[
            1
        ]

    many = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    tried = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), values)
    return jax.tree.map(np.asarray, eqx.filter_jit(many)(tried, jnp.array(seeds, jnp.uint32)))


def varied(learner: Any, **fields: Any) -> Any:
    """The learner with other values in some of its fields, which may be traced."""
    import equinox as eqx

    return eqx.tree_at(lambda a: [getattr(a, name) for name in fields], learner, list(fields.values()))


def ended(learner: Any, state: Any, metrics: dict[str, Any]) -> tuple[Any, Any]:
    """The sum of the returns of the episodes that ended in an iteration, and their number: for `returns`."""
    import jax.numpy as jnp

    del learner, state
    count = metrics["episode/count"]
    return jnp.where(count > 0, metrics["episode/return"] * count, 0.0), count


def returns(sums: tuple[Any, Any], points: int) -> Float:
    """The mean return of the episodes that ended in each of `points` stretches: [..., points], NaN where none did."""
    total, count = (np.asarray(x, np.float64) for x in sums)
    place = np.arange(total.shape[-1]) * points // total.shape[-1]
    totals, counts = (
        np.stack([x[..., place == p].sum(axis=-1) for p in range(points)], axis=-1) for x in (total, count)
    )
    with np.errstate(invalid="ignore"):
        return totals / counts


def probabilities(states: int) -> Callable[[Any, Any, dict[str, Any]], Any]:
    """π(a|s) in every state of a finite model, [S, A]: for `worth`."""
    import jax.numpy as jnp

    def seen(learner, state, metrics):
        del metrics
        return jnp.exp(learner.policy(state).distribution(jnp.arange(states)).log_probs)

    return seen


def worth(mdp: FiniteMDP, policies: Any, discount: float) -> Float:
    """The exact value of policies [..., S, A], from where episodes start: [...]."""
    policies = np.asarray(policies, np.float64)
    policies = policies / policies.sum(axis=-1, keepdims=True) * ~mdp.terminal[:, None]
    found = [
        mdp.initial_distribution @ evaluate_policy(mdp, policy, discount)
        for policy in policies.reshape(-1, *policies.shape[-2:])
    ]
    return np.reshape(np.array(found, np.float64), policies.shape[:-2])
