"""Wrappers of compiled environments: alone, together, and under vmap and scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.envs.classic_control.cart_pole import CartPole
from bellmark.envs.classic_control.pendulum import Pendulum
from bellmark.envs.finite import FiniteEnvironment
from bellmark.envs.wrappers import FlattenObservation, FrameStack, MaskObservation, ScaleAction, TimeLimit
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
    import gymnasium

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
