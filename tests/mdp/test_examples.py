"""Every named example against its published answer, solved by the plain oracle, not by the library's own
solvers."""

import inspect
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from reference import action_values, optimal_values, policy_iteration, policy_values, uniform_policy

from bellmark.errors import BadInput
from bellmark.mdp import FiniteMDP, examples
from bellmark.mdp.examples import EXAMPLES


def on_grid(mdp, values):
    """Values as a picture, NaN for walls."""
    picture = np.full(mdp.layout.shape, np.nan)
    picture[mdp.layout.rows, mdp.layout.columns] = values
    return picture


def steps_to_goal(mdp, values):
    """Length of the greedy path from the start of a deterministic model."""
    state, steps = int(np.argmax(mdp.initial_distribution)), 0
    greedy = action_values(mdp, values, mdp.discount).argmax(axis=1)
    while not mdp.terminal[state]:
        ((_, state, _, _),) = mdp.transitions(state, int(greedy[state]))
        steps += 1
        assert steps < 1000
    return steps


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_defaults_make_a_model_called_after_its_function(name):
    mdp = EXAMPLES[name]()
    assert mdp.name == name
    assert 0 < mdp.discount <= 1
    assert getattr(examples, name.replace("-", "_")) is EXAMPLES[name]
    if mdp.layout is not None:
        cells = list(zip(mdp.layout.rows, mdp.layout.columns, strict=True))
        assert len(set(cells)) == mdp.num_states
        assert not set(cells) & set(mdp.layout.walls)
        assert len(cells) + len(mdp.layout.walls) == np.prod(mdp.layout.shape)
        assert len(mdp.layout.directions) == mdp.num_actions


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_parameter_can_become_a_flag(name):
    for parameter in inspect.signature(EXAMPLES[name]).parameters.values():
        if parameter.name != "edges":
            assert parameter.annotation in (int, float, bool, str)
            assert type(parameter.default) is parameter.annotation


def test_grid_world_discounted():
    mdp = examples.grid_world(noise=0.2)
    expected = [
        [0.644969, 0.744380, 0.847766, 1],
        [0.566314, np.nan, 0.571859, -1],
        [0.490684, 0.430844, 0.475471, 0.277296],
    ]
    assert_allclose(on_grid(mdp, optimal_values(mdp, 0.9)), expected, atol=5e-7)


def test_grid_world_with_a_living_reward_and_no_discount():
    mdp = examples.grid_world(noise=0.2, living_reward=-0.04, discount=1.0)
    expected = [
        [0.811558, 0.867808, 0.917808, 1],
        [0.761558, np.nan, 0.660274, -1],
        [0.705308, 0.655308, 0.611416, 0.387925],
    ]
    assert_allclose(on_grid(mdp, optimal_values(mdp, 1.0)), expected, atol=5e-7)


def test_grid_world_without_noise():
    mdp = examples.grid_world(noise=0.0)
    moves = np.array([[3, 2, 1, 0], [4, np.nan, 2, np.nan], [5, 4, 3, 4]])
    expected = 0.9**moves
    expected[1, 3] = -1
    assert_allclose(on_grid(mdp, optimal_values(mdp, 0.9)), expected, rtol=1e-12)
    safe = on_grid(mdp, optimal_values(mdp, 1.0))
    assert_allclose(safe[np.isfinite(safe) & (safe > 0)], 1.0)


def test_grid_world_exits_are_parameters():
    mdp = examples.grid_world(good_exit=3.0, bad_exit=-2.0)
    assert on_grid(mdp, optimal_values(mdp, 0.9))[:2, 3].tolist() == [3.0, -2.0]
    assert mdp.states[0] == (0, 0)
    assert mdp.index((2, 0)) == np.argmax(mdp.initial_distribution)


def best_moves(mdp, discount):
    """{cell: the best move there}."""
    greedy = action_values(mdp, policy_iteration(mdp, discount), discount).argmax(axis=1)
    return {cell: mdp.actions[move] for cell, move in zip(mdp.states, greedy, strict=True)}


