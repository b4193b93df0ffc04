"""The run directory: made safely, recognised strictly, locked once, with metrics that survive a kill."""

import datetime
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from bellmark.errors import BadInput, BellmarkError, CorruptFile, DirectoryInUse
from bellmark.run import directory
from bellmark.run.directory import MetricsWriter, RunDirectory, list_runs, read_metrics, write_atomic

CONFIG = {
    "algorithm": {"name": "ppo", "fields": {"clip": 0.2, "hidden": (64, 64)}},
    "environment": {"id": "CartPole-v1", "kind": "compiled", "threshold": 475.0},
    "seeds": [0, 1],
    "steps": 1000,
    "steps_per_iteration": 100,
}


def row(iteration: int, **metrics) -> dict:
    return {"iteration": iteration, "step": 100 * iteration, "seconds": 0.5 * iteration, "metrics": metrics}


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    run = RunDirectory.create("ppo", "CartPole-v1", root=tmp_path / "runs")
    run.write_config(CONFIG)
    return run


class TestCreate:
    def test_name(self):
        now = datetime.datetime(2026, 11, 21, 3, 5, 9)
        assert directory.run_name("ppo", "CartPole-v1", now) == "ppo-CartPole-v1-20261121-030509"
        assert directory.run_name("dqn", "ALE/Pong-v5", now) == "dqn-ALE-Pong-v5-20261121-030509"
        assert directory.run_name("ppo", "../../a:B c", now) == "ppo-a-B-c-20261121-030509"

    def test_runs_of_the_same_second_get_a_suffix(self, tmp_path, monkeypatch):
        monkeypatch.setattr(directory, "run_name", lambda *_: "same")
        names = [RunDirectory.create("ppo", "A", root=tmp_path).path.name for _ in range(3)]
        assert names == ["same", "same-2", "same-3"]

    def test_two_at_once_never_share_a_folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr(directory, "run_name", lambda *_: "same")
        made = []
        threads = [
            threading.Thread(target=lambda: made.append(RunDirectory.create("p", "A", root=tmp_path).path))
            for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(made)) == 16

    def test_parents_are_made_and_an_empty_folder_is_taken(self, tmp_path):
        (tmp_path / "empty").mkdir()
        for path in (tmp_path / "a" / "b", tmp_path / "empty"):
            assert RunDirectory.create("ppo", "A", directory=path).path == path
            assert [entry.name for entry in path.iterdir()] == ["checkpoints"]
            assert list((path / "checkpoints").iterdir()) == []

    def test_a_folder_with_content_is_refused_and_untouched(self, tmp_path, run):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("years")
        with pytest.raises(BadInput, match="mine is not empty; --directory must name a new or empty folder"):
            RunDirectory.create("ppo", "A", directory=tmp_path / "mine")
        assert os.listdir(tmp_path / "mine") == ["thesis.tex"]
        with pytest.raises(BadInput, match="holds a run already: bellmark resume"):
            RunDirectory.create("ppo", "A", directory=run.path)
        with pytest.raises(BadInput, match="is a file"):
            RunDirectory.create("ppo", "A", directory=run.config_path)

    def test_a_place_where_nothing_can_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(BellmarkError, match="cannot be made: a part of the path is a file"):
            RunDirectory.create("ppo", "A", directory=tmp_path / "file" / "run")
        with pytest.raises(BellmarkError, match="cannot be made: a part of the path is a file"):
            RunDirectory.create("ppo", "A", root=tmp_path / "file")
        with pytest.raises(BellmarkError, match="cannot be made"):
            RunDirectory.create("ppo", "A", directory="/proc/nothing/run")

    def test_a_full_disk_is_found_before_training_and_leaves_no_folder(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(BellmarkError, match="the disk is full"):
            RunDirectory.create("ppo", "A", directory=tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestOpen:
    def test_a_run(self, run):
        assert RunDirectory.open(str(run.path)) == run

    def test_what_is_not_there_with_the_near_name(self, run):
        near = str(run.path)[:-1]
        with pytest.raises(BadInput, match=f"does not exist \\(did you mean '{run.path.name}'"):
            RunDirectory.open(near)

    def test_a_foreign_folder(self, tmp_path):
        with pytest.raises(BadInput, match=r"is not a Bellmark run: it has no config\.json"):
            RunDirectory.open(tmp_path)

    def test_a_file(self, run):
        with pytest.raises(BadInput, match="is a file; a run is a folder"):
            RunDirectory.open(run.config_path)

    @pytest.mark.parametrize(
        "content, message",
        [
            ("{", "is not JSON"),
            ("[" * 100_000, "is not JSON"),
            ("\x00", "is not JSON"),
            ("[]", "holds no table"),
            ('{"name": "package.json"}', "is not a Bellmark run's configuration: it has no format"),
            ('{"format": 9}', "has format 9; this Bellmark reads 1"),
        ],
    )
    def test_a_foreign_configuration(self, run, content, message):
        run.config_path.write_text(content)
        with pytest.raises(BadInput, match=message):
            RunDirectory.open(run.path)

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"seeds": []}, "'seeds' must be a list of whole numbers"),
            ({"seeds": [0, "1"]}, "'seeds' must be a list of whole numbers"),
            ({"steps": "many"}, "'steps' must be a whole number, got 'many'"),
            ({"steps": True}, "'steps' must be a whole number, got True"),
            ({"steps": 0}, "must be at least 1"),
            ({"algorithm": "ppo"}, "'algorithm' must be a table, got 'ppo'"),
            ({"algorithm": {"name": "ppo"}}, "algorithm must have a 'fields' that is a table"),
            ({"environment": {"id": 3, "kind": "compiled"}}, "environment must have a 'id' that is text"),
        ],
    )
    def test_a_field_of_the_wrong_kind(self, run, change, message):
        config = json.loads(run.config_path.read_text()) | change
        run.config_path.write_text(json.dumps(config))
        with pytest.raises(BadInput, match=message):
            run.read_config()

    @pytest.mark.parametrize("name", ["algorithm", "environment", "seeds", "steps", "steps_per_iteration"])
    def test_a_missing_field_is_named(self, run, name):
        config = json.loads(run.config_path.read_text())
        del config[name]
        run.config_path.write_text(json.dumps(config))
        with pytest.raises(BadInput, match=f"lacks '{name}'"):
            RunDirectory.open(run.path)


