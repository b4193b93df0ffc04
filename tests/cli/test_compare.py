"""`bellmark compare`: numbers in the table are those of the runs, and bad input is one line before anything
is written.
"""

import json
import re

import numpy as np
import pytest
from PIL import Image

from bellmark.cli.compare import main
from bellmark.errors import BadInput
from bellmark.report.plots import number
from bellmark.report.statistics import interquartile_mean, interval
from bellmark.run.directory import MetricsWriter, RunDirectory


def make_run(
    path,
    name="ppo",
    environment="CartPole-v1",
    rows=20,
    seeds=4,
    late=300.0,
    fields=None,
    metrics=True,
    gap=None,
):
    """A run of which seed s earns `late` + s in its second half, 10 before; 1000 steps and 0.1 s per row. Its last
    seed's greedy policy never ends in the first row, where a `gap` is given.
    """
    run = RunDirectory.create(name, environment, path)
    run.write_config(
        {
            "algorithm": {"name": name, "fields": fields or {}},
            "environment": {"id": environment, "kind": "compiled", "threshold": 200.0},
            "seeds": list(range(seeds)),
            "steps": 1000 * rows,
            "steps_per_iteration": 1000,
        }
    )
    if metrics:
        with MetricsWriter(run.metrics_path) as writer:
            writer.append(
                {
                    "iteration": row + 1,
                    "step": 1000 * (row + 1),
                    "seconds": 0.1 * (row + 1),
                    "metrics": {
                        "episode/return": late + np.arange(seeds)
                        if row >= rows // 2
                        else np.full(seeds, 10.0),
                        "episode/count": np.ones(seeds),
                        "loss/value": np.full(seeds, 1.0),
                        **({} if gap is None else {"gap/greedy": gap_of(gap, seeds, row)}),
                    },
                }
                for row in range(rows)
            )
    return run


