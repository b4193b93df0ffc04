"""Observers watch; whatever they do, the run goes on."""

import re
import sys
import threading
import time
import types

import pytest

from bellmark.errors import BadInput
from bellmark.run.observers import Guard, TensorBoardObserver, WandbObserver, make_observers

ROWS = [
    {
        "iteration": 1,
        "step": 10,
        "seconds": 0.1,
        "metrics": {"loss/value": [1.0, 3.0], "episode/return": [None, 5.0]},
    },
    {
        "iteration": 2,
        "step": 20,
        "seconds": 0.2,
        "metrics": {"loss/value": [2.0, 2.0], "episode/return": [None, None]},
    },
]


class Recording:
    def __init__(self):
        self.seen = []

    def started(self, info):
        self.seen.append(("started", info["seeds"]))

    def rows(self, rows):
        self.seen.append(("rows", len(rows)))

    def saved(self, step, path):
        self.seen.append(("saved", step))

    def finished(self, outcome):
        self.seen.append(("finished", outcome["state"]))


class Failing(Recording):
    def rows(self, rows):
        raise OSError("no space left\nand more")


class Exiting(Recording):
    def started(self, info):
        sys.exit(1)


class Hanging(Recording):
    def __init__(self):
        self.seen = []
        self.release = threading.Event()

    def rows(self, rows):
        self.release.wait(60)


def tell_everything(guard: Guard) -> None:
    guard.started({"seeds": [0, 1], "directory": "/nowhere"})
    guard.rows(ROWS)
    guard.saved(20, "/nowhere/checkpoints/20")
    guard.rows(ROWS[:1])
    guard.finished({"state": "finished"})


EVERYTHING = [("started", [0, 1]), ("rows", 2), ("saved", 20), ("rows", 1), ("finished", "finished")]


def test_everything_arrives_in_order():
    observers = [Recording(), Recording()]
    warnings = []
    tell_everything(Guard(observers, warnings.append))
    assert [observer.seen for observer in observers] == [EVERYTHING] * 2
    assert warnings == []


@pytest.mark.parametrize(
    "bad, message",
    [
        (Failing, "Failing is switched off, the run goes on: OSError: no space left"),
        (Exiting, "Exiting.*SystemExit: 1"),
    ],
)
def test_one_that_fails_is_named_once_and_the_others_go_on(bad, message):
    good, warnings = Recording(), []
    tell_everything(Guard([bad(), good], warnings.append))
    assert good.seen == EVERYTHING
    assert len(warnings) == 1
    assert "\n" not in warnings[0]
    assert re.search(message, warnings[0])


def test_a_warning_that_fails_does_not_stop_the_run_either():
    def broken(text):
        raise BrokenPipeError

    tell_everything(Guard([Failing()], broken))


def test_one_that_hangs_costs_the_run_its_patience_only():
    hanging, good, warnings = Hanging(), Recording(), []
    start = time.monotonic()
    tell_everything(Guard([hanging, good], warnings.append, patience=0.2))
    assert time.monotonic() - start < 2
    assert good.seen == EVERYTHING
    assert warnings == ["Hanging is switched off, the run goes on: it did not end within 0.2 s"]
    hanging.release.set()


def test_one_that_falls_behind_is_let_go(monkeypatch):
    monkeypatch.setattr("bellmark.run.observers._LONGEST_QUEUE", 3)
    hanging, warnings = Hanging(), []
    guard = Guard([hanging], warnings.append, patience=0.1)
    for _ in range(10):
        guard.rows(ROWS)
    assert warnings == ["Hanging is switched off, the run goes on: it is 3 events behind"]
    hanging.release.set()


class TestNames:
    def test_none(self):
        assert make_observers("") == []

    def test_an_unknown_one(self):
        with pytest.raises(BadInput, match=r"unknown observer 'tensorbord' \(did you mean 'tensorboard'\?\)"):
            make_observers("wandb,tensorbord")

    @pytest.mark.parametrize("name, package", [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
    def test_a_missing_package_comes_with_its_pip_line(self, monkeypatch, name, package):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(BadInput, match=f"--observe {name} needs .* pip install {package}"):
            make_observers(name)


class Writer:
    def __init__(self, folder):
        self.folder, self.scalars, self.closed = folder, [], False

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def flush(self):
        pass

    def close(self):
        self.closed = True


def test_tensorboard_gets_means_and_seeds(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    observer = TensorBoardObserver()
    observer.started({"directory": tmp_path, "seeds": [7, 8]})
    writer = observer._writer
    observer.rows(ROWS)
    observer.saved(20, tmp_path)
    observer.finished({})
    assert writer.folder == str(tmp_path / "tensorboard")
    assert writer.scalars == [
        ("loss/value", 2.0, 10),
        ("loss/value/seed 7", 1.0, 10),
        ("loss/value/seed 8", 3.0, 10),
        ("episode/return", 5.0, 10),
        ("episode/return/seed 8", 5.0, 10),
        ("loss/value", 2.0, 20),
        ("loss/value/seed 7", 2.0, 20),
        ("loss/value/seed 8", 2.0, 20),
    ]
    assert writer.closed


def test_wandb_is_offline_without_a_key(monkeypatch, tmp_path):
    calls = []
    wandb_run = types.SimpleNamespace(
        log=lambda values, step: calls.append((step, values)),
        summary={},
        finish=lambda exit_code: calls.append(exit_code),
    )
    module = types.SimpleNamespace(init=lambda **keywords: calls.append(keywords) or wandb_run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    observer = WandbObserver()
    observer.started({"directory": tmp_path, "seeds": [7], "steps": 5})
    observer.rows(ROWS[:1])
    observer.finished({"state": "interrupted", "mean": 3.0, "returns": [1, 2]})
    assert calls[0]["mode"] == "offline"
    assert calls[0]["dir"] == str(tmp_path)
    assert calls[0]["config"] == {"seeds": [7], "steps": 5}
    assert calls[1][0] == 10
    assert calls[1][1]["loss/value"] == 2.0
    assert calls[2] == 1
    assert wandb_run.summary == {"state": "interrupted", "mean": 3.0}