class TestConfig:
    def test_it_returns(self, run):
        config = run.read_config()
        assert config["algorithm"] == {"name": "ppo", "fields": {"clip": 0.2, "hidden": [64, 64]}}
        assert config["format"] == 1
        assert config["versions"]["python"].startswith("3.")
        assert config["versions"]["jax"]
        assert config["machine"]["cores"] >= 1
        datetime.datetime.fromisoformat(config["created"])

    def test_numpy_and_infinities(self, run):
        space = {"low": np.array([-np.inf, 0.5], np.float32), "size": np.int64(3)}
        run.write_config(CONFIG | {"observation_space": space})
        assert run.read_config()["observation_space"] == {"low": ["-inf", 0.5], "size": 3}
        assert "Infinity" not in run.config_path.read_text()

    @pytest.mark.parametrize("value", [len, {1, 2}, b"bytes", object()])
    def test_what_json_cannot_hold_is_named_and_nothing_changes(self, run, value):
        before = run.config_path.read_bytes()
        with pytest.raises(BadInput, match=r"environment\.keywords\[0\] is"):
            run.write_config(CONFIG | {"environment": {**CONFIG["environment"], "keywords": [value]}})
        assert run.config_path.read_bytes() == before

    def test_a_failed_write_keeps_the_old_content(self, run, monkeypatch):
        before = run.config_path.read_bytes()

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(BellmarkError, match=r"config\.json was not written: the disk is full"):
            run.write_config(CONFIG)
        assert run.config_path.read_bytes() == before
        assert {path.name for path in run.path.iterdir()} == {"config.json", "checkpoints"}

    def test_a_link_is_replaced_not_followed(self, tmp_path):
        (tmp_path / "outside").write_text("mine")
        (tmp_path / "link").symlink_to(tmp_path / "outside")
        write_atomic(tmp_path / "link", b"new")
        assert (tmp_path / "outside").read_text() == "mine"
        assert (tmp_path / "link").read_bytes() == b"new"

    def test_listing(self, tmp_path, run):
        (tmp_path / "runs" / "foreign").mkdir()
        (tmp_path / "runs" / "broken").mkdir()
        (tmp_path / "runs" / "broken" / "config.json").write_text("{")
        assert list_runs(tmp_path / "runs") == [run]
        assert list_runs(tmp_path / "nowhere") == []