def gap_of(gap, seeds, row):
    values = np.full(seeds, gap)
    values[-1] = np.inf if row == 0 else gap
    return values


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_two_runs_are_drawn_and_their_table_is_right(tmp_path, capsys):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", "reinforce", late=150.0)
    assert main(["a", "b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    low, high = interval(300.0 + np.arange(4), interquartile_mean)
    header = ["run", "seeds", "return", "95 % interval", "seconds", "steps/s", "steps to 200"]
    assert re.split(r"  +", lines[0].strip()) == header
    # The smoothing window is one row, and the first half of the rows is at 10; 4 seeds × 20,000 steps in 2 s.
    assert re.split(r"  +", lines[1].strip()) == [
        "PPO",
        "4",
        number(float(interquartile_mean(300.0 + np.arange(4)))),
        f"{number(low)} to {number(high)}",
        "2.0",
        "40,000",
        "11k (1.1 s)",
    ]
    assert "not reached" in next(line for line in lines if line.startswith("REINFORCE"))
    assert any("beats one of REINFORCE: 1.00, 95 % interval 1.00 to 1.00" in line for line in lines)
    assert lines[-1] == "wrote compare.png"
    with Image.open(tmp_path / "compare.png") as image:
        assert image.size == (1500, 675)


def test_evaluations_of_all_runs_are_preferred_to_training(tmp_path, capsys):
    for name, score in (("a", 400.0), ("b", 450.0)):
        run = make_run(tmp_path / name, fields={"clip": score})
        run.report.mkdir()
        (run.report / "evaluation.json").write_text(json.dumps({"returns": [[score, score + 1]] * 4}))
    main(["a", "b", "--axis", "steps", "--output", "c.svg"])
    out = capsys.readouterr().out
    assert "400.5" in out
    assert "final policies' evaluation" in out
    assert "PPO, clip 400.0" in out  # what differs tells the runs apart
    (tmp_path / "b" / "report" / "evaluation.json").write_text("{torn")
    main(["a", "b"])
    out = capsys.readouterr().out
    assert "400.5" not in out
    assert "last tenth of training" in out


def test_labels_are_as_short_as_they_can_be_and_tell_the_runs_apart(tmp_path, capsys):
    def labels(*names):
        main(list(names))
        rows = capsys.readouterr().out.splitlines()[1 : 1 + len(names)]
        return [re.split(r"  +", row)[0] for row in rows]

    make_run(tmp_path / "a", fields={"clip": 0.1, "hidden": [64, 64]})
    make_run(tmp_path / "b", fields={"clip": 0.2, "hidden": [64, 64]})
    make_run(tmp_path / "c", "reinforce", fields={"discount": 0.9})
    make_run(tmp_path / "d", fields={"clip": 0.2, "hidden": [64, 64]})
    make_run(tmp_path / "e", environment="Acrobot-v1", fields={"clip": 0.2, "hidden": [64, 64]})
    assert labels("a", "c") == ["PPO", "REINFORCE"]
    assert labels("a", "b", "c") == ["PPO, clip 0.1", "PPO, clip 0.2", "REINFORCE"]
    assert labels("b", "d") == ["b", "d"]
    assert labels("b", "e") == ["PPO, CartPole-v1", "PPO, Acrobot-v1"]


def test_different_environments_are_called_not_comparable(tmp_path, capsys):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", environment="Acrobot-v1")
    make_run(tmp_path / "c", environment="gymnasium:CartPole-v1")
    main(["a", "b"])
    out = capsys.readouterr().out
    assert "Not comparable: the environments differ (CartPole-v1, Acrobot-v1)." in out
    assert "beats" not in out
    main(["a", "c"])
    assert "Not comparable" not in capsys.readouterr().out


def test_one_run_with_one_seed_and_patterns_and_labels(tmp_path, capsys):
    make_run(tmp_path / "runs" / "one", seeds=1)
    make_run(tmp_path / "runs" / "two", rows=30)
    (tmp_path / "runs" / "notes").mkdir()
    main(["runs/one"])
    assert "(one seed)" in capsys.readouterr().out
    main(["runs/*", "runs/one", "--labels", "first, second"])
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["first", "second"]
    assert "different numbers of steps" in out
    assert "different numbers of seeds" in out
    main(["runs/*", "--metric", "loss/value"])
    assert "loss/value" in capsys.readouterr().out


def test_bad_input_is_one_line_and_draws_nothing(tmp_path):
    make_run(tmp_path / "good")
    make_run(tmp_path / "empty", metrics=False)
    make_run(tmp_path / "rowless", rows=0 + 1, late=np.nan)
    rows = (tmp_path / "rowless" / "metrics.jsonl").read_text()
    assert "null" in rows
    (tmp_path / "foreign").mkdir()
    (tmp_path / "file").write_text("x")
    for arguments, message in [
        (["god"], r"god does not exist \(did you mean 'good'\?\)"),
        (["good", "foreign"], "foreign is not a Bellmark run: it has no config.json"),
        (["file"], "file is a file; a run is a folder"),
        (["good", "empty"], "empty has no metrics yet"),
        (["rowless"], "rowless has not finished an episode in its 1,000 steps"),
        (["nothing-*"], r"no run matches 'nothing-\*'"),
        (["good", "--axis", "hours"], "invalid choice: 'hours'"),
        (["good", "--metric", "loss/valu"], r"unknown metric 'loss/valu' \(did you mean 'loss/value'\?\)"),
        (["good", "--labels", "a,b"], "--labels 'a,b' names 2; allowed: 1 names"),
        (["good", "--output", "c.jpeg"], "'c.jpeg'; allowed endings: .png, .svg, .pdf"),
        (["good", "--output", "nowhere/c.png"], "nowhere is not a folder"),
        (["good", "--lables", "a"], r"unknown flag --lables \(did you mean --labels\?\)"),
        ([], "the following arguments are required: RUN"),
    ]:
        with pytest.raises(BadInput, match=message) as caught:
            main(arguments)
        assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.suffix]


def test_learners_that_know_the_optimum_are_compared_by_their_gap(tmp_path, capsys):
    make_run(tmp_path / "near", "q_learning", "grid-world", gap=0.01, late=1.0)
    make_run(tmp_path / "far", "sarsa", "grid-world", gap=0.5, late=2.0)
    make_run(tmp_path / "other", "sarsa", "grid-world", gap=0.5, fields={"discount": 0.5})
    make_run(tmp_path / "without", "sarsa", "grid-world")
    main(["near", "far"])
    lines = capsys.readouterr().out.splitlines()
    assert "gap of the greedy policy" in lines[0]
    assert re.split(r"  +", lines[1].strip())[2] == number(0.01)
    assert re.split(r"  +", lines[2].strip())[2] == number(0.5)
    assert any("beats one of SARSA: 1.00" in line for line in lines), "the smaller gap is the better one"
    for chosen in (["near", "without"], ["near", "other"], ["near", "far", "--metric", "episode/return"]):
        main(chosen)
        assert "gap" not in capsys.readouterr().out.splitlines()[0]
