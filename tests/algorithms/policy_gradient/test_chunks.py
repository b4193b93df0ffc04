"""How a run is cut into chunks, and which seeds run beside it, never changes a bit of it."""

import contextlib
import logging

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.algorithms.policy_gradient.acktr import ACKTR
from bellmark.algorithms.policy_gradient.ppo import PPO
from bellmark.algorithms.policy_gradient.reinforce import Reinforce
from bellmark.algorithms.policy_gradient.trpo import TRPO
from bellmark.envs.classic_control.cart_pole import CartPole
from bellmark.envs.gymnasium import HostEnvironments
from bellmark.envs.wrappers.time_limit import TimeLimit
from bellmark.experience.host_rollout import HostProblem
from bellmark.experience.rollout import CompiledProblem, episode_metrics
from bellmark.run.engine import CompiledEngine, HostEngine
from bellmark.run.rows import average, merge, weigh
from bellmark.types import Finished

PROBLEM = CompiledProblem(TimeLimit(CartPole(), 12), 10_000, 12)
ALGORITHMS = {
    "ppo": PPO(
        environments=4,
        rollout_length=16,
        hidden=(8,),
        normalise_observations=True,
        normalise_rewards=True,
        value_clip=0.2,
    ),
    "reinforce": Reinforce(environments=4, rollout_length=24, hidden=(8,), normalise_observations=True),
    "trpo": TRPO(environments=4, rollout_length=16, hidden=(8,), value_epochs=2, normalise_rewards=True),
    "acktr": ACKTR(environments=4, rollout_length=8, hidden=(8,), normalise_observations=True),
}


def bits(tree):
    keys = jax.tree.map(
        lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree
    )
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(keys)]


@pytest.fixture(scope="module", params=ALGORITHMS)
def engines(request):
    """Two engines of one algorithm: one seed alone, and the same seed among others."""
    algorithm = ALGORITHMS[request.param]
    alone, among = (CompiledEngine(algorithm, PROBLEM, seeds, row_every=1) for seeds in ([5], [3, 5, 8]))
    for engine in (alone, among):
        engine.compile(engine.start())
    yield alone, among
    alone.close()
    among.close()


def run(engine, *chunks):
    states, rows = engine.start(), []
    for chunk in chunks:
        states, metrics = engine.advance(states, chunk)
        rows.append(metrics)
    return states, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def test_chunks_and_company_do_not_matter(engines):
    alone, among = engines
    states, rows = run(alone, 6)
    in_pieces, pieces = run(alone, 2, 1, 3)
    assert bits(states[0]) == bits(in_pieces[0])
    assert rows.keys() == pieces.keys()
    for name in rows:
        assert rows[name].shape == (6, 1)
        np.testing.assert_array_equal(rows[name], pieces[name], err_msg=name)
    with_others, their_rows = run(among, 4, 2)
    assert bits(with_others[1]) == bits(states[0])
    assert bits(with_others[0]) != bits(states[0])
    for name in rows:
        np.testing.assert_array_equal(their_rows[name][:, 1:2], rows[name], err_msg=name)


def test_a_row_of_several_iterations_is_their_average(engines):
    alone, _ = engines
    states, rows = run(alone, 5)
    by_twos = CompiledEngine(alone.algorithm, PROBLEM, [5], row_every=2)
    by_twos.compile(by_twos.start())
    same, pairs = run(by_twos, 5)
    by_twos.close()
    assert bits(same[0]) == bits(states[0])
    cuts, count = [0, 2, 4], rows["episode/count"]  # the last row is of one iteration
    np.testing.assert_array_equal(pairs["episode/count"], np.add.reduceat(count, cuts))
    total = np.add.reduceat(np.where(count > 0, rows["episode/return"] * count, 0.0), cuts)
    np.testing.assert_allclose(pairs["episode/return"], total / np.add.reduceat(count, cuts), rtol=1e-5)
    sizes = np.array([[2], [2], [1]])
    loss = next(name for name in rows if name.startswith("loss/"))
    mean = np.add.reduceat(rows[loss], cuts) / sizes
    np.testing.assert_allclose(pairs[loss], mean, rtol=1e-5, atol=1e-7)


