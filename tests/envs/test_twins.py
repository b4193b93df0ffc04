"""The compiled twins equal Gymnasium's classic control, step by step and over whole episodes.

Gymnasium computes in float64 (MountainCarContinuous keeps its state in float32) and shows float32.  So there
are two comparisons, both from Gymnasium's own states injected into the twin:

- one step in float32, from each of thousands of visited states: equal to a few units of float32 rounding,
with every
  `terminated` the same;
- whole episodes in float64 (`jax.enable_x64`): equal to 1e-6, which is float32 rounding of what is shown,
with the
  same length, `terminated` and `truncated`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bellmark.envs.classic_control.acrobot import Acrobot
from bellmark.envs.classic_control.angles import sine_cosine
from bellmark.envs.classic_control.cart_pole import ANGLE_LIMIT, POSITION_LIMIT, CartPole
from bellmark.envs.classic_control.mountain_car import GOAL, LEFT_END, MountainCar
from bellmark.envs.classic_control.mountain_car_continuous import MountainCarContinuous
from bellmark.envs.classic_control.pendulum import Pendulum
from bellmark.envs.registry import TWINS, resolve
from bellmark.envs.wrappers.time_limit import Timed

Policy = Callable[[np.ndarray, np.random.Generator], Any]


def balance(observation, generator):
    """Keeps the pole up for a while, so that long episodes and both edges of the track are met."""
    if generator.random() < 0.1:
        return generator.integers(2)
    return np.int64(observation[2] + 0.3 * observation[3] + 0.02 * observation[0] > 0)


def pump(observation, generator):
    """Pushes the way the car moves, and so reaches the flag."""
    return generator.integers(3) if generator.random() < 0.2 else np.int64(2 * (observation[1] > 0))


def pump_continuously(observation, generator):
    """The same with any force, also ones outside the bounds: the cost is of the force that was asked for."""
    return np.array([generator.uniform(-0.3, 1.5) * (1 if observation[1] > 0 else -1)], np.float32)


def kick(observation, generator):
    """Pushes the hips the way they turn, and so gets the feet above the bar."""
    return generator.integers(3) if generator.random() < 0.1 else np.int64(1 + np.sign(observation[5]))


def twist(observation, generator):
    return generator.uniform(-3, 3, 1).astype(np.float32)


class Case(NamedTuple):
    twin: Any
    policy: Policy
    one_step: float
    """Absolute tolerance of one step in float32: two units in the last place of the largest number shown."""
    stretch: float
    """Absolute tolerance of `STRETCH` steps in float64."""


CASES = {
    "CartPole-v1": Case(CartPole(), balance, 5e-7, 1e-7),
    "MountainCar-v0": Case(MountainCar(), pump, 2.5e-7, 1e-7),
    # Gymnasium rounds this one's state to float32 at every step, and so differs from exact arithmetic.
    "MountainCarContinuous-v0": Case(MountainCarContinuous(), pump_continuously, 2.5e-7, 2e-5),
    "Acrobot-v1": Case(Acrobot(), kick, 4e-6, 1e-7),
    "Pendulum-v1": Case(Pendulum(), twist, 1e-6, 1e-6),
}
EPISODES = 40
STRETCH = 50
"""Two systems are chaotic or unstable: in 500 steps they magnify the last bit of a float64 to anything."""


class Episode(NamedTuple):
    """States before each step and after the last [T + 1, n], and what came of the actions [T, ...]."""

    states: np.ndarray
    actions: np.ndarray
    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def record(name: str, policy: Policy, seed: int) -> Episode:
    environment = gymnasium.make(name, disable_env_checker=True)
    generator = np.random.default_rng(seed)
    observation, _ = environment.reset(seed=seed)
    states, rows = [np.array(environment.unwrapped.state, np.float64)], []
    # Every third episode acts at random: it sees other states than the policy does.
    wild = seed % 3 == 0
    environment.action_space.seed(seed)
    over = False
    while not over:
        action = environment.action_space.sample() if wild else policy(observation, generator)
        observation, reward, terminated, truncated, _ = environment.step(action)
        rows.append((action, observation, reward, terminated, truncated))
        states.append(np.array(environment.unwrapped.state, np.float64))
        over = terminated or truncated
    return Episode(np.stack(states), *(np.array(column) for column in zip(*rows, strict=True)))


def inject(twin, states: np.ndarray):
    """Gymnasium's states [N, n] as the twin's; the pendulum's angle is unbounded there, in [-π, π] here."""
    columns = list(states.T)
    if isinstance(twin, Pendulum):
        columns[0] = columns[0] - 2 * np.pi * np.round(columns[0] / (2 * np.pi))
    kind = type(jax.eval_shape(twin.reset, jax.random.key(0)))
    dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    return kind(*(jnp.asarray(column, dtype) for column in columns))


