"""The sampling views of a finite model: what they simulate has to be the model, by chi-square on fixed
seeds."""

import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import chi2

from bellmark.envs.finite import FiniteEnvironment, cumulative_rows
from bellmark.errors import BadInput
from bellmark.mdp import FiniteMDP, examples

MODELS = [
    examples.grid_world(),
    examples.frozen_lake(),
    examples.gamblers_problem(goal=10),
    examples.river_swim(),
    examples.random_walk(),
    examples.garnet(states=20, actions=3, branching=7, seed=3),
]


def chi_square(observed, probabilities):
    """(statistic, degrees of freedom) of counts against a distribution; impossible outcomes must not
    occur."""
    assert not observed[probabilities == 0].any()
    expected = observed.sum() * probabilities[probabilities > 0]
    return ((observed[probabilities > 0] - expected) ** 2 / expected).sum(), len(expected) - 1


def check_frequencies(mdp, draw):
    """Draw 4000 outcomes from every pair and hold them to the model, all pairs in one test at level 1e-4."""
    statistic, freedom = 0.0, 0
    for state, action in zip(*np.nonzero(mdp.available), strict=True):
        outcomes = {}
        for p, successor, reward, ended in mdp.transitions(state, action):
            key = (successor, np.float32(reward), ended or bool(mdp.terminal[successor]))
            outcomes[key] = outcomes.get(key, 0.0) + p
        counts = dict.fromkeys(outcomes, 0)
        for successor, reward, ended in zip(*draw(state, action, 4000), strict=True):
            counts[int(successor), np.float32(reward), bool(ended)] += 1  # KeyError: an impossible outcome
        pair = chi_square(np.array(list(counts.values())), np.array(list(outcomes.values())))
        statistic, freedom = statistic + pair[0], freedom + pair[1]
    assert freedom == 0 or chi2.sf(statistic, freedom) > 1e-4


@pytest.mark.parametrize("mdp", MODELS, ids=lambda mdp: mdp.name)
def test_compiled_frequencies_match_the_model(mdp):
    environment = FiniteEnvironment(mdp)

    @jax.jit
    def many(state, action, keys):
        return jax.vmap(lambda key: environment.step(state, action, key))(keys)

    def draw(state, action, number):
        keys = jax.random.split(jax.random.key(int(state) * 1000 + int(action)), number)
        successors, step = many(jnp.int32(state), jnp.int32(action), keys)
        assert not step.truncated.any()
        return np.asarray(successors), np.asarray(step.reward), np.asarray(step.terminated)

    check_frequencies(mdp, draw)


def test_gymnasium_frequencies_match_the_model():
    mdp = examples.cleaning_robot(slip=0.2)
    environment = mdp.to_gymnasium()
    environment.reset(seed=0)

    def draw(state, action, number):
        seen = []
        for _ in range(number):
            environment.reset(options={"state": mdp.states[state]})
            successor, reward, ended, truncated, _ = environment.step(action)
            assert not truncated
            seen.append((successor, reward, ended))
        return zip(*seen, strict=True)

    check_frequencies(mdp, draw)


@pytest.mark.parametrize("mdp", [MODELS[1], MODELS[5], examples.blackjack()], ids=lambda mdp: mdp.name)
def test_both_views_start_as_the_model_says(mdp):
    compiled = FiniteEnvironment(mdp)
    starts = np.asarray(jax.vmap(compiled.reset)(jax.random.split(jax.random.key(0), 20_000)))
    environment = mdp.to_gymnasium()
    environment.reset(seed=1)
    for drawn in (starts, [environment.reset()[0] for _ in range(5_000)]):
        statistic, freedom = chi_square(
            np.bincount(drawn, minlength=mdp.num_states), mdp.initial_distribution
        )
        assert freedom == 0 or chi2.sf(statistic, freedom) > 1e-4


def test_padding_and_impossible_entries_are_never_drawn():
    rows = [0.0, 0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0, 1 / 3, 1 / 3, 1 / 3]
    sums = cumulative_rows(np.array(rows), np.array([0, 6, 6, 8, 11]))
    assert_allclose(sums, [0, 0.5, 0.5, 2, 2, 2, 0, 2, 1 / 3, 2 / 3, 2], rtol=1e-6)
    mdp = FiniteMDP.from_arrays(
        [[[0, 1, 0, 2, 0]], [[0, 0, 0, 0, 1]], [[2, 0, 0, 0, 0]]],
        [[[0, 0.25, 0, 0.75, 0]], [[0, 0, 0, 0, 1]], [[1, 0, 0, 0, 0]]],
        np.zeros((3, 1)),
    )
    environment = FiniteEnvironment(mdp)
    keys = jax.random.split(jax.random.key(0), 20_000)
    for state, possible in enumerate([{1, 2}, {1}, {2}]):
        reached, _ = jax.vmap(lambda key, s=state: environment.step(jnp.int32(s), jnp.int32(0), key))(keys)
        assert set(np.asarray(reached).tolist()) == possible


