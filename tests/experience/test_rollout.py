"""Rollouts keep true successors and start afresh; compiled and Gymnasium rollouts of the same steps are the same."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.algorithms.policy_gradient.ppo import PPO
from bellmark.envs.classic_control.cart_pole import CartPole, State
from bellmark.envs.gymnasium import HostEnvironments
from bellmark.envs.to_gymnasium import ToGymnasium
from bellmark.envs.wrappers.time_limit import Timed, TimeLimit
from bellmark.experience.host_rollout import HostProblem
from bellmark.experience.rollout import CompiledProblem, count_broken, episode_metrics
from bellmark.types import Finished
from small_environments import Countdown, Tracking

KEY = jax.random.key(0)
LENGTH, COUNT = 12, 3


def roll(environment, length=LENGTH, count=COUNT, **fields):
    """The first rollout of a fresh PPO learner: its state, what was seen, what ended, and the episodes before."""
    problem = CompiledProblem(environment, 1000, None)
    algorithm = PPO(environments=count, rollout_length=length, minibatches=1, hidden=(4,), **fields)
    start = algorithm.init(problem, KEY)
    state, (rollout, finished) = jax.jit(lambda state: algorithm.collect(problem, state))(start)
    return algorithm, start, state, rollout, finished


class TestCompiled:
    def test_true_successors_and_fresh_starts(self):
        _, start, state, rollout, _ = roll(Countdown(terminates=5))
        transition = jax.tree.map(np.asarray, rollout.transition)
        taken = (np.arange(LENGTH) % 5)[:, None].repeat(COUNT, 1)
        np.testing.assert_array_equal(transition.observation[..., 1], taken)
        np.testing.assert_array_equal(transition.next_observation[..., 1], taken + 1)  # 5 at the end, never 0
        np.testing.assert_array_equal(transition.terminated, taken == 4)
        assert not transition.truncated.any()
        # the successor belongs to the same episode: its random number is the same, also at the end
        np.testing.assert_array_equal(transition.observation[..., 0], transition.next_observation[..., 0])
        firsts = transition.observation[[0, 5, 10], :, 0]
        assert len(np.unique(firsts)) == firsts.size  # every episode begins with a number of its own
        np.testing.assert_array_equal(transition.observation[0], start.episodes.observation)
        np.testing.assert_array_equal(state.episodes.observation[:, 1], [2] * COUNT)
        np.testing.assert_array_equal(state.episodes.length, [2] * COUNT)

    def test_returns_and_lengths_of_what_ended(self):
        _, _, state, rollout, finished = roll(Countdown(truncates=5))
        reward = np.asarray(rollout.transition.reward)
        np.testing.assert_array_equal(finished.mask, rollout.transition.truncated)
        assert np.asarray(finished.mask).sum() == 2 * COUNT
        for end in (4, 9):
            np.testing.assert_allclose(
                finished.undiscounted_return[end], reward[end - 4 : end + 1].sum(0), rtol=1e-6
            )
            np.testing.assert_array_equal(finished.length[end], [5] * COUNT)
        np.testing.assert_allclose(state.episodes.undiscounted_return, reward[10:].sum(0), rtol=1e-6)
        metrics = episode_metrics(finished)
        ended = np.asarray(finished.undiscounted_return)[np.asarray(finished.mask)]
        assert float(metrics["episode/count"]) == 2 * COUNT
        assert float(metrics["episode/return"]) == pytest.approx(ended.mean(), rel=1e-6)
        assert float(metrics["episode/return_std"]) == pytest.approx(ended.std(), rel=1e-4)
        assert float(metrics["episode/length"]) == 5

    def test_nothing_ended(self):
        metrics = episode_metrics(roll(Countdown())[-1])
        assert float(metrics["episode/count"]) == 0
        assert all(np.isnan(metrics[f"episode/{name}"]) for name in ("return", "return_std", "length"))

    def test_a_rollout_goes_on_where_the_last_one_stopped(self):
        problem = CompiledProblem(Countdown(truncates=5), 1000, 5)
        algorithm = PPO(environments=COUNT, rollout_length=4, minibatches=1, hidden=(4,))
        state = algorithm.init(problem, KEY)
        keys, shown = [], []
        for _ in range(3):
            state, (rollout, _) = algorithm.collect(problem, state)
            keys.append(np.asarray(rollout.remembered))
            shown.append(np.asarray(rollout.transition.observation[..., 1]))
        np.testing.assert_array_equal(np.concatenate(shown)[:, 0], np.arange(12) % 5)

    def test_actions_are_stored_as_they_were_drawn_and_clipped_for_the_environment(self):
        _, _, _, rollout, _ = roll(Tracking(), initial_log_std=1.0)
        action = np.asarray(rollout.transition.action)
        moved = np.asarray(rollout.transition.next_observation - rollout.transition.observation)
        assert (np.abs(action) > 0.5).mean() > 0.3
        np.testing.assert_allclose(moved, np.clip(action, -0.5, 0.5), atol=1e-6)

    def test_discrete_actions_are_counted_from_zero_and_sent_from_the_start(self):
        _, _, _, rollout, _ = roll(Countdown(actions="from minus one"))
        transition = rollout.transition
        assert set(np.unique(transition.action)) == {0, 1, 2}
        sent = transition.reward - transition.observation[..., 0] - 10 * transition.next_observation[..., 1]
        np.testing.assert_allclose(sent, transition.action - 1, atol=1e-5)

    def test_several_choices_at_once(self):
        _, _, _, rollout, _ = roll(Countdown(actions="two choices"))
        action = np.asarray(rollout.transition.action)
        assert action.shape == (LENGTH, COUNT, 2)
        assert set(np.unique(action[..., 0])) == {0, 1}
        assert set(np.unique(action[..., 1])) == {0, 1, 2}

    def test_masks_are_those_of_the_observation_acted_upon(self):
        _, start, state, rollout, _ = roll(Countdown(masked=True, truncates=5))
        valid = np.arange(LENGTH) % 5 % 3
        np.testing.assert_array_equal(rollout.transition.action, valid[:, None].repeat(COUNT, 1))
        np.testing.assert_array_equal(np.argmax(rollout.action_mask, -1), rollout.transition.action)
        assert np.asarray(start.episodes.action_mask).argmax(-1).tolist() == [0] * COUNT
        assert np.asarray(state.episodes.action_mask).argmax(-1).tolist() == [2] * COUNT

    def test_observations_in_parts(self):
        _, start, _, rollout, _ = roll(Countdown(nested=True))
        features = start.inputs(rollout.transition.observation)
        assert features.shape == (LENGTH, COUNT, 5)
        # "phase" comes first by name; it is counted from 1 and shown as one of three
        phase, where = features[..., :3], features[..., 3:]
        np.testing.assert_array_equal(where, rollout.transition.observation["where"])
        np.testing.assert_array_equal(np.argmax(phase, -1), np.arange(LENGTH)[:, None].repeat(COUNT, 1) % 3)

    def test_different_keys_give_different_noise(self):
        algorithm, start, state, rollout, _ = roll(Countdown())
        problem = CompiledProblem(Countdown(), 1000, None)
        _, (again, _) = algorithm.collect(problem, start)
        np.testing.assert_array_equal(again.transition.action, rollout.transition.action)
        _, (later, _) = algorithm.collect(problem, state)
        assert not np.array_equal(later.transition.action, rollout.transition.action)
        assert not np.array_equal(rollout.transition.action[:, 0], rollout.transition.action[:, 1])

    def test_broken_numbers_are_counted(self):
        tree = {"a": jnp.array([1.0, jnp.nan, jnp.inf]), "b": jnp.array([1, 2]), "c": jnp.array([-jnp.inf])}
        assert int(count_broken(tree)) == 3
        none = jnp.zeros((2, 1))
        finished = Finished(none > 0, none, none.astype(int), jnp.int32(2), jnp.int32(3))
        assert int(episode_metrics(finished)["broken/rewards"]) == 2


class Scripted(gymnasium.Wrapper):
    """Gymnasium's CartPole, begun at the states that a compiled rollout drew: `table` [T + 1, B] of them."""

    def __init__(self, environment, table, index):
        super().__init__(environment)
        self.table, self.index, self.time = table, index, 0
        self.seeds = []

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        _, info = super().reset(seed=seed)
        state = self.table[self.time, self.index]
        self.unwrapped.state = state.astype(np.float64)
        return state.astype(np.float32), info

    def step(self, action):
        self.time += 1
        return super().step(action)