@pytest.fixture(scope="module")
def episodes():
    return {
        name: [record(name, case.policy, seed) for seed in range(EPISODES)] for name, case in CASES.items()
    }


def test_every_twin_is_compared():
    assert set(CASES) == set(TWINS)


@pytest.mark.parametrize("name", CASES)
def test_one_step_from_every_visited_state(name, episodes):
    case = CASES[name]
    before = np.concatenate([episode.states[:-1] for episode in episodes[name]])
    actions, observations, rewards, terminated = (
        np.concatenate([getattr(episode, field) for episode in episodes[name]])
        for field in ("actions", "observations", "rewards", "terminated")
    )
    assert len(before) > 2000

    @jax.jit
    def one(states, actions):
        after, step = jax.vmap(lambda s, a: case.twin.step(s, a, None))(states, actions)
        return jax.vmap(case.twin.observe)(after), step

    shown, step = jax.device_get(one(inject(case.twin, before), jnp.asarray(actions)))
    assert shown.dtype == step.reward.dtype == np.float32
    np.testing.assert_allclose(shown, observations, rtol=0, atol=case.one_step)
    np.testing.assert_allclose(step.reward, rewards, rtol=1e-6, atol=case.one_step)
    np.testing.assert_array_equal(step.terminated, terminated)
    assert not step.truncated.any()


@pytest.mark.parametrize("name", CASES)
def test_whole_episodes_in_double_precision(name, episodes):
    """All steps of all episodes, in stretches of `STRETCH` steps, time limit included."""
    case, resolved = CASES[name], resolve(name)
    stretches = [(e, t) for e in episodes[name] for t in range(0, len(e.rewards), STRETCH)]
    actions = np.zeros((len(stretches), STRETCH, *episodes[name][0].actions.shape[1:]))
    for row, (episode, t) in zip(actions, stretches, strict=True):
        given = episode.actions[t : t + STRETCH]
        row[: len(given)] = given
    with jax.enable_x64(True):
        state = Timed(
            inject(case.twin, np.stack([episode.states[t] for episode, t in stretches])),
            jnp.array([t for _, t in stretches], jnp.int32),
        )

        @jax.jit
        def play(state, actions):
            def forward(state, action):
                state, step = jax.vmap(lambda s, a: resolved.compiled.step(s, a, None))(state, action)
                return state, (jax.vmap(resolved.compiled.observe)(state), step)

            return jax.lax.scan(forward, state, jnp.swapaxes(actions, 0, 1))[1]

        shown, step = jax.device_get(play(state, jnp.asarray(actions, episodes[name][0].actions.dtype)))
    for index, (episode, t) in enumerate(stretches):
        now, then = slice(0, min(STRETCH, len(episode.rewards) - t)), slice(t, t + STRETCH)
        tolerance = {"rtol": 2.5e-7, "atol": case.stretch}
        np.testing.assert_allclose(shown[now, index], episode.observations[then], **tolerance)
        np.testing.assert_allclose(step.reward[now, index], episode.rewards[then], **tolerance)
        np.testing.assert_array_equal(step.terminated[now, index], episode.terminated[then])
        np.testing.assert_array_equal(step.truncated[now, index], episode.truncated[then])


def test_the_episodes_compared_end_in_every_way(episodes):
    """A comparison that never met an ending would prove little about endings."""
    for name in CASES:
        ends = [(bool(e.terminated[-1]), bool(e.truncated[-1])) for e in episodes[name]]
        assert name == "Pendulum-v1" or (True, False) in ends, name
        assert (False, True) in ends, name


