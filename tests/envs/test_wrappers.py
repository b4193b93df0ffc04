"""Wrappers of compiled environments: alone, together, and under vmap and scan."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.envs.classic_control.cart_pole import CartPole
from bellmark.envs.classic_control.pendulum import Pendulum
from bellmark.envs.finite import FiniteEnvironment
from bellmark.envs.registry import resolve
from bellmark.envs.to_gymnasium import ToGymnasium
from bellmark.envs.wrappers import (
    FlattenObservation,
    FrameStack,
    HostFrameStack,
    MaskObservation,
    ScaleAction,
    TimeLimit,
    stacked_frames,
)
from bellmark.errors import BadInput
from bellmark.mdp.examples import EXAMPLES

KEY = jax.random.key(0)


def test_time_limit_truncates_exactly_there():
    environment = TimeLimit(Pendulum(), 3)
    state = environment.reset(KEY)
    cuts = []
    for _ in range(4):
        state, step = environment.step(state, jnp.zeros(1), KEY)
        assert not step.terminated
        cuts.append(bool(step.truncated))
    assert cuts == [False, False, True, True]


def test_time_limit_keeps_a_termination():
    environment = TimeLimit(CartPole(), 1)
    state = environment.reset(KEY)
    state = state._replace(inner=state.inner._replace(position=jnp.float32(3.0)))
    _, step = environment.step(state, jnp.int32(0), KEY)
    assert bool(step.terminated)
    assert bool(step.truncated)


def test_frame_stack_shows_the_last_observations_oldest_first():
    environment = FrameStack(CartPole(), 3)
    state = environment.reset(KEY)
    first = environment.environment.observe(state.inner)
    np.testing.assert_array_equal(environment.observe(state), np.stack([first] * 3))
    seen = [first] * 3
    for action in (0, 1, 1, 0):
        state, _ = environment.step(state, jnp.int32(action), KEY)
        seen.append(environment.environment.observe(state.inner))
        np.testing.assert_array_equal(environment.observe(state), np.stack(seen[-3:]))
    assert environment.observation_space.shape == (3, 4)
    assert environment.observation_space.contains(np.asarray(environment.observe(state)))


def test_frame_stack_puts_pictures_on_channels():
    from bellmark.envs.base import AbstractEnvironment, Step

    class Screen(AbstractEnvironment):
        @property
        def observation_space(self):
            return gymnasium.spaces.Box(0, 255, (4, 5, 2), np.uint8)

        @property
        def action_space(self):
            return gymnasium.spaces.Discrete(2)

        def reset(self, key):
            return jnp.uint8(0)

        def observe(self, state):
            return jnp.full((4, 5, 2), state, jnp.uint8)

        def step(self, state, action, key):
            return state + jnp.uint8(1), Step(jnp.float32(0), jnp.bool_(False), jnp.bool_(False))

    environment = FrameStack(Screen(), 2)
    state, _ = environment.step(environment.reset(KEY), jnp.int32(0), KEY)
    shown = np.asarray(environment.observe(state))
    assert environment.observation_space.contains(shown)
    np.testing.assert_array_equal(shown[0, 0], [0, 0, 1, 1])


@pytest.mark.parametrize("action, torque", [(-1.0, -2.0), (0.0, 0.0), (1.0, 2.0), (0.25, 0.5)])
def test_scale_action(action, torque):
    plain, scaled = Pendulum(), ScaleAction(Pendulum())
    state = plain.reset(KEY)
    expected = plain.step(state, jnp.array([torque]), KEY)
    given = scaled.step(state, jnp.array([action]), KEY)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.allclose(a, b)), given, expected))
    assert scaled.action_space.low == -1
    assert scaled.action_space.high == 1


def test_mask_observation_hides_velocities():
    environment = MaskObservation(CartPole(), (2, 0))
    state = environment.reset(KEY)
    full = environment.environment.observe(state)
    np.testing.assert_array_equal(environment.observe(state), [full[2], full[0]])
    assert environment.observation_space.contains(np.asarray(environment.observe(state)))


def test_flatten_observation_of_a_choice():
    environment = FlattenObservation(FiniteEnvironment(EXAMPLES["two-states"]()))
    state = environment.reset(KEY)
    shown = np.asarray(environment.observe(state))
    assert shown.shape == environment.observation_space.shape == (2,)
    assert shown.sum() == 1


@pytest.mark.parametrize(
    "build",
    [
        lambda: ScaleAction(CartPole()),
        lambda: TimeLimit(CartPole(), 0),
        lambda: FrameStack(CartPole(), 0),
        lambda: FrameStack(FiniteEnvironment(EXAMPLES["two-states"]()), 2),
        lambda: MaskObservation(CartPole(), (0, 4)),
        lambda: MaskObservation(CartPole(), ()),
    ],
)
def test_what_cannot_be_wrapped_is_refused(build):
    with pytest.raises(BadInput):
        build()


def test_all_together_under_vmap_and_scan():
    """Every wrapper at once computes what the wrapped environment would, and a scan can carry the state."""
    physics = Pendulum()
    environment = FlattenObservation(
        FrameStack(MaskObservation(ScaleAction(TimeLimit(physics, 5)), (0, 1)), 2)
    )
    keys = jax.random.split(KEY, 3)

    @jax.jit
    def play(keys):
        def forward(state, _):
            state, step = jax.vmap(lambda s: environment.step(s, jnp.ones(1), KEY))(state)
            return state, (jax.vmap(environment.observe)(state), step)

        return jax.lax.scan(forward, jax.vmap(environment.reset)(keys), None, length=6)[1]

    shown, step = play(keys)
    assert shown.shape == (6, 3, 4)
    np.testing.assert_array_equal(step.truncated[:, 0], [False] * 4 + [True] * 2)
    state = physics.reset(keys[0])
    for t in range(6):
        state, plain = physics.step(state, jnp.full(1, 2.0), KEY)
        np.testing.assert_allclose(shown[t, 0, 2:], physics.observe(state)[:2], atol=1e-5)
        np.testing.assert_allclose(step.reward[t, 0], plain.reward, rtol=1e-4)


class Clock(gymnasium.Env):
    """A grey screen, all of whose pixels are the number of the step, the tens for the episode."""

    observation_space = gymnasium.spaces.Box(0, 255, (2, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self):
        self.time = 0

    def reset(self, *, seed=None, options=None):
        self.time = self.time // 10 * 10 + 10
        return self._shown(), {}

    def step(self, action):
        self.time += 1
        return self._shown(), 0.0, self.time % 10 == 3, False, {}

    def _shown(self):
        return np.full((2, 3), self.time, np.uint8)


def test_frame_stack_of_a_host_environment_begins_anew_with_each_episode():
    environment, seen = HostFrameStack(Clock(), 3), []
    for _ in range(2):
        shown = [environment.reset()[0]]
        shown += [environment.step(0)[0] for _ in range(3)]
        assert all(environment.observation_space.contains(observation) for observation in shown)
        seen.append([observation[0, 0].tolist() for observation in shown])
    assert seen[0] == [[10, 10, 10], [10, 10, 11], [10, 11, 12], [11, 12, 13]]
    assert seen[1] == [[20, 20, 20], [20, 20, 21], [20, 21, 22], [21, 22, 23]]


def test_both_stacks_are_one():
    """The same game, stacked inside a compiled program and around a Gymnasium environment."""
    catch = resolve("Catch-v0").compiled
    inside, around = ToGymnasium(FrameStack(catch, 2)), HostFrameStack(ToGymnasium(catch), 2)
    assert inside.observation_space == around.observation_space
    shown = [environment.reset(seed=3)[0] for environment in (inside, around)]
    np.testing.assert_array_equal(*shown)
    for action in (0, 2, 1, 2):
        shown = [environment.step(action)[0] for environment in (inside, around)]
        np.testing.assert_array_equal(*shown)


def test_frame_stack_is_an_option_of_every_id():
    stacked = resolve("Catch-v0", frame_stack=3)
    assert stacked.observation_space.shape == (11, 10, 3)
    assert (stacked.stacked_frames, stacked_frames(stacked.compiled)) == (3, 3)
    assert stacked_frames(TimeLimit(stacked.compiled, 5)) == 3
    assert stacked.options == {"frame_stack": 3}
    vector = resolve("gymnasium:CartPole-v1", frame_stack=2)
    assert vector.make().observation_space.shape == vector.observation_space.shape == (2, 4)
    assert vector.stacked_frames == 1  # no pictures
    for wrong in (0, 2.0):
        with pytest.raises(BadInput, match=r"must be at least 1|allowed: a whole number"):
            resolve("Catch-v0", frame_stack=wrong)
