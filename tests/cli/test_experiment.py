"""`bellmark experiment`, from its flags to its files."""

import json

import pytest

from bellmark.cli.main import run
from bellmark.errors import BadInput
from bellmark.report.experiments import EXPERIMENTS


def test_the_list_says_what_each_is_about(capsys):
    assert run(["experiment", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)
    assert all(len(line.split()) > 5 for line in lines)


def test_an_experiment_says_whether_its_claim_held_and_where_everything_is(capsys, tmp_path):
    out = tmp_path / "deep" / "out"
    assert run(["experiment", "cliff_walking", "--seeds", "3", "--seed", "7", "--directory", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "claim: With ε = 0.1 throughout" in said
    assert "The claim held" in said or "The claim did not hold" in said
    result = json.loads((out / "result.json").read_text())
    assert result["seeds"] == [7, 8, 9]
    assert {path.name for path in out.iterdir()} == {
        "picture.png",
        "returns.csv",
        "routes.csv",
        "result.json",
    }
    for path in out.iterdir():
        assert str(path) in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "an experiment's name is missing; allowed: cliff-walking, "),
        (["cliff-waking"], r"unknown experiment 'cliff-waking' \(did you mean 'cliff-walking'\?\)"),
        (["cliff-walking", "--seeds", "1"], "seeds is 1; allowed: at least 2"),
        (["cliff-walking", "--seeds", "0"], "seeds is 0; allowed: 1 to"),
        (["cliff-walking", "--seed", "-1"], "allowed: 0 to"),
        (["cliff-walking", "--sedes", "3"], "did you mean --seeds"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=message):
        run(["experiment", *arguments])
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(BadInput, match="cannot write to"):
        run(["experiment", "cliff-walking", "--seeds", "2", "--directory", str(tmp_path / "taken")])
