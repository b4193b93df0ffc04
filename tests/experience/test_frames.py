"""Frames kept once, against a plain replay that keeps whole stacks: the same transitions, bit for bit."""

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.algorithms.value_based.dqn import DQN
from bellmark.envs.registry import resolve
from bellmark.errors import BadInput
from bellmark.experience.frames import FrameReplay, frame_shape, memory_bytes
from bellmark.experience.replay import Replay
from bellmark.experience.rollout import CompiledProblem
from bellmark.types import Episodes, Rollout, Transition

ENVIRONMENTS, LENGTH, CAPACITY, COUNT, DISCOUNT = 3, 4, 48, 3, 0.9
SHAPE = (2, 2, 2)

added = jax.jit(lambda replay, rollout, begun: replay.add(rollout, begun))
taken = jax.jit(lambda replay, place, steps: replay.take(place, DISCOUNT, steps), static_argnums=2)


class World:
    """Environments whose every frame is unlike any other, seen through a stack; an episode ends by chance."""

    def __init__(self, seed, ends, count=COUNT):
        self.rng, self.ends, self.count, self.frame = np.random.default_rng(seed), ends, count, 0
        self.stacks = [self.first() for _ in range(ENVIRONMENTS)]
        self.begun = np.ones(ENVIRONMENTS, bool)

    def new(self):
        self.frame += 1
        digits = [self.frame >> shift & 15 for shift in (0, 4, 8, 12)]
        return np.array([digits, self.rng.integers(0, 256, 4)], np.uint8).reshape(SHAPE)

    def first(self):
        return [self.new()] * self.count

    def shown(self):
        return np.stack([np.concatenate(stack, axis=-1) for stack in self.stacks])

    def rollout(self, lost=()):
        """The next T steps; the environments `lost` begin anew without having ended, as after a kill."""
        for b in lost:
            self.stacks[b], self.begun[b] = self.first(), True
        begun, rows = self.begun.copy(), []
        for _ in range(LENGTH):
            now = self.shown()
            self.stacks = [[*stack[1:], self.new()] for stack in self.stacks]
            following = self.shown()
            terminated, truncated = self.rng.random((2, ENVIRONMENTS)) < self.ends / 2
            action = self.rng.integers(0, 5, ENVIRONMENTS).astype(np.int32)
            reward = self.rng.normal(size=ENVIRONMENTS).astype(np.float32)
            rows.append((now, action, reward, terminated, truncated, following))
            self.begun = terminated | truncated
            self.stacks = [
                self.first() if over else stack for over, stack in zip(self.begun, self.stacks, strict=True)
            ]
        transition = Transition(*(jnp.asarray(np.stack(column)) for column in zip(*rows, strict=True)))
        return Rollout(transition, None), jnp.asarray(begun)


def episodes_of(world):
    return Episodes(
        None, jnp.asarray(world.shown()), None, jnp.zeros(ENVIRONMENTS), jnp.zeros(ENVIRONMENTS, jnp.int32)
    )


def both(world, spare, count=COUNT):
    episodes, space = episodes_of(world), gymnasium.spaces.Discrete(5)
    plain = Replay.start(episodes, space, CAPACITY, LENGTH)
    return plain, FrameReplay.start(episodes, space, CAPACITY, LENGTH, count=count, spare=spare)


def agree(plain, once, steps):
    """Every transition that `once` still holds is the plain one; returns how many there are."""
    size = int(once.size)
    places = (np.arange(CAPACITY) + int(plain.position) - CAPACITY) % CAPACITY  # padded in front: one shape
    ours, theirs = (jax.device_get(taken(replay, jnp.asarray(places), steps)) for replay in (once, plain))
    for field in dataclasses.fields(ours):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        if a is not None:
            np.testing.assert_array_equal(a[CAPACITY - size :], b[CAPACITY - size :], err_msg=field.name)
    return size


