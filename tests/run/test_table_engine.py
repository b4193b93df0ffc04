"""The engines of table learners: bit-identity in every respect, the exact gap, and what is refused."""

import json
import signal
import subprocess
import sys
import time
import types

import gymnasium
import numpy as np
import pytest

import bellmark as bm
from bellmark.algorithms import ALGORITHMS, algorithm_class
from bellmark.algorithms.exact import optimality_gap, solve
from bellmark.algorithms.tabular.problem import TableProblem
from bellmark.cli import compare, train
from bellmark.envs.crawler import PIXELS, draw_crawler
from bellmark.envs.registry import resolve
from bellmark.envs.wrappers.discretise import Discretise
from bellmark.run import checkpoint
from bellmark.run.presets import configured, preset
from bellmark.run.table_engine import open_tables
from bellmark.run.yardstick import Yardstick

TABULAR = [name for name, target in ALGORITHMS.items() if ".tabular." in target and ".linear:" not in target]
CONFIG = {"steps": 600, "row_every": 40, "steps_per_iteration": 1}


def opened(name, environment, seeds=(0, 5), **fields):
    learner = algorithm_class(name)(**{"discount": 0.9, **fields})
    config = {**CONFIG, "seeds": list(seeds)}
    return open_tables(learner, resolve(environment), config, timeout=60.0)


def leaves(states):
    import jax

    return [np.array(leaf) for leaf in jax.tree.leaves(states)]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(leaves(first), leaves(second), strict=True))


@pytest.fixture(autouse=True)
def close_engines(monkeypatch):
    engines = []
    real = globals()["open_tables"]

    def remembered(*arguments, **keywords):
        engines.append(real(*arguments, **keywords))
        return engines[-1]

    monkeypatch.setitem(globals(), "open_tables", remembered)
    yield
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("name", TABULAR)
@pytest.mark.parametrize("environment", ["grid-world", "gymnasium:FrozenLake-v1"])
def test_chunks_other_seeds_and_checkpoints_change_nothing(name, environment, tmp_path):
    whole = opened(name, environment)
    states, rows = whole.advance(whole.start(), 480)

    pieces = opened(name, environment)
    halfway, first = pieces.advance(pieces.start(), 200)
    (tmp_path / "checkpoints").mkdir()
    numbers = {"iteration": 200, "step": 200, "seconds": 0.0, "metrics_bytes": 0}
    if environment.startswith("gymnasium"):
        halfway, _ = pieces.advance(halfway, 280)  # this environment cannot be put back into a saved state
        assert same(halfway, states)
    else:
        checkpoint.save(tmp_path, pieces.captured(halfway), **numbers)
        fresh = opened(name, environment)
        restored = fresh.restored(checkpoint.latest(tmp_path, fresh.template()).state)
        resumed, second = fresh.advance(restored, 280)
        assert same(resumed, states)
        for column in rows:
            np.testing.assert_array_equal(np.concatenate([first[column], second[column]]), rows[column])

    alone = opened(name, environment, seeds=[5])
    assert same(alone.advance(alone.start(), 480)[0], states[1:])
    assert not np.array_equal(states[0].values, states[1].values)


def test_an_environment_that_can_be_saved_goes_on_exactly():
    """A learner on a user's own environment that offers its state; see tests/run/small.py for the loop's own tests."""

    class Walk(gymnasium.Env):
        observation_space = gymnasium.spaces.Discrete(6)
        action_space = gymnasium.spaces.Discrete(2, start=3)
        at = 0

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.at = int(self.np_random.integers(1, 5))
            return self.at, {}

        def step(self, action):
            assert self.action_space.contains(action)
            self.at += 1 if self.np_random.random() < 0.3 + 0.4 * (action - 3) else -1
            return self.at, float(self.at == 5), self.at in (0, 5), False, {}

        def get_state(self):
            return {"at": np.array(self.at)}

        def set_state(self, state):
            self.at = int(state["at"])

    whole = opened("q_learning", Walk)
    states, _ = whole.advance(whole.start(), 400)
    pieces = opened("q_learning", Walk)
    halfway, _ = pieces.advance(pieces.start(), 160)
    kept = [np.copy(leaf) for leaf in leaves(pieces.captured(halfway))]
    other = opened("q_learning", Walk)
    import jax

    restored = jax.tree.unflatten(jax.tree.structure(other.template()), kept)
    resumed, _ = other.advance(other.restored(restored), 240)
    assert same(other.captured(resumed), whole.captured(states))
    # Q of the way to the right is the larger one everywhere inside
    assert (states[0].values[1:5].argmax(axis=1) == 1).sum() >= 3


