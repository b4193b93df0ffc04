"""Whatever is wrong: one line on standard error, the right exit status, nothing written."""

import errno
import sys
from pathlib import Path

import pytest
from small_runs import TINY

from bellmark.cli import main as cli

sys.path.insert(0, str(Path(__file__).parents[1] / "envs"))


@pytest.fixture
def bellmark(monkeypatch, capfd, tmp_path):
    """Runs a command in an empty folder: its exit status and its lines on standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["bellmark", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capfd.readouterr().err.splitlines()

    return run


CARTPOLE = ("train", "ppo", "CartPole-v1")


@pytest.mark.parametrize(
    "words, said",
    [
        (("trian",), "unknown command 'trian' (did you mean 'train'?)"),
        (("train",), "the following arguments are required: algorithm, environment"),
        (("train", "ppo"), "the following arguments are required: environment"),
        (
            ("train", "pp0", "CartPole-v1"),
            "unknown algorithm 'pp0' (did you mean 'ppo'?); allowed: ppo, reinforce",
        ),
        (("train", "ppo", "CartPol-v1"), "unknown environment 'CartPol-v1' (did you mean 'CartPole-v1'?)"),
        (("train", "ppo", "nowhere:World"), "environment 'nowhere:World': there is no module 'nowhere'"),
        ((*CARTPOLE, "--stepz=3"), "unknown flag --stepz (did you mean --steps?)"),
        ((*CARTPOLE, "--steps=0"), "steps is 0; allowed: a whole number, at least 1"),
        ((*CARTPOLE, "--steps=nan"), "argument --steps: 'nan' is not a whole number"),
        ((*CARTPOLE, "--steps=1e300"), "steps is enormous; allowed: a whole number below 2⁵³"),
        ((*CARTPOLE, "--seeds=0"), "seeds is 0; allowed: 1 to 4096"),
        ((*CARTPOLE, "--seeds=2", "--seed-list=1,2"), "--seeds and --seed-list were both given"),
        ((*CARTPOLE, "--episodes=-1"), "episodes is -1; allowed: a whole number"),
        ((*CARTPOLE, "--clip=wide"), "argument --clip: 'wide' is not a number"),
        ((*CARTPOLE, "--clip=0"), "clip is 0.0; allowed: more than 0, finite"),
        ((*CARTPOLE, "--minibatches=7"), "minibatches is 7, which does not divide"),
        ((*CARTPOLE, "--timeout=nan"), "timeout is nan; allowed: more than 0 seconds"),
        (
            (*CARTPOLE, "--observe=tensorbored"),
            "unknown observer 'tensorbored' (did you mean 'tensorboard'?)",
        ),
        ((*CARTPOLE, "--directory=/proc/nowhere"), "the run directory /proc/nowhere cannot be made"),
        (("resume", "nowhere"), "nowhere does not exist"),
        (("evaluate", "nowhere"), "nowhere does not exist"),
        (("watch", "nowhere"), "nowhere does not exist"),
        (("compare", "nowhere"), "nowhere does not exist"),
    ],
)
def test_status_2_and_one_line(bellmark, tmp_path, words, said):
    status, lines = bellmark(*words)
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"bellmark: {said}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["resume", "evaluate", "watch", "compare"])
def test_what_is_not_a_run(bellmark, tmp_path, command):
    (tmp_path / "file").write_text("")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/config.json").write_text("}")
    for name, said in (("file", "is a file"), ("foreign", "has no config.json"), ("damaged", "is not JSON")):
        status, lines = bellmark(command, name)
        assert (status, len(lines)) == (2, 1)
        assert said in lines[0]


@pytest.mark.parametrize(
    "world, status, said",
    [
        (
            "Raising",
            1,
            "environment 0 at step 3 (3 of its episode): step raised RuntimeError: the motor is broken",
        ),
        ("Nan", 1, "environment 0 at step 3 (3 of its episode): observation[1] is nan; it must be finite"),
        (
            "Sleeping",
            1,
            "environment 0 at step 3 (3 of its episode): step() did not return within 0.3 seconds",
        ),
        ("Unmade", 2, "cannot be made: RuntimeError: no motor"),
    ],
)
def test_environments_that_misbehave(bellmark, tmp_path, world, status, said):
    (tmp_path / "worlds.py").write_text(
        "from misbehaving import Broken\n"
        "class Raising(Broken):\n    def __init__(self):\n        super().__init__('raise')\n"
        "class Nan(Broken):\n    def __init__(self):\n        super().__init__('nan observation')\n"
        "class Sleeping(Broken):\n    def __init__(self):\n        super().__init__('sleep')\n"
        "def Unmade():\n    raise RuntimeError('no motor')\n"
    )
    words = ("train", "ppo", f"worlds.py:{world}", "--timeout=0.3", "--directory=run", *TINY)
    found, lines = bellmark(*words)
    assert found == status
    assert said in lines[-1]
    assert not any("Traceback" in line for line in lines)
    assert (tmp_path / "run").exists() == (status == 1)
    if status == 1:
        assert lines[-1].endswith("; the last good checkpoint stands at step 0 in run")


def test_a_folder_that_holds_something(bellmark, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").write_text("mine")
    status, lines = bellmark(*CARTPOLE, "--directory=full")
    assert (status, lines) == (
        2,
        ["bellmark: full is not empty; --directory must name a new or empty folder"],
    )
    assert (tmp_path / "full/notes").read_text() == "mine"


def test_a_run_that_is_in_use_and_one_that_is_damaged(bellmark, tmp_path):
    from bellmark.run.directory import RunDirectory

    assert bellmark(*CARTPOLE, "--directory=run", "--quiet", *TINY)[0] == 0
    with RunDirectory.open("run").lock():
        status, lines = bellmark("resume", "run")
    assert (status, len(lines)) == (1, 1)
    assert "run is in use by process" in lines[0]
    (tmp_path / "run/policy/policy.json").write_text("{")
    status, lines = bellmark("evaluate", "run")
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith("bellmark: run/policy/policy.json is damaged")
    assert bellmark("resume", "run", "--quiet")[0] == 0  # which writes the policy again
    assert bellmark("evaluate", "run", "--episodes=2")[0] == 0


def test_an_error_that_nobody_foresaw_is_one_line_too(bellmark, monkeypatch):
    def fail(words):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(cli, "run", fail)
    status, lines = bellmark("train")
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith(
        "bellmark: ZeroDivisionError: division (this should not happen; BELLMARK_TRACEBACK=1"
    )
    monkeypatch.setenv("BELLMARK_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["bellmark", "train"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_flags_may_come_first(bellmark):
    assert bellmark("train", *TINY, "--quiet", "--directory=run", "ppo", "CartPole-v1")[0] == 0


def test_a_full_disk_is_one_line_that_says_so(bellmark, monkeypatch):
    from bellmark.report import finite_plots

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(finite_plots, "save", full)
    status, said = bellmark("solve", "grid-world", "--discount", "0.9", "--directory", "here")
    assert status == 1
    assert said == [
        "bellmark: No space left on device; nothing more was written, and --directory names another place"
    ]