@pytest.mark.parametrize("discount, near", [(0.1, True), (0.9, False)])
@pytest.mark.parametrize("noise, risky", [(0.0, True), (0.5, False)])
def test_discount_chooses_the_exit_and_noise_the_way(discount, near, noise, risky):
    moves = best_moves(examples.two_exits(noise=noise), discount)
    assert (moves[3, 0] == "right") == risky
    # At each of the two forks, one over the chasm and one behind it, either take the near exit or walk on.
    assert moves[3, 2] == ("up" if near or not risky else "right")
    assert moves[0, 2] == ("down" if near else "right")


def test_discount_grid():
    moves = best_moves(examples.discount_grid(noise=0.0), 0.1)
    assert (moves[3, 0], moves[3, 2]) == ("right", "up")
    moves = best_moves(examples.discount_grid(noise=0.0), 0.9)
    assert (moves[3, 0], moves[3, 2], moves[3, 4]) == ("right", "right", "up")
    moves = best_moves(examples.discount_grid(noise=0.5), 0.9)
    assert (moves[3, 0], moves[2, 0], moves[0, 2]) == ("up", "up", "right")


def test_on_the_bridge_noise_decides():
    assert best_moves(examples.bridge_grid(noise=0.0), 0.9)[1, 1] == "right"
    assert best_moves(examples.bridge_grid(noise=0.2), 0.9)[1, 1] == "left"


def test_jump_grid():
    mdp = examples.jump_grid()
    random = on_grid(mdp, policy_values(mdp, uniform_policy(mdp), 0.9))
    assert_allclose(random[0], [3.308996, 8.789292, 4.427619, 5.322368, 1.492179], atol=5e-7)
    best = on_grid(mdp, optimal_values(mdp, 0.9))
    assert best[0, 1] == pytest.approx(10 / (1 - 0.9**5), abs=1e-10)


def test_small_grid():
    mdp = examples.small_grid()
    random = on_grid(mdp, policy_values(mdp, uniform_policy(mdp), 1.0))
    assert_allclose(random[0], [0, -14, -20, -22], atol=1e-10)


def test_cliff_walking_is_worth_minus_thirteen():
    mdp = examples.cliff_walking()
    assert mdp.initial_distribution @ optimal_values(mdp, 1.0) == -13.0


@pytest.mark.parametrize(
    "function, arguments, identifier, options",
    [
        ("frozen_lake", {}, "FrozenLake-v1", {}),
        ("frozen_lake", {"map": "8x8"}, "FrozenLake-v1", {"map_name": "8x8"}),
        ("frozen_lake", {"slippery": False}, "FrozenLake-v1", {"is_slippery": False}),
        ("frozen_lake", {"success_rate": 0.8}, "FrozenLake-v1", {"success_rate": 0.8}),
        ("cliff_walking", {}, "CliffWalking-v1", {}),
        ("cliff_walking", {"slippery": True}, "CliffWalking-v1", {"is_slippery": True}),
        ("taxi", {}, "Taxi-v4", {}),
    ],
)
def test_the_tables_are_gymnasiums(function, arguments, identifier, options):
    ours = getattr(examples, function)(**arguments)
    with gymnasium.make(identifier, **options) as environment:
        theirs = environment.unwrapped.P
        assert_allclose(ours.initial_distribution, environment.unwrapped.initial_state_distrib, rtol=1e-14)
    for state in range(ours.num_states):
        for action in range(ours.num_actions):
            expected: dict = {}
            for probability, successor, reward, done in theirs[state][action]:
                key = (int(successor), float(reward), bool(done))
                expected[key] = expected.get(key, 0.0) + probability
            actual = {tuple(rest): probability for probability, *rest in ours.transitions(state, action)}
            assert actual == pytest.approx(expected, rel=1e-14), (state, action)