def test_nothing_is_learnt_across_an_episode_that_was_dropped():
    engine = opened("n_step_sarsa", "gymnasium:FrozenLake-v1", seeds=[0], n=3)
    (state,), _ = engine.advance(engine.start(), 2)
    waiting = state.memory[3]
    assert waiting[0] > 0
    engine.restored([state])
    assert waiting[0] == 0
    assert state.place[2] == 0


def test_a_killed_run_is_resumed_bit_for_bit(tmp_path):
    words = "train q_learning grid-world --discount 0.9 --steps 40_000_000 --seeds 2 --quiet --episodes 2"
    command = [sys.executable, "-c", "from bellmark.cli.main import main; main()", *words.split()]
    command += ["--checkpoint-seconds", "0.2"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with subprocess.Popen([*command, "--directory", str(killed)]) as process:
        deadline = time.monotonic() + 60
        while len(checkpoint.steps(killed) if killed.is_dir() else []) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert 0 < checkpoint.steps(killed)[-1] < 40_000_000
    bm.resume(killed, progress=False)
    subprocess.run([*command, "--directory", str(whole)], check=True, capture_output=True)

    def numbers(path):
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return [(row["step"], row["metrics"]) for row in rows]

    assert numbers(killed) == numbers(whole)
    assert (killed / "policy/policy.safetensors").read_bytes() == (
        whole / "policy/policy.safetensors"
    ).read_bytes()


def test_the_front_door(tmp_path):
    mdp = bm.examples.grid_world(noise=0.2)
    run = bm.train(
        "q_learning",
        mdp,
        steps=200_000,
        discount=0.9,
        epsilon=0.5,
        step_size=1.0,
        step_size_schedule="polynomial",
        directory=tmp_path / "run",
        progress=False,
        episodes=20,
    )
    assert run.step == 200_000
    assert run.verdict.startswith("near-optimal")
    policy = bm.load(run.directory)
    actions = policy(np.arange(mdp.num_states))
    gap = optimality_gap(mdp, actions.astype(np.int64), 0.9)
    assert run.metrics["gap/greedy"][-1, 0] == pytest.approx(gap, abs=1e-9)
    assert policy(3) == actions[3]
    assert policy(3, deterministic=False) in range(4)
    assert bm.evaluate(run, episodes=5).returns.shape == (1, 5)
    assert (tmp_path / "run/report/learning_curve.png").is_file()
    extended = bm.resume(run.directory, steps=210_000, environment=mdp, progress=False)
    assert extended.step == 210_000


def test_an_instance_and_the_command_line(tmp_path, capsys):
    run = bm.train(
        bm.Sarsa(epsilon=0.2), "cliff-walking", steps=2_000, seeds=2, directory=tmp_path / "a", progress=False
    )
    assert run.metrics["gap/behaviour"].shape[1] == 2
    words = ["q_learning", "grid-world", "--discount", "0.9", "--steps", "3000", "--quiet", "--directory"]
    assert train.main([*words, str(tmp_path / "b")]) == 0
    assert "gap to the optimum" in capsys.readouterr().out
    picture = tmp_path / "c.png"
    assert compare.main([str(tmp_path / "b"), "--metric", "gap/greedy", "--output", str(picture)]) == 0
    assert picture.is_file()


def test_the_gap_is_the_exact_one():
    mdp = bm.examples.grid_world(noise=0.2)
    engine = opened("q_learning", mdp)
    (state, _), rows = engine.advance(engine.start(), 600)
    policy = engine.learner.policy(state)
    greedy, behaviour = rows["gap/greedy"][-1, 0], rows["gap/behaviour"][-1, 0]
    assert greedy == pytest.approx(optimality_gap(mdp, policy.actions.astype(np.int64), 0.9), abs=1e-9)
    exploring = engine.learner.behaviour(state)
    assert behaviour == pytest.approx(optimality_gap(mdp, exploring, 0.9), abs=1e-9)
    exact = solve(mdp, 0.9, tolerance=1e-10)
    assert rows["error/q"][-1, 0] == pytest.approx(np.abs(state.values - exact.action_values).max(), abs=1e-8)
    optimal = np.isclose(exact.action_values, exact.values[:, None], atol=1e-6)
    differing = (~optimal[np.arange(mdp.num_states), policy.actions]).sum()
    assert rows["policy/differing"][-1, 0] == differing


def test_a_policy_that_never_ends_has_an_infinite_gap_at_discount_1():
    mdp = bm.examples.cliff_walking()
    yardstick = Yardstick(mdp, 1.0)
    north = np.zeros(mdp.num_states, np.int64)
    assert yardstick.gap(north) == np.inf
    assert yardstick.gap(solve(mdp, 1.0).policy) == 0.0


@pytest.mark.parametrize("discount", [0.9, 1.0])
@pytest.mark.parametrize("model", ["cliff_walking", "grid_world", "random_walk", "river_swim"])
def test_small_dense_and_large_models_are_measured_alike(model, discount, monkeypatch):
    """The kernel for small models, LAPACK for larger ones and the sparse solver, on any policy and any actions."""
    mdp = getattr(bm.examples, model)()
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(mdp.num_actions), mdp.num_states) * ~mdp.terminal[:, None]
    given = [shares, *rng.integers(0, mdp.num_actions, (20, mdp.num_states))]
    if discount == 1.0 and model == "river_swim":
        with pytest.raises(bm.BadInput):
            Yardstick(mdp, discount)
        return
    found = {}
    for name, limits in {"small": {}, "dense": {"SMALL": 0}, "sparse": {"SMALL": 0, "DENSE": 0}}.items():
        for limit, size in limits.items():
            monkeypatch.setattr(f"bellmark.run.yardstick.{limit}", size)
        yardstick = Yardstick(mdp, discount)
        found[name] = [yardstick.gap(policy) for policy in given]
    assert found["small"] == pytest.approx(found["dense"], rel=1e-9, abs=1e-12)
    assert found["small"] == pytest.approx(found["sparse"], rel=1e-6, abs=1e-9)
    assert np.isfinite(found["small"][0])