@pytest.mark.parametrize(
    "twin, name, states",
    [
        (
            CartPole(),
            "CartPole-v1",
            [[s * (POSITION_LIMIT + d), 0, 0, 0] for s in (-1, 1) for d in (-1e-9, 0, 1e-9)],
        ),
        (
            CartPole(),
            "CartPole-v1",
            [[0, 0, s * (ANGLE_LIMIT + d), 0] for s in (-1, 1) for d in (-1e-9, 0, 1e-9)],
        ),
        (MountainCar(), "MountainCar-v0", [[GOAL - 0.05 + d, 0.05] for d in (-0.003, -0.001, 0, 0.001)]),
        (
            MountainCar(),
            "MountainCar-v0",
            [[LEFT_END, v] for v in (-0.07, 0, 0.07)] + [[-1.19, -0.07], [0.59, 0.07]],
        ),
    ],
)
def test_one_step_at_the_edges(twin, name, states):
    """At and beside the thresholds, and against the wall, in double precision."""
    environment = gymnasium.make(name, disable_env_checker=True).unwrapped
    environment.reset(seed=0)
    with jax.enable_x64(True):
        for action in range(environment.action_space.n):
            for state in states:
                environment.state = np.array(state, np.float64)
                environment.steps_beyond_terminated = None
                observation, _, terminated, _, _ = environment.step(np.int64(action))
                after, step = twin.step(inject(twin, np.array([state]))._replace(), jnp.asarray(action), None)
                np.testing.assert_allclose(twin.observe(after)[:, 0], observation, rtol=1e-6, atol=1e-7)
                assert bool(step.terminated[0]) == terminated, (state, action)


@pytest.mark.parametrize("name", CASES)
def test_initial_states_have_the_same_distribution(name):
    environment = gymnasium.make(name, disable_env_checker=True)
    theirs = np.stack([environment.reset(seed=seed)[0] for seed in range(2000)])
    twin = CASES[name].twin
    keys = jax.random.split(jax.random.key(1), 8000)
    ours = np.asarray(jax.vmap(lambda key: twin.observe(twin.reset(key)))(keys))
    for component in range(ours.shape[1]):
        if np.ptp(theirs[:, component]) == 0:
            np.testing.assert_array_equal(ours[:, component], theirs[0, component])
            continue
        assert stats.ks_2samp(ours[:, component], theirs[:, component]).pvalue > 1e-3, component
    # A Kolmogorov-Smirnov test hardly sees the ends of a range.
    assert (np.abs(ours.min(0) - theirs.min(0)) <= 0.01 * np.ptp(theirs, axis=0)).all()
    assert (np.abs(ours.max(0) - theirs.max(0)) <= 0.01 * np.ptp(theirs, axis=0)).all()


@pytest.mark.parametrize("name", CASES)
def test_spaces_are_gymnasiums(name):
    environment, resolved = gymnasium.make(name), resolve(name)
    assert resolved.observation_space == environment.observation_space
    assert resolved.action_space == environment.action_space
    assert resolved.time_limit == environment.spec.max_episode_steps


@pytest.mark.parametrize("name", CASES)
def test_pictures(name):
    """A picture of the right kind that changes with the state; how it looks was looked at."""
    twin = CASES[name].twin
    state = jax.device_get(twin.reset(jax.random.key(0)))
    picture = twin.render(state)
    assert picture.shape == (400, 600, 3)
    assert picture.dtype == np.uint8
    moved = twin.render(state._replace(**{state._fields[0]: state[0] + 0.3}))
    assert (picture != moved).any(axis=-1).mean() > 0.002
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_sine_and_cosine():
    """Accurate to two units in the last place, at the quarters' edges too, and rightly differentiated."""
    quarters = np.arange(-60, 61)[:, None] * (np.pi / 4) + np.array([-1e-6, 0, 1e-6])
    uniform = np.random.default_rng(0).uniform(-100, 100, 100_000)
    angles = np.concatenate([quarters.ravel(), uniform]).astype(np.float32)
    sine, cosine = jax.jit(sine_cosine)(angles)
    exact = angles.astype(np.float64)
    np.testing.assert_allclose(sine, np.sin(exact), rtol=0, atol=1.5e-7)
    np.testing.assert_allclose(cosine, np.cos(exact), rtol=0, atol=1.5e-7)
    slope = jax.vmap(jax.grad(lambda angle: sine_cosine(angle)[0]))(jnp.asarray(angles))
    np.testing.assert_allclose(slope, np.cos(exact), rtol=0, atol=1e-6)
    with jax.enable_x64(True):
        sine, cosine = sine_cosine(jnp.asarray(exact))
        np.testing.assert_allclose(sine, np.sin(exact), rtol=0, atol=1e-15)
