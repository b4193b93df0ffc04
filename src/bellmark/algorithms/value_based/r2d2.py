"""R2D2-style recurrent Q-learning: DQN with a memory, learned from replayed sequences.

R. Kapturowski, G. Ostrovski, J. Quan, R. Munos, W. Dabney, "Recurrent experience replay in distributed reinforcement
learning", ICLR 2019.

    repeat
        take T ε-greedy steps in B environments by Q(· | what was seen of the episode), h the memory at their start
        put (h, steps) into the replay memory D
        for every K steps taken, once D holds enough:
            sample N sequences of L + M steps from D, uniformly or by priority
            h_L, ĥ_L ← the stored h, unrolled over the first L steps, present parameters          burn-in, no gradient
            for the other M steps t, both networks unrolled on from there:
                a* ← argmax_a Q(s′_{t+m−1}, a)                                                    double
                y_t ← h(Σ_{k<m} γ^k r_{t+k} + γ^m c h⁻¹(Q̂(s′_{t+m−1}, a*))),  m ≤ n                   h: `rescale`
            descend  E[loss(Q(s_t, a_t), y_t)]
            the new priority is η max_t |δ_t| + (1 − η) mean_t |δ_t|; every C updates Q̂ ← Q

How this differs from `dqn`: what is stored are rollouts with the memory that they began with, and a batch are sequences
(`experience.sequences`).  That memory was made by older parameters; the burn-in is what brings it up to date.  From the
paper it differs in one process instead of hundreds, and in a GRU for its LSTM.  The value of a true successor takes the
memory that belongs to it, also where a time limit cut the episode; an n-step sum ends with its sequence.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from bellmark.algorithms import replayed
from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, encoded, fraction
from bellmark.algorithms.replayed import ReplayState
from bellmark.algorithms.value_based import from_memory, settings
from bellmark.algorithms.value_based.from_memory import MEASURED, Judged, Learned
from bellmark.errors import BadInput
from bellmark.experience.memory import begun
from bellmark.experience.policy import Inputs, RecurrentPolicy
from bellmark.experience.sequences import Beginning, SequenceReplay, Sequences, rollouts_per_sequence
from bellmark.maths import losses
from bellmark.maths.action_values import best_value, double_value, value_of
from bellmark.maths.rescaling import squeezed, unsqueezed
from bellmark.maths.returns import n_step_window
from bellmark.networks.mlp import MLP, Activation
from bellmark.networks.recurrent import Recurrent
from bellmark.networks.values import ActionValues, EpsilonGreedyHead
from bellmark.types import Finished, Key, Metrics, Rollout

Data = tuple[Rollout, Finished, Beginning]


class Network(eqx.Module):
    """What is seen and remembered to a memory, and a memory to the outputs."""

    core: Recurrent
    last: MLP


class R2D2(AbstractLearner):
    """Recurrent DQN: values of what was seen of an episode so far, for what one observation does not tell."""

    name: ClassVar[str] = "r2d2"

    discount: float = 0.99
    learning_rate: float = 1e-3
    anneal: bool = False
    environments: int = 8
    rollout_length: int = 16
    train_every: int = 32
    batch_size: int = 32
    burn_in: int = 8
    sequence_length: int = 16
    replay_capacity: int = 100_000
    learning_start: int = 2_000
    loss: Literal["huber", "squared"] = "huber"
    double: bool = True
    dueling: bool = False
    n_step: int = 3
    rescale: bool = False
    target_every: int = 100
    target_rate: float = 1.0
    epsilon: float = 1.0
    epsilon_final: float = 0.05
    epsilon_schedule: settings.Schedule = "linear"
    epsilon_share: float = 0.2
    prioritised: bool = False
    priority_exponent: float = 0.9
    priority_correction: float = 0.6
    priority_largest: float = 0.9
    max_gradient_norm: float = 10.0
    normalise_observations: bool = False
    hidden: tuple[int, ...] = (64,)
    memory: int = 64
    activation: Activation = "tanh"

    def check(self, problem) -> None:
        from_memory.check(self, problem)
        encoded(self.hidden)
        at_least(0, burn_in=self.burn_in)
        at_least(1, sequence_length=self.sequence_length, memory=self.memory)
        for name in ("priority_exponent", "priority_correction", "priority_largest"):
            fraction(name, getattr(self, name))
        rollouts = rollouts_per_sequence(self.steps_together, self.rollout_length)
        needed = rollouts * self.steps_per_iteration(problem)
        if self.learning_start < needed or self.replay_capacity < needed:
            raise BadInput(
                f"learning_start is {self.learning_start:,} and replay_capacity {self.replay_capacity:,} steps; "
                f"allowed: at least {needed:,}, {rollouts} rollouts of environments × rollout_length, through which a "
                f"sequence of burn_in + sequence_length = {self.steps_together} steps reaches"
            )

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    @property
    def steps_together(self) -> int:
        """Steps in a sequence."""
        return self.burn_in + self.sequence_length

    def init(self, problem, key: Key) -> ReplayState:
        key, core_key, last_key, episodes_key = jax.random.split(key, 4)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        values = ActionValues(int(problem.action_space.n), self.dueling)
        online = Network(
            core=inputs.recurrent(self.hidden, self.memory, core_key, activation=self.activation),
            last=MLP.start(self.memory, (), values.outputs, last_key),
        )

        def memory(episodes):
            size = (self.replay_capacity, self.rollout_length, self.steps_together)
            remembering = dataclasses.replace(episodes, memory=jnp.zeros((self.environments, self.memory)))
            return SequenceReplay.start(remembering, problem.action_space, *size)

        state = from_memory.start(
            self,
            problem,
            inputs,
            values,
            online,
            (key, episodes_key),
            self.prioritised,
            memory,
        )
        return dataclasses.replace(state, episodes=begun(state.episodes, self.policy(state)))

    def policy(self, state: ReplayState) -> RecurrentPolicy:
        online = state.learned.online
        head = EpsilonGreedyHead(state.outputs, settings.epsilon_at(self, state.done))
        return RecurrentPolicy(state.inputs, online.core, online.last, head)

    def collect(self, problem, state: ReplayState) -> tuple[ReplayState, Data]:
        memory = state.episodes.memory
        state, (rollout, finished, begun) = replayed.collect(self, problem, state, self.policy(state))
        return state, (rollout, finished, Beginning(begun, memory))

    def update(self, state: ReplayState, data: Data) -> tuple[ReplayState, Metrics]:
        replay, priorities, now = state.replay, state.learned.priorities, state
        if priorities is not None:
            # the rollout that is overwritten begins no sequence until those after it are there; the one whose last
            # rollout this is, does from now on
            whole = replay.held + 1 >= replay.span
            tree = priorities.tree.set(replay.places(replay.row), jnp.zeros(self.environments))
            weight = jnp.broadcast_to(jnp.where(whole, priorities.largest, 0.0), (self.environments,))
            tree = tree.set(replay.places(replay.row - (replay.span - 1)), weight)
            priorities = dataclasses.replace(priorities, tree=tree)
            now = dataclasses.replace(
                state, learned=dataclasses.replace(state.learned, priorities=priorities)
            )
        now, metrics = replayed.update(self, now, data, self.learn, MEASURED)
        return now, metrics | {"policy/epsilon": settings.epsilon_at(self, state.done)}

    def learn(
        self, learned: Learned, state: ReplayState, bits: UInt32[Array, " N"], learning_rate: Any
    ) -> tuple[Learned, Metrics]:
        """One update: sample sequences, unroll, descend, and now and then move the target network."""
        replay: Any = state.replay
        if learned.priorities is None:
            place, weight = replay.draw(bits), None
        else:
            correction = self.priority_correction + (1.0 - self.priority_correction) * jnp.minimum(
                state.done, 1.0
            )
            place, weight = learned.priorities.draw(bits, replay.complete, correction)
        sequences = replay.take(place)
        target = self.targets(learned, state.inputs, state.outputs, sequences)
        action = sequences.transition.action[self.burn_in :]
        error = losses.huber if self.loss == "huber" else losses.squared_error

        def judge(online):
            now, _ = self.unrolled(online, state.inputs, state.outputs, sequences)
            prediction = value_of(now, action)
            surprise = jnp.abs(target - prediction)
            largest, mean = jnp.max(surprise, axis=0), jnp.mean(surprise, axis=0)
            return Judged(
                jnp.mean(error(prediction, target), axis=0),
                jnp.mean(prediction, axis=0),
                jnp.mean(target, axis=0),
                self.priority_largest * largest + (1.0 - self.priority_largest) * mean,
            )

        sample = from_memory.Sample(place, weight, sequences)
        return from_memory.improved(self, learned, sample, judge, learning_rate, self.priority_exponent)

    def unrolled(
        self, network: Network, inputs: Inputs, values: ActionValues, sequences: Sequences
    ) -> tuple[Float[Array, "M N A"], Float[Array, "M N A"]]:
        """Q(s_t, ·) and Q(s′_t, ·) after the burn-in, each with the memory of all that came before."""
        core, steps = network.core, sequences.transition
        features, following = inputs(steps.observation), inputs(steps.next_observation)
        memory, begins = sequences.memory, sequences.begins
        if self.burn_in:
            before = core.unroll(features[: self.burn_in], begins[: self.burn_in], memory)
            memory = jax.lax.stop_gradient(before[-1])
        memories = core.unroll(features[self.burn_in :], begins[self.burn_in :], memory)
        after = core(following[self.burn_in :], memories)
        return values(network.last(memories)), values(network.last(after))

    def targets(
        self, learned: Learned, inputs: Inputs, values: ActionValues, sequences: Sequences
    ) -> Float[Array, "M N"]:
        """y_t = Σ_{k<m} γ^k r_{t+k} + γ^m c Q̂(s′_{t+m−1}, a*); rescaled, h of it, and h⁻¹ of Q̂."""
        _, following = self.unrolled(learned.target, inputs, values, sequences)
        masks = sequences.next_action_mask
        mask = None if masks is None else masks[self.burn_in :]
        if self.double:
            _, chooser = self.unrolled(learned.online, inputs, values, sequences)
            value = double_value(chooser, following, mask)
        else:
            value = best_value(following, mask)
        if self.rescale:
            value = unsqueezed(value)
        length = self.sequence_length
        window = jnp.arange(self.n_step)[:, None] + jnp.arange(length)
        inside = (window < length)[..., None]
        window = jnp.minimum(window, length - 1)
        reward, terminated, unbroken = (
            part[self.burn_in :][window]
            for part in (sequences.transition.reward, sequences.transition.terminated, sequences.unbroken)
        )
        # the last step's `unbroken` is 0, so that no sum goes on past its sequence
        total, factor, last = n_step_window(reward * inside, 1.0 - terminated, unbroken, self.discount)
        value = jnp.take_along_axis(value, jnp.arange(length)[:, None] + last, axis=0)
        target = total + factor * value
        return squeezed(target) if self.rescale else target