def with_episodes(state, episodes):
    return type(state)(**{**vars(state), "episodes": episodes})


@pytest.fixture(scope="module", params=[True, False], ids=["normalised", "plain"])
def same_steps(request):
    """PPO's first rollout on the twin and on Gymnasium's CartPole, cut after 15 steps: same beginnings, same key."""
    length, count, limit = 60, 4, 15
    algorithm = PPO(
        environments=count, rollout_length=length, hidden=(16,), normalise_observations=request.param
    )
    twin = CompiledProblem(TimeLimit(CartPole(), limit), 1000, limit)
    state = algorithm.init(twin, KEY)
    if request.param:  # after one update the moments are those of real observations
        trained, _ = algorithm.update(*algorithm.collect(twin, state))
        state = with_episodes(trained, twin.start(KEY, count))
    # as `rollout` draws them
    _, rollout_key = jax.random.split(state.key)
    _, _, reset_key = jax.random.split(rollout_key, 3)
    fresh = jax.vmap(jax.vmap(CartPole().reset))(jax.random.split(reset_key, (length, count)))
    table = np.concatenate(
        [np.asarray(state.episodes.observation)[None], np.stack([np.asarray(x) for x in fresh], -1)]
    )
    made = []

    def make():
        inner = gymnasium.make("CartPole-v1").unwrapped
        made.append(Scripted(inner, table, len(made)))
        return gymnasium.wrappers.TimeLimit(made[-1], limit)

    environments = HostEnvironments(make, count, "CartPole-v1")
    host = HostProblem.open(environments, 1000, limit, seed=7)
    host_state = with_episodes(state, host.start(KEY, count))
    compiled = algorithm.collect(twin, state)
    on_host = algorithm.collect(host, host_state)
    yield algorithm, compiled, on_host, made
    environments.close()


