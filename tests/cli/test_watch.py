"""`bellmark watch`: what is played reaches the file, and what cannot be played is refused before JAX is
loaded.
"""

import sys
import types

import numpy as np
import pytest
from PIL import Image

from bellmark.cli.watch import main
from bellmark.errors import BadInput
from bellmark.run.directory import RunDirectory


@pytest.fixture
def played(monkeypatch):
    """What was asked of the player, which here shows a brightening square for three frames per episode."""
    asked = []

    def play_frames(run, episodes, seed, seed_index=0, environment=None, overlay=True, steps=None):
        asked.append((run, episodes, seed, seed_index, environment, overlay, steps))
        for number in range(3 * episodes):
            yield np.full((20, 30, 3), 10 * number, np.uint8)

    player = types.ModuleType("bellmark.report.evaluate")
    player.play_frames = play_frames
    monkeypatch.setitem(sys.modules, "bellmark.report.evaluate", player)
    return asked


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory.create("ppo", "CartPole-v1", tmp_path / "run")
    directory.write_config(
        {
            "algorithm": {"name": "ppo", "fields": {}},
            "environment": {"id": "CartPole-v1", "kind": "compiled", "threshold": 475.0},
            "seeds": [0, 1],
            "steps": 1000,
            "steps_per_iteration": 100,
        }
    )
    return str(directory.path)


def test_a_film_of_what_was_asked_for(tmp_path, run, played, capsys):
    film = tmp_path / "film.gif"
    arguments = [
        "--episodes",
        "2",
        "--seed",
        "7",
        "--agent",
        "1",
        "--environment",
        "gymnasium:CartPole-v1",
        "--fps",
        "10",
        "--steps",
        "40",
    ]
    assert main([run, "--output", str(film), *arguments]) == 0
    assert played == [(run, 2, 7, 1, "gymnasium:CartPole-v1", True, 40)]
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "playing 2 episodes of PPO on gymnasium:CartPole-v1"
    assert out[-1].startswith(f"wrote {film} (6 frames, 0.6 s, ")
    with Image.open(film) as image:
        assert image.n_frames == 6
        image.seek(3)
        assert image.convert("RGB").getpixel((0, 0)) == (30, 30, 30)


def test_without_an_output_the_film_is_in_the_runs_report(run, played, capsys):
    main([run])
    assert played == [(run, 1, 0, 0, None, True, None)]
    assert [path.stem for path in RunDirectory.open(run).report.iterdir()] == ["watch"]
    assert f"wrote {run}/report/watch." in capsys.readouterr().out


def test_bad_input_is_one_line_before_anything_is_played(tmp_path, run, played):
    (tmp_path / "foreign").mkdir()
    for arguments, message in [
        ([str(tmp_path / "runn")], r"does not exist \(did you mean 'run'\?\)"),
        ([str(tmp_path / "foreign")], "is not a Bellmark run"),
        ([run, "--episodes", "0"], "--episodes is 0; allowed: 1 or more"),
        ([run, "--seed", "-1"], "--seed is -1; allowed: 0 or more"),
        ([run, "--agent", "2"], "--agent is 2; allowed: 0 to 1, the run has 2 seeds"),
        ([run, "--fps", "0"], "--fps is 0; allowed: above 0"),
        ([run, "--output", "film.webm"], "'film.webm'; allowed endings: .gif, .mp4"),
        ([run, "--output", str(tmp_path / "nowhere" / "film.gif")], "nowhere is not a folder"),
        ([run, "--episode", "2"], r"unknown flag --episode \(did you mean --episodes\?\)"),
    ]:
        with pytest.raises(BadInput, match=message) as caught:
            main(arguments)
        assert "\n" not in str(caught.value)
    assert played == []
    assert not (tmp_path / "run" / "report").exists()