HOLDER = """
import sys, time
from pathlib import Path
from bellmark.run.directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


class TestLock:
    def test_a_second_process_is_refused_by_name_and_a_killed_one_leaves_nothing(self, run):
        holder = subprocess.Popen([sys.executable, "-c", HOLDER, run.path], stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "locked\n"
            with pytest.raises(DirectoryInUse, match=f"is in use by process {holder.pid}"), run.lock():
                pass
            assert run.in_use_by() == holder.pid
        finally:
            os.kill(holder.pid, signal.SIGKILL)
            holder.communicate()
        assert run.in_use_by() is None
        with run.lock():
            assert run.in_use_by() == os.getpid()
        assert run.in_use_by() is None

    def test_it_is_released_when_the_block_fails(self, run):
        with pytest.raises(ZeroDivisionError), run.lock():
            1 / 0
        with run.lock():
            pass

    def test_without_locks_there_is_a_warning(self, run, monkeypatch):
        def unsupported(*_):
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr(fcntl, "flock", unsupported)
        with pytest.warns(RuntimeWarning, match="has no locks: make sure that only one process"), run.lock():
            pass

    def test_a_link_is_not_followed(self, run, tmp_path):
        (run.path / "lock").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(BellmarkError, match="lock cannot be made"), run.lock():
            pass
        assert not (tmp_path / "elsewhere").exists()


class TestMetrics:
    def test_columns(self, run):
        with MetricsWriter(run.metrics_path) as writer:
            writer.append([row(1, loss=np.float32([0.1, np.nan]), count=np.array([0, 3]))])
            writer.append([row(2, loss=[None, np.inf]), row(3, late=[np.float64(1 / 3), True])])
        columns = run.metrics()
        np.testing.assert_array_equal(columns["iteration"], [1, 2, 3])
        np.testing.assert_array_equal(columns["step"], [100, 200, 300])
        np.testing.assert_array_equal(columns["seconds"], [0.5, 1.0, 1.5])
        assert columns["loss"].dtype == np.float64
        nan = np.nan
        np.testing.assert_array_equal(
            columns["loss"].astype(np.float32), np.float32([[0.1, nan]] + [[nan] * 2] * 2)
        )
        np.testing.assert_array_equal(columns["count"], [[0, 3], [nan, nan], [nan, nan]])
        np.testing.assert_array_equal(columns["late"], [[nan, nan], [nan, nan], [1 / 3, 1]])
        assert "NaN" not in run.metrics_path.read_text()

    def test_every_float32_returns_exactly(self, run):
        values = np.random.default_rng(0).integers(0, 2**32, 4000, np.uint32).view(np.float32)
        values = values[np.isfinite(values)]
        with MetricsWriter(run.metrics_path) as writer:
            writer.append([row(1, a=values)])
        np.testing.assert_array_equal(run.metrics()["a"][0].astype(np.float32), values)

    def test_an_empty_file(self, run):
        MetricsWriter(run.metrics_path).close()
        columns = run.metrics()
        assert set(columns) == {"iteration", "step", "seconds"}
        assert all(len(column) == 0 for column in columns.values())

    def test_a_torn_last_line_is_left_out_and_cut_on_resume(self, run):
        with MetricsWriter(run.metrics_path) as writer:
            writer.append([row(1, a=[1.0]), row(2, a=[2.0])])
            good = writer.sync()
            writer.append([row(3, a=[3.0])])
        assert good == writer.bytes_written - len(
            '{"iteration":3,"step":300,"seconds":1.5,"metrics":{"a":[3.0]}}\n'
        )
        with open(run.metrics_path, "ab") as file:
            file.write(b'{"iteration":4,"st')
        assert len(run.metrics()["step"]) == 3
        with MetricsWriter(run.metrics_path) as writer:
            writer.truncate_to(good)
            assert writer.bytes_written == run.metrics_path.stat().st_size == good
            writer.append([row(3, a=[-3.0])])
        np.testing.assert_array_equal(run.metrics()["a"], [[1], [2], [-3]])

    def test_a_length_that_does_not_belong_to_the_file(self, run):
        with MetricsWriter(run.metrics_path) as writer:
            writer.append([row(1, a=[1.0])])
            with pytest.raises(CorruptFile, match="its checkpoint says 1,000"):
                writer.truncate_to(1000)
            with pytest.raises(CorruptFile, match="no row that ends at byte 5"):
                writer.truncate_to(5)
            writer.truncate_to(0)
        assert run.metrics_path.stat().st_size == 0

    @pytest.mark.parametrize(
        "line",
        [
            "{",
            "[]",
            '{"iteration": 1}',
            '{"iteration":1,"step":2,"seconds":1,"metrics":{"a":["x"]}}',
            "[" * 50_000,
        ],
    )
    def test_damage_is_named_by_its_line(self, run, line):
        with MetricsWriter(run.metrics_path) as writer:
            writer.append([row(1, a=[1.0])])
        with open(run.metrics_path, "a") as file:
            file.write(line + "\n")
        with pytest.raises(CorruptFile, match=r"metrics\.jsonl, line 2: not a row of metrics"):
            run.metrics()

    def test_a_full_disk_leaves_whole_rows(self, run, monkeypatch):
        writer = MetricsWriter(run.metrics_path)
        writer.append([row(1, a=[1.0])])
        write = os.write

        def torn(descriptor, data):
            if len(data) < 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, data[:20])

        monkeypatch.setattr(os, "write", torn)
        with pytest.raises(BellmarkError, match=r"metrics\.jsonl was not written: the disk is full"):
            writer.append([row(2, a=[2.0])])
        monkeypatch.undo()
        assert run.metrics_path.stat().st_size == writer.bytes_written
        writer.append([row(3, a=[3.0])])
        writer.close()
        np.testing.assert_array_equal(run.metrics()["iteration"], [1, 3])

    def test_the_last_numbers_come_from_the_tail(self, run):
        with MetricsWriter(run.metrics_path) as writer:
            writer.append([row(i, **{"episode/return": [float(i), None]}) for i in range(1, 5001)])
            writer.append([row(5001, **{"episode/return": [None, None]})])
        assert run.metrics_path.stat().st_size > 1 << 18
        assert directory.last_numbers(run.metrics_path) == (500_100, 5000.0)
        assert directory.last_numbers(run.path / "none") == (0, None)

    def test_a_killed_writer_loses_no_row_that_it_appended(self, run):
        source = (
            "import sys\nfrom bellmark.run.directory import MetricsWriter\n"
            "writer = MetricsWriter(sys.argv[1])\n"
            "for i in range(1, 10**9):\n"
            "    writer.append([dict(iteration=i, step=i, seconds=0.0, metrics={'a': [i] * 50})])\n"
            "    print(i, flush=True)\n"
        )
        writer = subprocess.Popen(
            [sys.executable, "-c", source, run.metrics_path], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.1)
        os.kill(writer.pid, signal.SIGKILL)
        said = [
            int(line) for line in writer.communicate()[0].splitlines(keepends=True) if line.endswith("\n")
        ]
        iterations = run.metrics()["iteration"]
        np.testing.assert_array_equal(iterations, np.arange(1, len(iterations) + 1))
        assert len(iterations) >= said[-1]


def test_listing_runs_does_not_import_jax(run):
    source = "import sys, bellmark.run.directory; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", source], check=True)


def test_the_machine_names_jaxs_backend_only_once_it_is_loaded(monkeypatch):
    assert "backend" in directory.machine() if "jax" in sys.modules else True
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    assert "backend" not in directory.machine()
    assert isinstance(directory.machine()["platform"], str)
    assert Path("/proc").exists() == bool(directory.machine()["memory_bytes"])


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(BellmarkError, match="cannot be read"):
        read_metrics(tmp_path / "none")