class TestSameSteps:
    """The twin computes in float32 and Gymnasium in float64: after 15 steps they differ by some 1e-6."""

    def test_transitions(self, same_steps):
        _, (_, (compiled, ended)), (_, (host, host_ended)), _ = same_steps
        a, b = compiled.transition, host.transition
        for name in ("action", "terminated", "truncated", "reward"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
            assert getattr(a, name).dtype == getattr(b, name).dtype
        assert a.terminated.any(), "no episode was terminated"
        assert a.truncated.any(), "no episode was truncated"
        np.testing.assert_allclose(a.observation, b.observation, atol=1e-5)
        np.testing.assert_allclose(a.next_observation, b.next_observation, atol=1e-5)
        np.testing.assert_allclose(compiled.remembered, host.remembered, atol=1e-5)
        np.testing.assert_array_equal(ended.mask, host_ended.mask)
        np.testing.assert_array_equal(ended.undiscounted_return, host_ended.undiscounted_return)
        np.testing.assert_array_equal(ended.length, host_ended.length)

    def test_episodes_in_flight(self, same_steps):
        _, (compiled, _), (host, _), _ = same_steps
        assert isinstance(compiled.episodes.state, Timed)
        assert isinstance(compiled.episodes.state.inner, State)
        np.testing.assert_allclose(compiled.episodes.observation, host.episodes.observation, atol=1e-5)
        np.testing.assert_array_equal(compiled.episodes.length, host.episodes.length)
        np.testing.assert_array_equal(jax.random.key_data(compiled.key), jax.random.key_data(host.key))

    def test_advantages(self, same_steps):
        algorithm, (state, (compiled, _)), (host_state, (host, _)), _ = same_steps
        a, b = algorithm.samples(state, compiled), algorithm.samples(host_state, host)
        # advantages are sums of some 15 values of order 1, of observations equal to 1e-5
        np.testing.assert_allclose(a.advantage, b.advantage, atol=1e-4)
        np.testing.assert_allclose(a.value_target, b.value_target, atol=1e-4)
        np.testing.assert_allclose(a.log_prob, b.log_prob, atol=1e-5)

    def test_old_policy_is_the_one_that_acted(self, same_steps):
        """At θ_old every ratio is 1, whichever engine acted."""
        algorithm, *pairs, _ = same_steps
        for state, (rollout, _) in pairs:
            samples = algorithm.samples(state, rollout)
            new = (
                algorithm.policy(state)
                .distribution(rollout.transition.observation)
                .log_prob(rollout.transition.action)
            )
            np.testing.assert_allclose(new.reshape(-1), samples.log_prob, atol=2e-6)

    def test_seeds_are_used_once(self, same_steps):
        *_, made = same_steps
        for environment in made:
            assert isinstance(environment.seeds[0], int)
            assert len(environment.seeds) > 2
            assert set(environment.seeds[1:]) == {None}
        assert len({environment.seeds[0] for environment in made}) == len(made)


class TestHost:
    """Compiled environments behind Gymnasium's interface, so that the same steps can be asked of both."""

    def collect(self, environment, **fields):
        algorithm = PPO(environments=COUNT, rollout_length=LENGTH, minibatches=1, hidden=(4,), **fields)
        environments = HostEnvironments(lambda: ToGymnasium(environment), COUNT, "test")
        problem = HostProblem.open(environments, 1000, None, seed=0)
        state = algorithm.init(problem, KEY)
        state, (rollout, finished) = algorithm.collect(problem, state)
        environments.close()
        return algorithm, state, rollout, finished

    def test_true_successors_and_fresh_starts(self):
        _, state, rollout, finished = self.collect(Countdown(truncates=5))
        taken = (np.arange(LENGTH) % 5)[:, None].repeat(COUNT, 1)
        np.testing.assert_array_equal(rollout.transition.observation[..., 1], taken)
        np.testing.assert_array_equal(rollout.transition.next_observation[..., 1], taken + 1)
        np.testing.assert_array_equal(rollout.transition.truncated, taken == 4)
        np.testing.assert_array_equal(finished.length[4], [5] * COUNT)
        np.testing.assert_array_equal(state.episodes.length, [2] * COUNT)

    def test_masks(self):
        _, _, rollout, _ = self.collect(Countdown(masked=True, truncates=5))
        valid = np.arange(LENGTH) % 5 % 3
        np.testing.assert_array_equal(rollout.transition.action, valid[:, None].repeat(COUNT, 1))
        np.testing.assert_array_equal(np.argmax(rollout.action_mask, -1), rollout.transition.action)

    def test_stored_unclipped(self):
        _, _, rollout, _ = self.collect(Tracking(), initial_log_std=1.0)
        action = np.asarray(rollout.transition.action)
        moved = np.asarray(rollout.transition.next_observation - rollout.transition.observation)
        assert (np.abs(action) > 0.5).mean() > 0.3
        np.testing.assert_allclose(moved, np.clip(action, -0.5, 0.5), atol=1e-6)

    def test_observations_in_parts(self):
        _, state, rollout, _ = self.collect(Countdown(nested=True))
        features = state.inputs(rollout.transition.observation)
        on_host = state.inputs.on_host()(jax.tree.map(np.asarray, rollout.transition.observation))
        np.testing.assert_array_equal(features, on_host)

    def test_discrete_start(self):
        _, _, rollout, _ = self.collect(Countdown(actions="from minus one"))
        transition = rollout.transition
        sent = transition.reward - transition.observation[..., 0] - 10 * transition.next_observation[..., 1]
        np.testing.assert_allclose(sent, transition.action - 1, atol=1e-5)

    def test_a_policy_without_numpy_form_acts_through_the_compiler(self):
        picture = gymnasium.spaces.Box(0, 255, (4, 4, 1), np.uint8)

        class Camera(gymnasium.Env):
            observation_space, action_space = picture, gymnasium.spaces.Discrete(2)

            def reset(self, *, seed=None, options=None):
                super().reset(seed=seed)
                return self.np_random.integers(0, 256, (4, 4, 1), np.uint8), {}

            def step(self, action):
                return self.np_random.integers(0, 256, (4, 4, 1), np.uint8), 1.0, False, False, {}

        algorithm = PPO(environments=COUNT, rollout_length=LENGTH, minibatches=1, hidden=(4,))
        environments = HostEnvironments(Camera, COUNT, "camera")
        problem = HostProblem.open(environments, 1000, None, seed=0)
        state, (rollout, _) = algorithm.collect(problem, algorithm.init(problem, KEY))
        environments.close()
        assert rollout.transition.observation.dtype == jnp.uint8
        samples = algorithm.samples(state, rollout)
        assert float(samples.features.max()) <= 1.0
        new = algorithm.policy(state).distribution(rollout.transition.observation)
        new = new.log_prob(rollout.transition.action).reshape(-1)
        np.testing.assert_allclose(new, samples.log_prob, atol=2e-6)