@contextlib.contextmanager
def compilations(caplog):
    """The names of the programs that are compiled meanwhile, in whichever thread."""
    names = []
    before = jax.config.jax_log_compiles
    jax.config.update("jax_log_compiles", True)
    caplog.clear()
    try:
        with caplog.at_level(logging.WARNING, logger="jax"):
            yield names
            names += [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")]
    finally:
        jax.config.update("jax_log_compiles", before)


def test_nothing_is_compiled_after_the_first_chunk(engines, caplog):
    alone, among = engines
    for engine in (alone, among):
        states, _ = engine.advance(engine.start(), 2)
        with compilations(caplog) as names:
            for chunk in (1, 7, 2):
                states, _ = engine.advance(states, chunk)
        assert names == []
    with compilations(caplog) as names:
        jax.jit(lambda x: x * 3.25 + 1)(jnp.ones(17))
    assert names, "compilations are not seen: this test cannot fail"


def test_host_engine_compiles_its_update_once(caplog):
    algorithm = PPO(environments=2, rollout_length=8, hidden=(4,))
    environments = HostEnvironments(lambda: gymnasium.make("CartPole-v1"), 2, "CartPole-v1")
    problem = HostProblem.open(environments, 1000, 500, seed=0)
    engine = HostEngine(algorithm, [problem], [0], row_every=1)
    states = engine.start()
    engine.compile(states)
    states, _ = engine.advance(states, 2)
    with compilations(caplog) as names:
        states, rows = engine.advance(states, 3)
    engine.close()
    assert names == []
    assert rows["loss/policy"].shape == (3, 1)


def finished_of(rng, time=20, count=4, share=0.3):
    """Episodes with long returns that differ little: where a spread is easily lost in rounding."""
    mask = rng.random((time, count)) < share
    returns = rng.normal(10_000.0, 1.0, (time, count)).astype(np.float32)
    length = rng.integers(1, 500, (time, count)).astype(np.int32)
    return Finished(*map(jnp.asarray, (mask, returns, length)), jnp.int32(1), jnp.int32(0))


@pytest.mark.parametrize("shares", [(0.3, 0.05, 0.9), (0.0, 0.4, 0.0), (0.0, 0.0, 0.0)])
def test_rows_are_the_statistics_of_all_their_episodes(shares):
    rng = np.random.default_rng(0)
    parts = [finished_of(rng, share=share) for share in shares]
    loss = [1.0, 2.0, 6.0]
    sums = None
    for finished, value in zip(parts, loss, strict=True):
        added = weigh({**episode_metrics(finished), "loss/policy": jnp.float32(value)})
        sums = added if sums is None else merge(sums, added)
    row = {name: float(value) for name, value in average(sums).items()}
    mask = np.concatenate([np.asarray(part.mask).ravel() for part in parts])
    returns = np.concatenate([np.asarray(part.undiscounted_return).ravel() for part in parts])[mask].astype(
        float
    )
    length = np.concatenate([np.asarray(part.length).ravel() for part in parts])[mask]
    assert row["episode/count"] == mask.sum()
    assert row["loss/policy"] == 3.0
    assert row["broken/rewards"] == 3
    if not mask.any():
        assert all(np.isnan(row[f"episode/{name}"]) for name in ("return", "return_std", "length"))
        return
    assert row["episode/return"] == pytest.approx(returns.mean(), rel=1e-6)
    assert row["episode/length"] == pytest.approx(length.mean(), rel=1e-6)
    # a returns' last bit in float32 is 0.001 at 10 000, so that much of a spread of 1 is rounding
    assert row["episode/return_std"] == pytest.approx(returns.std(), rel=3e-3)
