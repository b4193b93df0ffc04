"""`bellmark list`: what there is, aligned, filtered, quick, and with one line for what there is not."""

import subprocess
import sys

import pytest

from bellmark import algorithms
from bellmark.cli import list as command
from bellmark.errors import BadInput
from bellmark.run.directory import MetricsWriter, RunDirectory


@pytest.fixture
def runs(tmp_path):
    for place, (name, seeds, done) in enumerate((("ppo", [0, 1], 1000), ("reinforce", [7], 300))):
        run = RunDirectory.create(name, "CartPole-v1", directory=tmp_path / f"{name}-CartPole-v1")
        run.write_config(
            {
                "algorithm": {"name": name, "fields": {}},
                "environment": {"id": "CartPole-v1", "kind": "compiled", "threshold": 475.0},
                "seeds": seeds,
                "steps": 1000,
                "steps_per_iteration": 100,
                "created": f"2026-11-2{place}T00:00:00+00:00",
            }
        )
        with MetricsWriter(run.metrics_path) as writer:
            metrics = {"episode/return": [400.5] + [499.5] * (len(seeds) - 1)}
            writer.append([{"iteration": 1, "step": done, "seconds": 1.0, "metrics": metrics}])
    (tmp_path / "foreign").mkdir()
    return tmp_path


class TestRuns:
    def test_what_was_done_and_what_is_open(self, runs, capsys):
        assert command.main(["runs", "--directory", str(runs)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split() for line in lines] == [
            ["run", "seeds", "steps", "return", "state"],
            [f"{runs}/ppo-CartPole-v1", "2", "1,000", "of", "1,000", "450", "finished"],
            [f"{runs}/reinforce-CartPole-v1", "1", "300", "of", "1,000", "400.5", "interrupted"],
            ["2", "runs", "in", str(runs)],
        ]

    def test_columns_are_aligned(self, runs, capsys):
        command.main(["runs", "--directory", str(runs)])
        lines = capsys.readouterr().out.splitlines()[:-1]
        assert lines[1].index("finished") == lines[2].index("interrupted") == lines[0].index("state")

    def test_one_that_a_process_works_on(self, runs, capsys):
        with RunDirectory(runs / "reinforce-CartPole-v1").lock():
            command.main(["runs", "--directory", str(runs), "--containing", "REINFORCE"])
        output = capsys.readouterr().out
        assert "running (process" in output
        assert "ppo" not in output
        assert output.endswith(f"1 run in {runs}\n")

    def test_none(self, tmp_path, capsys):
        assert command.main(["runs", "--directory", str(tmp_path / "nowhere")]) == 0
        assert capsys.readouterr().out == f"0 runs in {tmp_path / 'nowhere'}; bellmark train makes one\n"


class TestEnvironments:
    def test_twins_come_first(self, capsys):
        assert command.main(["environments"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["id", "kind", "time", "limit", "solved", "at"]
        assert lines[2].split() == ["CartPole-v1", "compiled", "twin", "500", "475"]
        assert any(line.startswith("FrozenLake-v1") for line in lines)

    def test_some(self, capsys):
        command.main(["environments", "--containing", "cartpole"])
        lines = capsys.readouterr().out.splitlines()
        assert all("CartPole" in line for line in lines[1:-1])
        command.main(["environments", "--containing", "no such thing"])
        assert capsys.readouterr().out.startswith("0 environments; ")


class TestAlgorithms:
    def test_names_and_first_lines(self, monkeypatch, capsys):
        table = {"b": "bellmark.run.progress:Lines", "a": "bellmark.run.directory:RunDirectory"}
        monkeypatch.setattr(algorithms, "ALGORITHMS", table, raising=False)
        assert command.main(["algorithms"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("a  The folder of one run.")
        assert lines[1].startswith("b  Plain lines for pipes and logs")
        assert lines[2].startswith("2 algorithms; bellmark train")

    def test_a_class_without_a_docstring_has_its_modules(self):
        assert command.summary("bellmark.cli.list:Nobody").startswith("`bellmark list algorithms|")


class TestInput:
    @pytest.mark.parametrize(
        "arguments, message",
        [
            (
                ["run"],
                r"unknown list 'run' \(did you mean 'runs'\?\); allowed: algorithms, environments, runs",
            ),
            (["runs", "--directry", "x"], r"unknown flag --directry \(did you mean --directory\?\)"),
            ([], "required: algorithms"),
        ],
    )
    def test_one_line_says_what_is_allowed(self, arguments, message):
        with pytest.raises(BadInput, match=message):
            command.main(arguments)

    def test_help_and_listing_never_import_jax(self):
        source = (
            "import sys\nfrom bellmark.cli.list import main\n"
            "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
            "assert 'numpy' not in sys.modules\n"
            "main(['environments']), main(['runs'])\n"
            "assert 'jax' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", source], check=True, stdout=subprocess.DEVNULL)
