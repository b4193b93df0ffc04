"""Environments that break their contract, each in one way, and one that keeps it."""

import contextlib
import time

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete


class Honest(gymnasium.Env):
    """Counts its steps in the first component; terminates after `length` of them; pays what was done."""

    observation_space = Box(-100.0, 100.0, (2,), np.float32)
    action_space = Discrete(3)

    def __init__(self, length=5):
        self.length = length

    def show(self):
        return np.array([self.steps, self.noise], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.noise = 0, self.np_random.uniform()
        return self.show(), {}

    def step(self, action):
        self.steps += 1
        return self.show(), float(action), self.steps >= self.length, False, {}


class Saved(Honest):
    """Offers its state."""

    def get_state(self):
        return {"steps": np.array(self.steps), "noise": np.array(self.noise)}

    def set_state(self, state):
        self.steps, self.noise = int(state["steps"]), float(state["noise"])


class Turned(Saved):
    """Pushed and pulled with a strength between −3 and 1."""

    action_space = Box(-3.0, 1.0, (1,))

    def step(self, action):
        return super().step(action.item())


class Broken(Honest):
    """Wrong at its third step, in the way that `fault` names."""

    def __init__(self, fault):
        super().__init__(length=10)
        self.fault = fault

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if self.steps == 3:
            fault = self.fault
            if fault == "raise":
                raise RuntimeError("the motor is broken")
            if fault == "nan observation":
                observation[1] = np.nan
            if fault == "infinite observation":
                observation[0] = np.inf
            if fault == "outside":
                observation[0] = 250.0
            if fault == "dtype":
                observation = observation.astype(np.float64)
            if fault == "shape":
                observation = observation[:1]
            if fault == "broadcastable":
                observation = np.zeros((1, 2), np.float32)
            if fault == "list":
                observation = observation.tolist()
            if fault == "none":
                observation = None
            if fault == "nan reward":
                reward = float("nan")
            if fault == "infinite reward":
                reward = -np.inf
            if fault == "no reward":
                reward = None
            if fault == "vector reward":
                reward = np.array([1.0])
            if fault == "text reward":
                reward = "plenty"
            if fault == "four values":
                return observation, reward, terminated, info
            if fault == "sleep":
                time.sleep(60)
            if fault == "loop":
                while True:
                    with contextlib.suppress(Exception):
                        sum(range(1000))
            if fault == "interrupt":
                raise KeyboardInterrupt
        return observation, reward, terminated, truncated, info


class BrokenReset(Honest):
    """The second reset is wrong."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.resets += 1
        return (observation[:1], info) if self.resets == 2 else (observation, info)


class SelfResetting(Honest):
    """Shows the next episode's first observation instead of the last one's end."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if terminated:
            observation, _ = self.reset()
        return observation, reward, terminated, truncated, info


class Unseeded(Honest):
    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        observation[1] = np.random.default_rng().uniform()
        return observation, info


class Masked(Honest):
    """Only action `steps % 3` is valid; `spoiled` gives a mask that is not."""

    def __init__(self, spoiled=None):
        super().__init__()
        self.spoiled = spoiled

    def info(self):
        if self.spoiled is not None and self.steps == 2:
            return {} if self.spoiled == "missing" else {"action_mask": np.array(self.spoiled, np.int8)}
        return {"action_mask": (np.arange(3) == self.steps % 3).astype(np.int8)}

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], self.info()

    def step(self, action):
        assert action == self.steps % 3, "an invalid action was taken"
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, self.info()


class Nested(Honest):
    """A Dict observation, a choice in it counted from 1, and actions counted from -1."""

    observation_space = Dict(
        {
            "where": Box(-100.0, 100.0, (2,), np.float32),
            "inner": Dict({"phase": Discrete(3, start=1), "picture": Box(0, 255, (2, 2, 3), np.uint8)}),
        }
    )
    action_space = Discrete(3, start=-1)

    def show(self):
        inner = {"phase": np.int64(1 + self.steps % 3), "picture": np.full((2, 2, 3), self.steps, np.uint8)}
        return {"where": Honest.show(self), "inner": inner}

    def step(self, action):
        assert self.action_space.contains(action)
        return super().step(action)