def test_the_columns_of_a_learner_by_hand():
    """Q of the optimum but for one entry: its error, and the one state in which the policy differs."""
    mdp = bm.examples.grid_world(noise=0.2)
    yardstick, solution = Yardstick(mdp, 0.9), solve(mdp, 0.9, tolerance=1e-10)
    shares = np.eye(mdp.num_actions)[solution.policy] * ~mdp.terminal[:, None]
    exact = yardstick.control(solution.action_values, solution.policy.astype(np.int32), shares)
    assert exact["error/q"] == pytest.approx(0.0, abs=1e-6)
    assert (exact["policy/differing"], exact["gap/greedy"]) == (0.0, pytest.approx(0.0, abs=1e-6))
    table, state = solution.action_values.copy(), int(np.flatnonzero(yardstick.reached)[2])
    table[state, table[state].argmin()] += 5.0
    wrong = yardstick.control(table, table.argmax(axis=1).astype(np.int32), shares)
    assert wrong["error/q"] == pytest.approx(5.0, abs=1e-6)
    assert wrong["policy/differing"] == 1.0


def test_a_model_too_large_for_the_gap_is_learnt_without_it():
    large = bm.examples.random_walk(21_000)
    engine = opened("q_learning", large)
    assert "too many for the exact gap" in engine.notes[0]
    _, rows = engine.advance(engine.start(), 10)
    assert "gap/greedy" not in rows
    with pytest.raises(bm.BadInput, match=r"21,00\d states are too many.*optimality_gap.*gap='off'"):
        opened("q_learning", large, gap="on")


