"""Pictures of finite models: what is written in them is the solution, and every kind of model gets one."""

import itertools
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bellmark.algorithms.exact.solve import solve
from bellmark.errors import BadInput
from bellmark.mdp import FiniteMDP, examples
from bellmark.mdp.routes import likely_route, settled, visited
from bellmark.report import finite_plots
from bellmark.report.finite_plots import Case
from bellmark.report.numbers import number

GRID = examples.grid_world()
SOLVED = solve(GRID, 0.9, record=True)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_every_value_is_written_in_its_cell():
    axes = Figure().add_subplot()
    finite_plots.draw_values(axes, GRID, SOLVED.values, SOLVED.policy)
    places = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    for state, cell in enumerate(GRID.states):
        assert places[cell] == number(SOLVED.values[state])
    assert {"+1", "−1", "S"} <= set(texts(axes))
    # One arrow for each of the nine cells in which something is decided.
    assert len(axes.collections) == 9
    assert axes.images[0].get_array().mask.tolist() == [[False] * 4, [False, True, False, False], [False] * 4]


def test_arrows_point_where_the_policy_goes():
    axes = Figure().add_subplot()
    finite_plots.draw_values(axes, GRID, SOLVED.values, SOLVED.policy)
    decided = np.flatnonzero(~settled(GRID))
    for state, arrow in zip(decided, axes.collections, strict=True):
        tip = arrow.get_paths()[0].vertices[0]
        down, right = GRID.layout.directions[SOLVED.policy[state]]
        row, column = GRID.states[state]
        assert tip == pytest.approx((column + 0.45 * right, row + 0.45 * down))


def test_equally_good_actions_get_pale_arrows():
    mdp = examples.grid_from_text("S . 1\n. . .\n1 . .", noise=0.0)
    solution = solve(mdp, 0.9)
    axes = Figure().add_subplot()
    finite_plots.draw_values(axes, mdp, solution.values, solution.policy, solution.ties)
    alphas = [arrow.get_alpha() for arrow in axes.collections]
    assert alphas.count(0.95) == 7
    assert alphas.count(0.28) >= 2


def test_four_action_values_per_cell_and_the_best_in_bold():
    axes = Figure().add_subplot()
    finite_plots.draw_action_values(axes, GRID, SOLVED.action_values, SOLVED.policy)
    assert len(axes.texts) == 9 * 4 + 2
    bold = sorted(text.get_text() for text in axes.texts if text.get_fontweight() == "bold")
    decided = ~settled(GRID)
    assert bold == sorted(number(q) for q in SOLVED.action_values.max(axis=1)[decided])
    assert len(axes.collections[0].get_paths()) == 9 * 4 + 2


def test_bounds_close_around_the_value_of_the_start():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    finite_plots.draw_bounds(left, GRID, SOLVED)
    upper, lower = left.lines[1].get_ydata(), left.lines[2].get_ydata()
    start = GRID.initial_distribution @ SOLVED.values
    assert (upper >= start).all()
    assert (lower <= start).all()
    assert upper[-1] - lower[-1] <= 1e-6
    finite_plots.draw_gap(right, SOLVED)
    gap = right.lines[0].get_ydata()
    assert gap[-1] == pytest.approx(float((SOLVED.upper - SOLVED.lower).max()))
    assert right.get_yscale() == "log"


def test_a_method_without_bounds_on_the_way_shows_its_changes():
    mdp = examples.gamblers_problem(goal=20)
    solution = solve(mdp, 1.0, record=True)
    figure = Figure()
    left, right = figure.subplots(1, 2)
    finite_plots.draw_bounds(left, mdp, solution)
    finite_plots.draw_gap(right, solution)
    assert "proved at the last" in left.get_title(loc="left")
    assert len(right.lines[0].get_ydata()) == (solution.residuals > 0).sum()


@pytest.mark.parametrize(
    "mdp",
    [examples.cliff_walking(), examples.river_swim(), examples.taxi(), examples.car_rental(most=5)],
    ids=["stacked maps", "table", "profile", "rectangle"],
)
def test_every_kind_of_model_gets_a_sheet(mdp, tmp_path):
    solution = solve(mdp, 0.9, record=True)
    path = finite_plots.save(finite_plots.solution_figure(mdp, solution), tmp_path / "sheet.png")
    with Image.open(path) as picture:
        width, height = picture.size
        colours = len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0))
    assert 700 < width < 2400
    assert 600 < height < 2400
    assert colours > 100


def test_a_large_grid_is_a_plain_heat_map(tmp_path):
    mdp = examples.grid_from_text(
        "\n".join(["S" + " ." * 39] + [". " * 40] * 38 + [". " * 39 + "1"]), noise=0.1
    )
    figure = finite_plots.solution_figure(mdp, solve(mdp, 0.99))
    assert len(figure.axes[0].texts) == 0
    assert len(figure.axes[0].collections) == 0


def test_tables_shade_the_best_action():
    mdp = examples.forest_management()
    axes = Figure().add_subplot()
    finite_plots.draw_table(axes, mdp, solve(mdp, 0.9))
    cells = axes.tables[0].get_celld()
    assert [cells[row, 1].get_text().get_text() for row in (1, 2, 3)] == ["26.24", "29.48", "33.48"]
    assert [cells[row, 3].get_text().get_fontweight() for row in (1, 2, 3)] == ["bold"] * 3
    assert cells[1, 4].get_text().get_fontweight() == "normal"