def test_windy_gridworld_takes_fifteen_steps_or_seven():
    mdp = examples.windy_gridworld()
    assert mdp.initial_distribution @ optimal_values(mdp, 1.0) == -15
    kings = examples.windy_gridworld(kings_moves=True)
    assert kings.initial_distribution @ optimal_values(kings, 1.0) == -7
    still = examples.windy_gridworld(kings_moves=True, stand_still=True)
    assert still.initial_distribution @ optimal_values(still, 1.0) == -7
    assert examples.windy_gridworld(gusts=True).branching is None
    # Walking right from the column of the strongest wind, one is lifted by two; at the top the edge holds.
    assert mdp.transitions(mdp.index((3, 6)), 1) == [(1.0, mdp.index((1, 7)), -1.0, False)]
    assert mdp.transitions(mdp.index((0, 6)), 1) == [(1.0, mdp.index((0, 7)), -1.0, False)]


def test_dyna_maze_takes_fourteen_steps():
    mdp = examples.dyna_maze()
    values = optimal_values(mdp, 0.95)
    assert steps_to_goal(mdp, values) == 14
    assert mdp.initial_distribution @ values == pytest.approx(0.95**13, rel=1e-12)


def test_random_walks():
    five, nineteen = examples.random_walk(), examples.random_walk(19, left=-1.0)
    assert_allclose(policy_values(five, uniform_policy(five), 1.0), np.arange(1, 6) / 6, rtol=1e-12)
    expected = (np.arange(1, 20) - 10) / 10
    assert_allclose(policy_values(nineteen, uniform_policy(nineteen), 1.0), expected, atol=1e-12)
    assert five.states[int(np.argmax(five.initial_distribution))] == 3


@pytest.mark.parametrize(
    "right, worth", [(2 - 2**0.5, -(6 + 4 * 2**0.5)), (0.95, -44.21), (0.05, -82.11), (0.5, -12.0)]
)
def test_short_corridor(right, worth):
    mdp = examples.short_corridor()
    policy = uniform_policy(mdp)
    policy[:3] = [1 - right, right]
    assert policy_values(mdp, policy, 1.0)[0] == pytest.approx(worth, abs=5e-3)


def test_gamblers_problem():
    values = optimal_values(examples.gamblers_problem(), 1.0)
    assert_allclose(values[[25, 50, 75, 99]], [0.16, 0.4, 0.64, values[99]], rtol=1e-12)
    # With a fair coin nothing can be gained or lost: the chance to reach the goal is the capital itself.
    fair = examples.gamblers_problem(goal=20, heads=0.5)
    assert_allclose(optimal_values(fair, 1.0)[1:20], np.arange(1, 20) / 20, rtol=1e-9)


def test_car_rental_moves_cars_as_in_the_book():
    # Figure 4.2: five cars are moved from a full place to an empty one, four the other way; the least
    # value is 421.
    mdp = examples.car_rental()
    table = np.zeros(mdp.available.shape + (mdp.num_states,))
    pairs = np.repeat(np.arange(mdp.available.size), np.diff(mdp.offsets))
    table.reshape(-1, mdp.num_states)[pairs, mdp.successors] = mdp.probabilities
    values = np.zeros(mdp.num_states)
    for _ in range(300):
        q = np.where(mdp.available, mdp.rewards + 0.9 * (table @ values), -np.inf)
        values = q.max(axis=1)
    best = np.array(mdp.actions)[q.argmax(axis=1)].reshape(21, 21)
    assert best[20, 0] == 5
    assert best[0, 20] == -4
    assert best[8, 8] == 0
    assert best[0].tolist() == [0] * 8 + [-1] * 2 + [-2] * 3 + [-3] * 5 + [-4] * 3
    assert best[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 3, 4, 4] + [5] * 10
    assert values.min() == values[0] == pytest.approx(421, abs=0.5)


def test_blackjack_plays_the_book_policy():
    # Figure 5.2: without a usable ace, stick on 17 against 7 to ace, on 12 against 4 to 6, on 13
    # against 2 and 3.
    mdp = examples.blackjack()
    q = action_values(mdp, optimal_values(mdp, 1.0), 1.0)
    sticks = q[:, 0] > q[:, 1]

    def sticks_from(dealer, ace):
        return min(s for s in range(12, 22) if all(sticks[mdp.index((t, dealer, ace))] for t in range(s, 22)))

    assert [sticks_from(dealer, False) for dealer in range(1, 11)] == [17, 13, 13, 12, 12, 12, 17, 17, 17, 17]
    assert [sticks_from(dealer, True) for dealer in range(2, 11)] == [18, 18, 18, 18, 18, 18, 18, 19, 19]