@pytest.mark.parametrize("spare, ends, count", [(0.25, 0.15, COUNT), (1.0, 0.8, COUNT), (0.25, 0.15, 1)])
def test_equal_to_a_replay_of_whole_stacks(spare, ends, count):
    """Through several turns of both rings, episodes that end in both ways, and episodes that were lost."""
    world = World(seed=0, ends=ends, count=count)
    plain, once = both(world, spare, count)
    for turn in range(25):
        rollout, begun = world.rollout(lost=[1] if turn % 7 == 5 else [])
        plain, once = added(plain, rollout, begun), added(once, rollout, begun)
        assert int(once.size) == int(plain.size)
        for steps in (1, 3):
            agree(plain, once, steps)
    assert int(once.size) == CAPACITY


def test_short_episodes_cost_the_oldest_transitions_and_nothing_else():
    """With too little to spare, what is dropped is dropped whole, and no more than must be."""
    world = World(seed=1, ends=0.9)
    plain, once = both(world, spare=0.0)
    smallest = CAPACITY
    for _ in range(25):
        rollout, begun = world.rollout()
        plain, once = added(plain, rollout, begun), added(once, rollout, begun)
        smallest = min(smallest, agree(plain, once, 1)) if int(plain.size) == CAPACITY else smallest
    # nearly two frames a step, in a ring for one a step and 11 more
    assert CAPACITY // 2 <= smallest < CAPACITY
    drawn = np.asarray(once.draw(jax.random.bits(jax.random.key(0), (4000,))))
    age = (int(once.position) - 1 - drawn) % CAPACITY
    assert sorted(set(age)) == list(range(int(once.size)))


def test_stacks_never_reach_into_another_episode():
    """The first stack of an episode is its first frame k times, whatever came before."""
    world = World(seed=2, ends=0.5)
    _, once = both(world, 1.0)
    for _ in range(6):
        rollout, begun = world.rollout()
        once = added(once, rollout, begun)
    stored = once.index.stored
    fresh = np.flatnonzero(np.asarray(stored.observation.age) == 0)[:12]
    batch = taken(once, jnp.asarray(fresh), 1)
    frames = np.split(np.asarray(batch.observation), COUNT, axis=-1)
    assert len(fresh) > 5
    assert all(np.array_equal(frame, frames[0]) for frame in frames)


def test_bytes_are_what_is_held():
    world = World(seed=3, ends=0.1)
    _, once = both(world, 0.125)
    space = gymnasium.spaces.Box(0, 255, (2, 2, 2 * COUNT), np.uint8)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((once.frames, once.index.stored)))
    actions = gymnasium.spaces.Discrete(5)
    assert memory_bytes(space, actions, CAPACITY, ENVIRONMENTS, LENGTH, COUNT) == held


def test_odd_shapes_are_refused():
    with pytest.raises(BadInput, match=r"\[84, 84, 6\] are no stack of 4 frames; allowed: .* multiple of 4"):
        frame_shape((84, 84, 6), 4)


def test_a_learner_cannot_tell_how_its_pictures_are_kept():
    """DQN on stacked screens: the same losses, bit for bit, from frames and from whole transitions."""
    environment, losses, held = resolve("Catch-v0", frame_stack=2).compiled, {}, {}
    for kept in ("frames", "transitions"):
        learner = DQN(
            image_replay=kept,
            environments=2,
            rollout_length=8,
            train_every=8,
            batch_size=4,
            learning_start=16,
            replay_capacity=400,
            hidden=(4,),
        )
        problem = CompiledProblem(environment, 320, None)
        state = learner.init(problem, jax.random.key(0))
        held[kept] = sum(leaf.nbytes for leaf in jax.tree.leaves(state.replay))
        _, metrics = jax.jit(
            lambda state, learner=learner, problem=problem: jax.lax.scan(
                lambda state, _: learner.step(problem, state), state, None, length=20
            )
        )(state)
        losses[kept] = np.asarray(metrics["loss/value"])
    np.testing.assert_array_equal(losses["frames"], losses["transitions"])
    assert len(set(losses["frames"])) > 10
    # half for not keeping the successor again, half for not keeping the stack
    assert held["frames"] < 0.4 * held["transitions"]