def test_masks_and_unavailable_actions():
    mdp = examples.shortest_path()
    environment = FiniteEnvironment(mdp)
    state = environment.reset(jax.random.key(0))
    mask = environment.action_mask(state)
    assert [mdp.actions[a] for a in np.flatnonzero(mask)] == ["t", "y"]
    stayed, step = environment.step(state, jnp.int32(mdp.actions.index("z")), jax.random.key(1))
    assert stayed == state
    assert np.isnan(step.reward)
    assert not step.terminated
    assert FiniteEnvironment(examples.grid_world()).action_mask(state) is None
    plain = mdp.to_gymnasium()
    plain.reset()
    with pytest.raises(ValueError, match=r"action 4 is not available in state 0; available: \['t', 'y'\]"):
        plain.step(4)


def test_features_are_what_is_observed():
    mdp = examples.short_corridor()
    environment = FiniteEnvironment(mdp, examples.aliased_features())
    assert environment.observation_space == gymnasium.spaces.Box(1.0, 1.0, (1,), np.float32)
    seen = [environment.observe(jnp.int32(state)) for state in range(4)]
    assert all(observation in environment.observation_space for observation in np.asarray(seen))
    plain = FiniteEnvironment(mdp)
    assert plain.observation_space == gymnasium.spaces.Discrete(4)
    assert plain.observe(jnp.int32(3)) == 3
    with pytest.raises(BadInput, match=r"features must be \[4, …\]"):
        FiniteEnvironment(mdp, np.ones((3, 1)))


def test_a_policy_earns_its_value_in_simulation():
    # Stick on 17: the mean of 40 000 simulated blackjack hands within 4 standard errors of the model's
    # own value.
    mdp = examples.blackjack()
    environment = FiniteEnvironment(mdp)
    hits = jnp.array([int(total != "natural" and total < 17) for total, _, _ in mdp.states], jnp.int32)

    def episode(key):
        def move(carry, key):
            state, total, over = carry
            state_next, step = environment.step(state, hits[state], key)
            total = total + jnp.where(over, 0.0, step.reward)
            return (state_next, total, over | step.terminated), None

        start = environment.reset(jax.random.fold_in(key, 99))
        (_, total, over), _ = jax.lax.scan(move, (start, 0.0, False), jax.random.split(key, 15))
        return total, over

    totals, over = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(5), 40_000))
    assert over.all()
    values = np.zeros(mdp.num_states)
    for _ in range(20):  # no hand lasts longer
        for state in range(mdp.num_states):
            outcomes = mdp.transitions(state, int(hits[state]))
            values[state] = sum(p * (r + (not ended) * values[t]) for p, t, r, ended in outcomes)
    expected = mdp.initial_distribution @ values
    assert abs(totals.mean() - expected) < 4 * totals.std() / 200


@pytest.mark.parametrize(
    "mdp", [examples.grid_world(), examples.taxi(), examples.river_swim()], ids=lambda m: m.name
)
def test_gymnasiums_checker_is_content(mdp):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(mdp.to_gymnasium(), skip_render_check=True)
    assert [str(warning.message) for warning in caught if "spec" not in str(warning.message)] == []


def test_gymnasium_view_refuses_misuse():
    environment = examples.random_walk().to_gymnasium()
    with pytest.raises(gymnasium.error.ResetNeeded):
        environment.step(0)
    environment.reset(seed=0)
    while not environment.step(0)[2]:
        pass
    with pytest.raises(gymnasium.error.ResetNeeded):
        environment.step(0)
    with pytest.raises(BadInput, match="render_mode is 'human'"):
        examples.grid_world().to_gymnasium(render_mode="human")
    with pytest.raises(BadInput, match="no grid to draw"):
        examples.taxi().to_gymnasium(render_mode="rgb_array")


def test_there_and_back_through_gymnasium():
    mdp = examples.cliff_walking(slippery=True)
    back = FiniteMDP.from_gymnasium(mdp.to_gymnasium())
    for name in ("successors", "probabilities", "offsets", "rewards", "terminations", "initial_distribution"):
        assert_array_equal(getattr(back, name), getattr(mdp, name))


def test_pictures():
    mdp = examples.grid_world()
    environment = mdp.to_gymnasium(render_mode="rgb_array")
    environment.reset(seed=0)
    picture = environment.render()
    assert picture.shape == (96, 128, 3)
    assert picture.dtype == np.uint8
    assert tuple(picture[80, 16]) == (38, 96, 164)  # the agent, in the bottom left corner
    assert_array_equal(FiniteEnvironment(mdp).render(jnp.int32(mdp.index((2, 0)))), picture)
    spoken = mdp.to_gymnasium(render_mode="ansi")
    spoken.reset(options={"state": (0, 2)})
    assert spoken.render() == "state (0, 2)"