def test_blackjack_is_gymnasiums_game():
    # The value of a fixed policy (stick on 17 and more), exactly and by playing Gymnasium's game: 4
    # standard errors.
    mdp = examples.blackjack()
    policy = np.zeros(mdp.available.shape)
    for state, (total, _, _) in enumerate(mdp.states):
        policy[state, int(total != "natural" and total < 17)] = 1.0
    expected = mdp.initial_distribution @ policy_values(mdp, policy, 1.0)
    returns = []
    with gymnasium.make("Blackjack-v1", sab=True) as environment:
        observation, _ = environment.reset(seed=0)
        for _ in range(20_000):
            ended = False
            while not ended:
                observation, reward, ended, _, _ = environment.step(int(observation[0] < 17))
            returns.append(reward)
            observation, _ = environment.reset()
    assert abs(np.mean(returns) - expected) < 4 * np.std(returns) / len(returns) ** 0.5


def test_forest_management():
    mdp = examples.forest_management()
    assert_allclose(optimal_values(mdp, 0.9), [26.244, 29.484, 33.484], atol=1e-9)


def test_two_states():
    assert_allclose(optimal_values(examples.two_states(), 0.95), [-8.5714, -20], atol=5e-5)


def test_river_swim_is_worth_swimming():
    # Always right: the stationary chain spends 0.4286 of its time at the far end, where each step pays 1.
    mdp = examples.river_swim()
    policy = np.tile([0.0, 1.0], (6, 1))
    near_one = 1 - 1e-7
    assert policy_values(mdp, policy, near_one)[0] * (1 - near_one) == pytest.approx(0.42865, abs=5e-5)


def test_server_queue_has_a_threshold():
    mdp = examples.server_queue()
    q = action_values(mdp, optimal_values(mdp, 0.99, precision=1e-10), 0.99)
    best = [mdp.actions[action] for action in q.argmax(axis=1)]
    admits = [action.startswith("admit") for action in best]
    fast = [action.endswith("fast") for action in best]
    assert admits == sorted(admits, reverse=True)
    assert admits[0]
    assert not admits[-1]
    assert fast[1:] == sorted(fast[1:])
    assert fast[-1]


@pytest.mark.parametrize("arrival, reward, cost", [(0.8, 5.0, 0.4), (0.5, 6.0, 1.0), (0.9, 10.0, 0.5)])
def test_server_queue_agrees_with_naor(arrival, reward, cost):
    # Social optimum (Naor 1969): admit while the queue is shorter than the n for which
    # [n(1−ρ) − ρ(1−ρⁿ)] / (1−ρ)² ≤ Rμ/C < the same at n + 1; found here by computing each threshold's
    # average income.
    service, rho, capacity = 1.0, arrival / 1.0, 30
    criterion = [(n * (1 - rho) - rho * (1 - rho**n)) / (1 - rho) ** 2 for n in range(capacity)]
    naor = max(n for n in range(capacity) if criterion[n] <= reward * service / cost)
    mdp = examples.server_queue(capacity, arrival, service, service, 0.0, reward, cost)
    patient = 1 - 1e-6
    q = action_values(mdp, policy_iteration(mdp, patient), patient)
    threshold = int(np.argmin([best in (0, 1) for best in q.argmax(axis=1)]))
    assert threshold == naor


def test_cleaning_robot():
    mdp = examples.cleaning_robot()
    values = optimal_values(mdp, 0.5)
    assert_allclose(values, [0, 1, 1.25, 2.5, 5, 0])
    q = action_values(mdp, values, 0.5)
    assert_allclose(q[1:5], [[1, 0.625], [0.5, 1.25], [0.625, 2.5], [1.25, 5]])
    slipping = [(0.8, 5, 5.0, False), (0.15, 4, 0.0, False), (0.05, 3, 0.0, False)]
    assert_allclose(examples.cleaning_robot(slip=0.2).transitions(4, 1), slipping)