def test_routes_of_a_sweep():
    cases = []
    for discount in (0.1, 0.9):
        for noise in (0.0, 0.5):
            mdp = examples.two_exits(noise=noise)
            cases.append(Case(f"{discount}, {noise}", mdp, solve(mdp, discount, "policy_iteration")))
    routes = [
        [c.mdp.states[s] for s in likely_route(c.mdp, c.solution.policy, c.solution.values)] for c in cases
    ]
    assert routes[0] == [(3, 0), (3, 1), (3, 2), (2, 2)]
    assert routes[1] == [(3, 0), (2, 0), (1, 0), (0, 0), (0, 1), (0, 2), (1, 2), (2, 2)]
    assert routes[2] == [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (2, 4)]
    assert routes[3][-1] == (2, 4)
    assert (0, 0) in routes[3]
    figure = finite_plots.route_figure(cases)
    assert len(figure.axes) == 4
    for axes, route in zip(figure.axes, routes, strict=True):
        xs, ys = axes.lines[0].get_data()
        assert len(xs) == len(route)
        assert list(zip(ys, xs, strict=True))[:-1] == [pytest.approx(cell) for cell in route[:-1]]
    with pytest.raises(BadInput, match="river-swim has no grid"):
        finite_plots.route_figure([Case("", examples.river_swim(), None)])


def test_routes_end_where_they_should():
    # Into a terminal state, on a flagged transition to another state, and nowhere when nothing ends.
    maze = examples.dyna_maze()
    solution = solve(maze, 0.95)
    route = likely_route(maze, solution.policy, solution.values)
    assert len(route) == 15
    assert maze.states[route[-1]] == (0, 8)
    cliff = examples.cliff_walking()
    solution = solve(cliff, 0.95, "policy_iteration")
    route = likely_route(cliff, solution.policy, solution.values)
    assert route == [36, *range(24, 36), 47]
    endless = examples.river_swim()
    assert likely_route(endless, np.ones(6, int), np.zeros(6)) == []


def test_a_fall_is_not_a_route_however_likely():
    def walk(place, _):
        return [(0.4, place, -5.0, True), (0.6, place + 1, float(place == 3), place == 3)]

    mdp = FiniteMDP.from_function([0], lambda place: ["go"], walk)
    solution = solve(mdp, 0.9)
    assert [mdp.states[s] for s in likely_route(mdp, solution.policy, solution.values)] == [0, 1, 2, 3, 4]


def test_what_counts_as_visited_and_settled():
    cliff = examples.cliff_walking()
    assert np.flatnonzero(~visited(cliff)).tolist() == list(range(37, 48))
    assert visited(GRID).all()
    assert np.flatnonzero(settled(GRID)).tolist() == [GRID.index((0, 3)), GRID.index((1, 3))]
    assert np.flatnonzero(settled(examples.shortest_path())).tolist() == [2]
    assert not settled(examples.random_walk()).any()


def test_the_animation_shows_the_sweeps(tmp_path):
    sweeps = finite_plots.sweeps_from_zero(GRID, 0.9)
    start = GRID.index((2, 0))
    assert sweeps[0][GRID.index((0, 3))] == 1.0
    assert [sweep[start] > 0.0 for sweep in sweeps[:7]] == [False] * 5 + [True] * 2
    assert np.abs(sweeps[-1] - SOLVED.values).max() < 2e-3
    path = finite_plots.animate_sweeps(GRID, sweeps, 0.9, tmp_path / "sweeps.gif", most_frames=6)
    with Image.open(path) as film:
        assert film.n_frames == 6
        frames = []
        for index in range(6):
            film.seek(index)
            frames.append(np.asarray(film.convert("RGB"), float))
    changes = [np.abs(a - b).mean() for a, b in itertools.pairwise(frames)]
    assert changes[0] > changes[-1] > 0
    with pytest.raises(BadInput, match="has no grid to animate"):
        finite_plots.animate_sweeps(examples.river_swim(), [], 0.9, path)
    with pytest.raises(BadInput, match="no sweeps were recorded"):
        finite_plots.animate_sweeps(GRID, [], 0.9, path)


def test_backups_for_pictures_agree_with_the_solver():
    q = finite_plots.backup(GRID, SOLVED.values, 0.9)
    assert np.allclose(q, SOLVED.action_values, atol=1e-12)


def test_named_pairs_are_drawn_as_a_rectangle():
    layout = finite_plots.picture_layout(examples.car_rental(most=3, most_moved=1))
    assert layout.shape == (4, 4)
    assert finite_plots.picture_layout(examples.river_swim()) is None
    assert finite_plots.picture_layout(examples.blackjack()) is None
    ragged = FiniteMDP.from_arrays(
        [[[0]], [[1]]], np.ones((2, 1, 1)), np.zeros((2, 1)), states=[(0, 0), (1, 1)]
    )
    assert finite_plots.picture_layout(ragged) is None


@pytest.mark.parametrize(
    "value, text",
    [
        (0.644969, "0.64"),
        (-13.0, "−13.00"),
        (-1e-14, "0"),
        (0.0123, "0.012"),
        (421.41, "421.4"),
        (99.999, "100.0"),
        (12345.6, "12346"),
        (2.6e-10, "3e−10"),
        (-123456.0, "−1e5"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_no_global_state_is_touched():
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
