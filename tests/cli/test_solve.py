"""`bellmark solve`, from its flags to its files and its exit status."""

import csv
import subprocess
import sys

import pytest
from PIL import Image

from bellmark.cli.solve import main
from bellmark.mdp import FiniteMDP, examples


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_example_is_answered_and_drawn(capsys, tmp_path):
    assert main(["grid-world", "--discount", "0.9", "--noise", "0.2", "--directory", "out", "--animate"]) == 0
    said = capsys.readouterr().out
    assert "11 states, 4 actions, 104 transitions; discount 0.9" in said
    assert "the start is worth 0.490684" in said
    for line in ("│ 0.64 → │ 0.74 → │ 0.85 → │  1.00 ● │", "│ 0.49 ↑ │ 0.43 ← │ 0.48 ↑ │  0.28 ← │"):
        assert line in said
    assert "bellmark train q_learning grid-world" in said
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"solution.png", "solution.csv", "model.safetensors", "sweeps.gif"}
    with (tmp_path / "out" / "solution.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["state"] == "(0, 0)"
    assert rows[0]["best"] == "right"
    assert float(rows[0]["lower"]) <= 0.644969 + 5e-7
    assert float(rows[0]["upper"]) >= 0.644969 - 5e-7
    assert float(rows[0]["value"]) == pytest.approx(float(rows[0]["q(right)"]), abs=1e-6)


def test_wide_maps_keep_to_one_line_per_row(capsys):
    assert main(["cliff-walking", "--discount", "0.9", "--method", "policy_iteration", "--no-pictures"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len(rows) == 4
    assert [cell.split()[-1] for cell in rows[2].strip("│").split("│")] == ["→"] * 11 + ["↓"]
    assert [cell.strip() for cell in rows[3].strip("│").split("│")][1:] == ["~"] * 10 + ["G"]


def test_the_saved_model_solves_again(capsys):
    assert main(["grid-world", "--discount", "0.9", "--directory", "out"]) == 0
    first = capsys.readouterr().out.splitlines()
    assert main(["out/model.safetensors", "--discount", "0.9", "--no-pictures"]) == 0
    second = capsys.readouterr().out.splitlines()
    assert first[2:12] == second[2:12]


def test_a_sweep_shows_how_the_route_changes(capsys):
    # The tolerance is far wider than what the choice of a route hangs on, 0.1 to the seventh: it must not matter.
    flags = ["--discount", "0.1,0.9", "--noise", "0,0.5", "--tolerance", "0.1", "--directory", "out"]
    assert main(["two-exits", *flags]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "4 combinations" in said
    routes = ["→2 ↑ (3 steps)", "↑3 →2 ↓2 (7 steps)", "→4 ↑ (5 steps)", "↑3 →4 ↓2 (9 steps)"]
    places = [said.index(route) for route in routes]
    assert places == sorted(places)
    with Image.open("out/routes.png") as picture:
        assert picture.size[0] > 800


def test_a_sweep_without_a_grid_is_a_table(capsys, tmp_path):
    assert main(["forest-management", "--fire", "0.1,0.5", "--no-pictures"]) == 0
    said = capsys.readouterr().out
    assert said.count("never ends") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_table_shaped_example_is_a_table(capsys):
    assert main(["cleaning-robot", "--no-pictures"]) == 0
    said = capsys.readouterr().out
    assert "q(left)" in said
    assert "terminal" in said
    assert main(["car_rental", "--most", "4", "--most-moved", "2", "--no-pictures"]) == 0
    assert "25 states" in capsys.readouterr().out


def test_gymnasium_ids_and_maps(capsys, tmp_path):
    assert main(["FrozenLake-v1", "--discount", "0.99", "--no-pictures"]) == 0
    assert "0.542026" in capsys.readouterr().out
    (tmp_path / "lane.txt").write_text("S . 1\n")
    assert main(["lane.txt", "--noise", "0", "--discount", "0.5", "--no-pictures"]) == 0
    assert "the start is worth 0.25," in capsys.readouterr().out


def test_underscores_and_other_methods(capsys):
    assert main(["grid_world", "--living_reward=-0.04", "--discount=1", "--no-pictures"]) == 0
    assert "0.705308" in capsys.readouterr().out
    assert main(["river-swim", "--method", "finite_horizon", "--horizon", "20", "--no-pictures"]) == 0
    assert "finite_horizon" in capsys.readouterr().out


def test_average_reward_is_called_by_its_name(capsys):
    assert main(["river-swim", "--method", "average_reward", "--no-pictures"]) == 0
    said = capsys.readouterr().out
    assert "transitions; average reward" in said
    assert "in the long run every step earns 0.42862" in said


def test_by_default_files_go_to_a_fresh_directory_in_runs(tmp_path):
    assert main(["two-states"]) == 0
    (made,) = (tmp_path / "runs").iterdir()
    assert made.name.startswith("solve-two-states-")


def test_names_that_no_file_can_hold_do_not_stop_the_answer(tmp_path, monkeypatch):
    model = FiniteMDP.from_function([frozenset()], lambda s: "a", lambda s, a: [(1.0, s, 1.0, False)])
    monkeypatch.setitem(examples.EXAMPLES, "odd", lambda: model)
    assert main(["odd", "--discount", "0.5", "--directory", "out"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"solution.png", "solution.csv"}


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "solve needs a model"),
        (["--noise", "1"], "the model comes first"),
        (["gridworld"], "unknown example or Gymnasium id 'gridworld' (did you mean 'grid-world'?)"),
        (["grid-world", "--nois", "0.2"], "unknown flag --nois (did you mean --noise?)"),
        (["grid-world", "--noise", "2"], "noise is 2.0; it is a probability"),
        (["grid-world", "--noise", "a"], "--noise is 'a'; it must be a number"),
        (["frozen-lake", "--slippery", "maybe"], "--slippery is 'maybe'; it must be true or false"),
        (["garnet", "--states", "1.5"], "--states is '1.5'; it must be a whole number"),
        (["grid-world", "--discount", "1.5"], "discount is 1.5; it must lie in [0, 1]"),
        (["grid-world", "--discount", "0.9,1.5"], "discount is 1.5"),
        (["grid-world", "--method", "magic"], "unknown method 'magic'"),
        (["grid-world", "--tolerance", "0"], "tolerance must be a positive number"),
        (["grid-world", "--noise", ",".join(["0.1"] * 40)], "40 combinations were asked for; at most 36"),
        (["CartPole-v1"], "CartPole-v1 publishes no transition table"),
        (["lost.txt"], "there is no file lost.txt"),
        (["some/where"], "there is no file some/where"),
        (["river-swim", "--discount", "1"], ""),
        (["river-swim", "--animate", "--directory", "out"], "has no grid to animate"),
        (["grid-world", "--directory", "/proc/nowhere"], "cannot write to /proc/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_status_two(arguments, says, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("bellmark: ")
    assert error.count("\n") == 1


def test_a_damaged_model_is_a_failure_of_the_file(tmp_path, capsys):
    (tmp_path / "bad").write_bytes(b"\x80\x04.")
    assert main(["bad"]) == 1
    assert "is not a model that Bellmark saved" in capsys.readouterr().err


def test_help_lists_the_example_s_own_parameters(capsys):
    for arguments, says in (
        (["--help"], "gamblers-problem"),
        (["frozen-lake", "--help"], "parameters of frozen-lake"),
    ):
        try:
            status = main(arguments)
        except SystemExit as ending:
            status = ending.code
        assert status == 0
        assert says in capsys.readouterr().out


def test_jax_is_never_imported():
    script = (
        "import sys; from bellmark.cli.solve import main; status = main(['two-states', '--directory', 'out']); "
        "print(status, 'jax' in sys.modules, 'gymnasium' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False False"