def test_a_table_beyond_memory_is_refused():
    """90 million states fit the index, and with 1,000 actions no machine that a table is meant for."""
    space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    problem = types.SimpleNamespace(
        observation_space=space,
        action_space=gymnasium.spaces.Discrete(1000),
        time_limit=None,
        environment=None,
    )
    with pytest.raises(
        bm.BadInput,
        match=r"90,000,000 states × 1000 actions need 1,006 GiB per seed; at most 64 GiB.*fewer bins",
    ):
        algorithm_class("q_learning")(bins=(9000, 10_000)).check(problem)


def walked(mdp, actions, steps=2_000):
    """Distance per step of a policy, its last half."""
    state, total = int(np.argmax(mdp.initial_distribution)), 0.0
    for step in range(steps):
        ((_, state, reward, _),) = [t for t in mdp.transitions(state, int(actions[state])) if t[0] > 0]
        total += reward if step >= steps // 2 else 0.0
    return total / (steps - steps // 2)


def test_the_crawler_learns_to_walk():
    """Every seed's greedy policy walks at the speed of the exact optimum; before it has learnt it stays where it is."""
    mdp, learner = bm.examples.crawler(), configured("q_learning", "crawler")
    fastest = walked(mdp, solve(mdp, learner.discount).policy)
    assert fastest > 4.0

    def learnt(steps, seed):
        problem = TableProblem.sampled(mdp, steps)
        state = learner.init(problem, seed)
        learner.step(problem, state, steps)
        return walked(mdp, np.asarray(learner.policy(state).actions))

    assert min(learnt(preset("q_learning", "crawler").steps, seed) for seed in range(10)) > 0.97 * fastest
    assert learnt(50, 0) < 0.2 * fastest


def test_the_crawler_is_seen_to_walk(tmp_path):
    """In the film the blue body is further to the right, by as much as was earned; the hand presses it up."""
    mdp = bm.examples.crawler()

    def body(frame):
        """Where the pixels of the body's colour are: mean column, top row."""
        blue = np.all(np.abs(frame.astype(int) - [0x2F, 0x6F, 0xDD]) < 8, axis=-1)
        return np.nonzero(blue)[1].mean(), np.nonzero(blue)[0].min()

    up, down = mdp.index((4, 12)), mdp.index((2, 5))
    (here, low), (there, _), (_, high) = (
        body(draw_crawler(mdp, state, far)) for state, far in ((up, 0.0), (up, 100.0), (down, 0.0))
    )
    assert there - here == pytest.approx(100 * PIXELS, abs=1.0)
    assert high < low - 3


def test_at_discount_1_the_verdict_has_a_gap_where_one_is_well_posed(tmp_path):
    """What is left undecided in states that the policy never comes to does not matter; going round for ever does."""
    fields = {"discount": 1.0, "episodes": 2, "progress": False}
    run = bm.train("q_learning", "cliff-walking", steps=30_000, directory=tmp_path / "a", **fields)
    assert run.ending.optimality.gaps == (0.0,)
    assert "near-optimal: gap to the optimum 0 (discount 1)" in run.verdict
    early = bm.train("q_learning", "cliff-walking", steps=100, directory=tmp_path / "b", **fields)
    assert early.ending.optimality.gaps == (np.inf,)
    assert "its policy never ends, so the gap to the optimum is infinite" in early.verdict
    saved = json.loads((tmp_path / "b" / "report" / "evaluation.json").read_text())
    assert saved["optimality_gap"] == [None]


def test_a_predictor_is_judged_by_its_values_not_by_the_policy_it_was_given(tmp_path):
    run = bm.train("td", "FrozenLake-v1", steps=300, episodes=2, directory=tmp_path / "a", progress=False)
    assert "its values are off by" in run.verdict
    assert "solved" not in run.verdict


def test_cart_pole_needs_no_flags(tmp_path):
    """The preset brings the bins; given ones come before it."""
    run = bm.train(
        "q_learning", "CartPole-v1", steps=200, episodes=1, directory=tmp_path / "a", progress=False
    )
    assert run.policy.module.bins == (1, 1, 6, 12)
    run = bm.train(
        "q_learning",
        "CartPole-v1",
        steps=200,
        episodes=1,
        bins=(2, 2, 2, 2),
        directory=tmp_path / "b",
        progress=False,
    )
    assert run.policy.module.bins == (2, 2, 2, 2)


def test_gymnasium_s_tables_are_sampled_unless_gymnasium_is_asked_for():
    sampled, stepped = opened("sarsa", "FrozenLake-v1"), opened("sarsa", "gymnasium:FrozenLake-v1")
    assert type(sampled).__name__ == "SampledEngine"
    assert type(stepped).__name__ == "SteppedEngine"
    for engine in (sampled, stepped):
        _, rows = engine.advance(engine.start(), 80)
        assert np.isfinite(rows["gap/greedy"]).all()


@pytest.mark.parametrize(
    "environment, fields", [("CartPole-v1", {"bins": (4, 4, 6, 6)}), ("MountainCar-v0", {"bins": (8,)})]
)
def test_continuous_observations_are_binned(environment, fields, tmp_path):
    run = bm.train(
        "q_learning", environment, steps=600, directory=tmp_path / "r", progress=False, episodes=2, **fields
    )
    space = gymnasium.make(environment).observation_space
    action = bm.load(run.directory)(space.sample() * 0)
    assert action in range(3)


def test_a_discretised_environment_of_one_s_own_edges():
    environment = Discretise(gymnasium.make("CartPole-v1"), edges=[[0.0], [], [-0.1, 0.1], [0.0]])
    assert environment.observation_space.n == 2 * 1 * 3 * 2
    observation, _ = environment.reset(seed=0)
    assert environment.observation_space.contains(observation)


BAD = {
    "epsilon is 1.5; allowed: from 0 to 1": ("q_learning", "grid-world", {"epsilon": 1.5}),
    "step_size is 0.0; allowed: more than 0": ("sarsa", "grid-world", {"step_size": 0.0}),
    "step_size is 1.5; allowed: more than 0, at most 1": ("sarsa", "grid-world", {"step_size": 1.5}),
    "discount is 1.1; allowed": ("td", "grid-world", {"discount": 1.1}),
    "trace_decay is -0.5": ("td_lambda", "grid-world", {"trace_decay": -0.5}),
    "n is 0; allowed: at least 1": ("n_step_td", "grid-world", {"n": 0}),
    "temperature is 0.0; allowed: more than 0": ("sarsa", "grid-world", {"temperature": 0.0}),
    "an exponential decay goes from one": (
        "sarsa",
        "grid-world",
        {"epsilon_schedule": "exponential", "epsilon_final": 0.0},
    ),
    "is continuous.*needs bins.*--bins 10,10,10,10,…": ("q_learning", "Acrobot-v1", {}),
    "give one number for each": ("q_learning", "CartPole-v1", {"bins": (3, 3)}),
    "is discrete already": ("q_learning", "FrozenLake-v1", {"bins": (3,)}),
    "only Discrete ones are allowed: ppo": ("q_learning", "Pendulum-v1", {"bins": (3,)}),
    "never ends one; td, sarsa": ("monte_carlo_control", "river-swim", {}),
    "actions are 2 numbers": ("td", "grid-world", {"actions": (0, 1)}),
    "'optimal', but the model is not known": ("td", "Blackjack-v1", {"follow": "optimal"}),
    r"states; at most 100,000,000": ("q_learning", "CartPole-v1", {"bins": (1000,)}),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(message, tmp_path):
    name, environment, fields = BAD[message]
    with pytest.raises(bm.BadInput, match=message) as caught:
        bm.train(name, environment, steps=100, directory=tmp_path / "run", progress=False, **fields)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