def test_recycling_robot():
    # Always search, by hand: h = 3 + γ(.9 h + .1 l); low: search or recharge, whichever is better.
    mdp = examples.recycling_robot()
    high, low = optimal_values(mdp, 0.9)
    assert high == pytest.approx(3 + 0.9 * (0.9 * high + 0.1 * low))
    assert low == pytest.approx(
        max(0.9 * high, 1 + 0.9 * low, 3 * 0.6 - 3 * 0.4 + 0.9 * (0.6 * low + 0.4 * high))
    )


def test_shortest_path():
    mdp = examples.shortest_path()
    assert optimal_values(mdp, 1.0)[mdp.index("s")] == -9
    assert [optimal_values(examples.shortest_path(target=node), 1.0)[0] for node in "tyz"] == [-8, -5, -7]


def test_the_crawler_learns_to_crawl():
    mdp = examples.crawler()
    q = action_values(mdp, optimal_values(mdp, 0.9), 0.9)
    state, travelled = int(np.argmax(mdp.initial_distribution)), 0.0
    for _ in range(500):
        ((_, state, reward, _),) = mdp.transitions(state, int(q[state].argmax()))
        travelled += reward
    assert travelled / 500 > 1.0


def test_garnet():
    mdp = examples.garnet(states=50, actions=3, branching=7, seed=1)
    assert mdp.branching == 7
    successors = mdp.successors.reshape(150, 7)
    assert all(len(set(row)) == 7 for row in successors)
    again, other = examples.garnet(50, 3, 7, seed=1), examples.garnet(50, 3, 7, seed=2)
    assert_array_equal(mdp.probabilities, again.probabilities)
    assert not np.array_equal(mdp.successors, other.successors)
    large = examples.garnet(states=20_000, actions=2, branching=3)
    assert large.num_transitions == 120_000


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: examples.grid_world(noise=1.5), "noise is 1.5"),
        (lambda: examples.grid_from_text(". .\n."), "as many cells"),
        (lambda: examples.grid_from_text(". x"), "is 'x'; allowed"),
        (lambda: examples.grid_from_text("# 1"), "no floor"),
        (lambda: examples.frozen_lake(map="4x5"), "did you mean '4x4'"),
        (lambda: examples.frozen_lake(map="SF FFG"), "equally long"),
        (lambda: examples.garnet(states=3, branching=4), "only 3 states"),
        (lambda: examples.random_walk(0), "length is 0"),
        (lambda: examples.shortest_path(target="q"), "target is 'q'"),
        (lambda: examples.shortest_path(edges={("s", "x"): -1.0}), "must not be negative"),
        (lambda: examples.server_queue(arrival_rate=0.0), "must be positive"),
        (lambda: examples.gamblers_problem(heads=-0.1), "heads is -0.1"),
    ],
)
def test_bad_parameters_are_named(make, says):
    with pytest.raises(BadInput, match=says):
        make()


def test_maps_can_come_from_a_file(tmp_path):
    path = tmp_path / "lane.txt"
    path.write_text("S . 1\n")
    mdp = examples.grid_from_file(path, noise=0.0)
    assert mdp.name == "lane"
    assert isinstance(mdp, FiniteMDP)
    assert_allclose(optimal_values(mdp, 0.5), [0.25, 0.5, 1.0])
    with pytest.raises(BadInput, match="cannot read"):
        examples.grid_from_file(tmp_path / "nowhere.txt")


def test_the_page_lists_every_example():
    page = (Path(__file__).parents[2] / "docs" / "examples.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z-]+)` \|", page, flags=re.MULTILINE) == list(EXAMPLES)


def test_the_page_s_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "examples.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    cakes = names["cakes"]
    q = action_values(cakes, optimal_values(cakes, 0.9), 0.9)
    best = {state: cakes.actions[q[cakes.index(state)].argmax()] for state in cakes.states if state > 0}
    assert names["best"] == best
    assert set(best.values()) == {"eat", "save"}
    assert names["learnt"].counts.tolist() == [1, 1, 1]
    assert names["observation"] == names["cakes"].index(3)
