"""Checkpoints are exact, and nothing that happens to a disk or a process turns one into a wrong resume."""

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from bellmark.errors import BadInput, BellmarkError, CorruptFile
from bellmark.run import checkpoint


class Learner(eqx.Module):
    weight: jax.Array
    momentum: tuple[jax.Array, ...]
    key: jax.Array


def small_state(fill: float = 0.0) -> Learner:
    return Learner(
        jnp.full((2, 3), float(fill)),
        (jnp.arange(4, dtype=jnp.int32), jnp.zeros(())),
        jax.random.key(int(fill)),
    )


def save(directory, state, step=1024, **keywords) -> Path:
    numbers = {"iteration": 1, "seconds": 0.5, "metrics_bytes": 0} | keywords
    return checkpoint.save(directory, state, step=step, **numbers)


def flip_a_bit(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def bits(leaf) -> bytes:
    keys = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if keys else leaf).tobytes()


class TestExactness:
    def test_every_dtype_and_shape_returns_bit_for_bit(self, tmp_path):
        state = {
            "float32": jnp.array([0.1, -0.0, jnp.nan, jnp.inf, 1e-45]),
            "bfloat16": jnp.array([0.1, 3e38], jnp.bfloat16),
            "float16": jnp.array([0.1], jnp.float16),
            "bool": jnp.array([[True], [False]]),
            "uint8": jnp.arange(256, dtype=jnp.uint8).reshape(4, 2, 32),
            "int8": jnp.array([-128, 127], jnp.int8),
            "uint32": jnp.array([2**32 - 1], jnp.uint32),
            "complex64": jnp.array([1 + 2j], jnp.complex64),
            "float8": jnp.array([1.5], jnp.float8_e4m3fn),
            "no rows": jnp.zeros((0, 3), jnp.int32),
            "scalar": jnp.float32(2.5),
            "weak": jnp.asarray(0.1),
            "weak row": jnp.full(3, jnp.nan),
            "weak count": jnp.full((1, 2), 7),
            "key": jax.random.key(7),
            "keys": jax.random.split(jax.random.key(7), (2, 5)),
            "rbg": jax.random.key(3, impl="rbg"),
            "host int64": np.array([2**62, -1]),
            "host float64": np.float64(0.1),
            "host bfloat16": np.array([1.5], ml_dtypes.bfloat16),
            "host columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "none": None,
            "list": [jnp.ones(1), (jnp.zeros(2),)],
        }
        save(tmp_path, state)
        loaded = checkpoint.latest(tmp_path, state).state
        assert jax.tree.structure(loaded) == jax.tree.structure(state)
        for (path, before), (_, after) in zip(
            jax.tree_util.tree_flatten_with_path(state)[0],
            jax.tree_util.tree_flatten_with_path(loaded)[0],
            strict=True,
        ):
            name = jax.tree_util.keystr(path)
            assert after.dtype == before.dtype, name
            assert after.shape == before.shape, name
            assert bits(after) == bits(before), name
            assert isinstance(before, jax.Array) == isinstance(after, jax.Array), name
            assert getattr(before, "weak_type", False) == getattr(after, "weak_type", False), name
        assert jax.random.bits(loaded["rbg"]) == jax.random.bits(state["rbg"])

    def test_numbers_return(self, tmp_path):
        path = save(tmp_path, small_state(), step=2048, iteration=2, seconds=1.25, metrics_bytes=99)
        found = checkpoint.latest(tmp_path, small_state())
        assert (found.iteration, found.step, found.seconds, found.metrics_bytes) == (2, 2048, 1.25, 99)
        assert found.path == path == tmp_path / "checkpoints" / "000000002048"
        assert found.warnings == ()

    def test_shapes_alone_are_template_enough(self, tmp_path):
        state = small_state(3.0)
        save(tmp_path, state)
        template = jax.eval_shape(lambda: small_state(0.0))
        loaded = checkpoint.latest(tmp_path, template).state
        assert [bits(leaf) for leaf in jax.tree.leaves(loaded)] == [bits(x) for x in jax.tree.leaves(state)]

    def test_the_safetensors_package_reads_it(self, tmp_path):
        state = {"wide": jnp.arange(3.0), "flag": np.array([True]), "double": np.array([0.1])}
        path = save(tmp_path, state)
        read = safetensors.numpy.load_file(path / "state.safetensors")
        assert set(read) == {"['wide']", "['flag']", "['double']"}
        np.testing.assert_array_equal(read["['wide']"], [0, 1, 2])
        np.testing.assert_array_equal(read["['double']"], [0.1])

    def test_a_file_of_the_safetensors_package_is_read(self, tmp_path):
        safetensors.numpy.save_file({"['a']": np.arange(3.0), "['b']": np.array([True])}, tmp_path / "tree")
        tree = checkpoint.load_tree(tmp_path / "tree", {"a": np.zeros(3), "b": np.zeros(1, bool)})
        np.testing.assert_array_equal(tree["a"], [0, 1, 2])

    def test_a_loaded_state_does_not_compile_again(self, tmp_path):
        step = jax.jit(
            lambda state: jax.tree.map(lambda x: x if x.dtype == state.key.dtype else x + 1, state)
        )
        state = step(small_state())
        save(tmp_path, state)
        step(state)
        before = step._cache_size()
        step(checkpoint.latest(tmp_path, state).state)
        assert step._cache_size() == before

    def test_a_lone_array_is_a_tree(self, tmp_path):
        digest = checkpoint.save_tree(tmp_path / "lone", jnp.arange(3))
        np.testing.assert_array_equal(
            checkpoint.load_tree(tmp_path / "lone", jnp.zeros(3, int), digest), [0, 1, 2]
        )


class TestWhatCannotBeSaved:
    @pytest.mark.parametrize(
        "leaf, kind", [(1.5, "float"), ("text", "str"), (len, "builtin_function_or_method")]
    )
    def test_a_leaf_that_is_no_array_is_named(self, tmp_path, leaf, kind):
        with pytest.raises(BadInput, match=rf"\['inner'\]\[0\] is {kind}"):
            save(tmp_path, {"inner": [leaf]})
        assert not (tmp_path / "checkpoints").exists()

    def test_a_dtype_without_a_place_is_named(self, tmp_path):
        with pytest.raises(BadInput, match=r"\['a'\] has dtype complex128.*float32"):
            save(tmp_path, {"a": np.zeros(2, complex)})

    @pytest.mark.parametrize(
        "numbers", [{"seconds": float("nan")}, {"iteration": -1}, {"metrics_bytes": 1.0}]
    )
    def test_numbers_that_no_reader_would_accept(self, tmp_path, numbers):
        with pytest.raises(BadInput, match=next(iter(numbers))):
            save(tmp_path, small_state(), **numbers)


class TestTemplate:
    @pytest.mark.parametrize(
        "change, message",
        [
            (
                {"a": jnp.zeros((3, 2))},
                r"\['a'\] is float32 \[2, 3\] in the file, float32 \[3, 2\] is expected",
            ),
            ({"a": jnp.zeros((2, 3), int)}, r"\['a'\] is float32 \[2, 3\].*, int32 \[2, 3\] is expected"),
            ({"c": jnp.zeros(1)}, r"it lacks \['c'\]"),
            ({"b": None}, r"it also holds \['b'\]"),
            ({"k": jax.random.key(0, impl="rbg")}, r"PRNG key \(threefry2x32\) \[2\].*\(rbg\) \[4\]"),
            ({"k": jnp.zeros(2, jnp.uint32)}, r"PRNG key \(threefry2x32\) \[2\] in the file, uint32 \[2\]"),
        ],
    )
    def test_another_state_is_refused_with_the_leaf_and_both_shapes(self, tmp_path, change, message):
        state = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(1), "k": jax.random.key(0)}
        save(tmp_path, state, step=1)
        save(tmp_path, state, step=2)
        with pytest.raises(checkpoint.Misfit, match=message):
            checkpoint.latest(tmp_path, state | change)


class TestKeeping:
    def test_the_newest_are_kept(self, tmp_path):
        for step in range(1, 6):
            save(tmp_path, small_state(step), step=step, keep=2)
        assert checkpoint.steps(tmp_path) == [4, 5]

    def test_an_abandoned_future_goes(self, tmp_path):
        for step in (10, 20, 30):
            save(tmp_path, small_state(step), step=step)
        save(tmp_path, small_state(15), step=15)
        assert checkpoint.steps(tmp_path) == [10, 15]

    def test_the_same_step_twice(self, tmp_path):
        save(tmp_path, small_state(1), step=5)
        save(tmp_path, small_state(2), step=5)
        assert float(checkpoint.latest(tmp_path, small_state()).state.weight[0, 0]) == 2
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000000005"]

    def test_a_replacement_that_was_killed_between_its_renames_loses_nothing(self, tmp_path):
        path = save(tmp_path, small_state(1), step=5)
        path.rename(path.with_name(path.name + ".old"))
        assert float(checkpoint.latest(tmp_path, small_state()).state.weight[0, 0]) == 1
        save(tmp_path, small_state(2), step=6, keep=1)
        assert checkpoint.steps(tmp_path) == [6]

    def test_old_ones_fall_only_after_the_new_one_stands(self, tmp_path, monkeypatch):
        save(tmp_path, small_state(1), step=1, keep=1)
        rename = Path.rename

        def renamed(path, target):
            if target.name == "000000000002":
                assert (tmp_path / "checkpoints" / "000000000001" / "manifest.json").exists()
                raise OSError(errno.EIO, "input/output error")
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", renamed)
        with pytest.raises(BellmarkError, match="the checkpoint at step 1 stands"):
            save(tmp_path, small_state(2), step=2, keep=1)
        assert checkpoint.steps(tmp_path) == [1]


class TestDamage:
    @pytest.mark.parametrize("place", [0, 20, -1])
    def test_a_flipped_bit_sends_us_back_with_a_warning(self, tmp_path, place):
        save(tmp_path, small_state(1), step=1)
        flip_a_bit(save(tmp_path, small_state(2), step=2) / "state.safetensors", place)
        found = checkpoint.latest(tmp_path, small_state())
        assert found.step == 1
        assert float(found.state.weight[0, 0]) == 1
        assert len(found.warnings) == 1
        assert "going back to step 1" in found.warnings[0]

    def test_every_single_byte_is_guarded(self, tmp_path):
        path = save(tmp_path, {"a": jnp.arange(4.0)}) / "state.safetensors"
        for place in range(path.stat().st_size):
            flip_a_bit(path, place)
            with pytest.raises(CorruptFile):
                checkpoint.latest(tmp_path, {"a": jnp.zeros(4)})
            flip_a_bit(path, place)
        checkpoint.latest(tmp_path, {"a": jnp.zeros(4)})

    @pytest.mark.parametrize("length", [0, 4, 9, 100, -1])
    def test_a_file_that_was_cut(self, tmp_path, length):
        path = save(tmp_path, small_state()) / "state.safetensors"
        data = path.read_bytes()
        path.write_bytes(data[:length])
        with pytest.raises(CorruptFile, match="no checkpoint is good"):
            checkpoint.latest(tmp_path, small_state())

    def test_a_longer_file(self, tmp_path):
        path = save(tmp_path, small_state()) / "state.safetensors"
        path.write_bytes(path.read_bytes() + b"more")
        with pytest.raises(CorruptFile, match="bytes of arrays"):
            checkpoint.latest(tmp_path, small_state())

    def test_no_checkpoint_at_all(self, tmp_path):
        with pytest.raises(CorruptFile, match="has no checkpoint yet"):
            checkpoint.latest(tmp_path, small_state())

    def test_leftovers_links_and_foreign_names_are_passed_over_and_removed(self, tmp_path):
        good = save(tmp_path, small_state(1), step=1)
        folder = tmp_path / "checkpoints"
        (folder / ".unfinished-000000000009-1-x").mkdir()
        (folder / ".unfinished-000000000009-1-x" / "state.safetensors").write_bytes(b"half")
        (folder / "000000000008").symlink_to(good)
        (folder / "notes.txt").write_text("mine")
        assert checkpoint.latest(tmp_path, small_state()).step == 1
        save(tmp_path, small_state(2), step=2)
        assert {path.name for path in folder.iterdir()} == {
            "000000000001",
            "000000000002",
            "000000000008",
            "notes.txt",
        }


def rewritten(path: Path, header: bytes, data: bytes, length: int | None = None) -> None:
    """A checkpoint with a hostile state file whose hash is right."""
    content = (len(header) if length is None else length).to_bytes(8, "little") + header + data
    (path / "state.safetensors").write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["state.safetensors"] = hashlib.sha256(content).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


class TestHostileFiles:
    """Each of these has a right hash: whoever wrote the state wrote the manifest, too."""

    @pytest.mark.parametrize(
        "header, data, length",
        [
            (b"{}", b"", 2**63),
            (b"{}", b"", 2**64 - 1),
            (b"[1]", b"", None),
            (b"[" * 100_000, b"", None),
            (b'{"a": ' * 100_000, b"", None),
            (b"\xff\xfe", b"", None),
            (b"{\"['a']\": 1}", b"", None),
            (b'{"[\'a\']": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}', b"12345678", None),
            (b'{"[\'a\']": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}', b"12345678", None),
            (b'{"[\'a\']": {"dtype": "F32", "shape": [true, 2], "data_offsets": [0, 8]}}', b"12345678", None),
            (b'{"[\'a\']": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', b"1234", None),
            (b'{"[\'a\']": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}', b"0123456789ab", None),
            (b'{"[\'a\']": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 8]}}', b"12345678", None),
            (b'{"[\'a\']": {"dtype": "F32", "shape": [999999999999], "data_offsets": [0, 8]}}', b"", None),
            (b'{"[\'a\']": {"dtype": "O", "shape": [2], "data_offsets": [0, 8]}}', b"12345678", None),
            (b'{"__metadata__": 3}', b"", None),
            (
                b'{"__metadata__": {"[\'a\']": ["x"]}, "[\'a\']": {"dtype": "F32", "shape": [2],'
                b' "data_offsets": [0, 8]}}',
                b"12345678",
                None,
            ),
        ],
    )
    def test_state(self, tmp_path, header, data, length):
        rewritten(save(tmp_path, {"a": jnp.zeros(2)}), header, data, length)
        with pytest.raises(CorruptFile) as caught:
            checkpoint.latest(tmp_path, {"a": jnp.zeros(2)})
        assert len(str(caught.value)) < 1000

    @pytest.mark.parametrize(
        "change",
        [
            {"format": 2},
            {"format": None},
            {"step": -1},
            {"step": True},
            {"step": 10**30},
            {"iteration": "1"},
            {"seconds": None},
            {"seconds": float("inf")},
            {"metrics_bytes": 1.5},
            {"files": {}},
            {"files": []},
            {"files": {"state.safetensors": 5}},
            {"files": {"../../../etc/passwd": "0" * 64}},
            {"files": {"state.safetensors": "0" * 64}},
            {"files": {"state.safetensors": "0" * 64, "/etc/passwd": "0" * 64}},
        ],
    )
    def test_manifest(self, tmp_path, change):
        path = save(tmp_path, small_state()) / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(CorruptFile):
            checkpoint.latest(tmp_path, small_state())

    @pytest.mark.parametrize("content", [b"", b"null", b"{", b"[" * 10**6, b"1" * 5000, b"\x00" * 2_000_000])
    def test_manifest_that_is_not_one(self, tmp_path, content):
        (save(tmp_path, small_state()) / "manifest.json").write_bytes(content)
        with pytest.raises(CorruptFile, match=r"manifest\.json"):
            checkpoint.latest(tmp_path, small_state())

    @pytest.mark.parametrize("name", ["manifest.json", "state.safetensors"])
    def test_links_pipes_and_folders_instead_of_files(self, tmp_path, name):
        path = save(tmp_path, small_state()) / name
        copy = path.rename(tmp_path / "elsewhere")
        path.symlink_to(copy)
        with pytest.raises(CorruptFile, match=name):
            checkpoint.latest(tmp_path, small_state())
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(CorruptFile, match="not a regular file"):
            checkpoint.latest(tmp_path, small_state())
        path.unlink()
        path.mkdir()
        with pytest.raises(CorruptFile, match="not a regular file"):
            checkpoint.latest(tmp_path, small_state())


class TestDisk:
    def only_the_first_stands(self, tmp_path):
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000000001"]
        assert checkpoint.latest(tmp_path, small_state()).step == 1

    @pytest.mark.parametrize("call", ["write", "fsync"])
    @pytest.mark.parametrize("allowed", [0, 1, 2])
    def test_a_full_disk_at_any_call(self, tmp_path, monkeypatch, call, allowed):
        save(tmp_path, small_state(1), step=1)
        original, calls = getattr(os, call), []

        def full(*arguments):
            calls.append(arguments)
            if len(calls) > allowed:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*arguments)

        monkeypatch.setattr(os, call, full)
        with pytest.raises(BellmarkError, match=r"at step 2 .*the disk is full; .*step 1 stands"):
            save(tmp_path, small_state(2), step=2)
        monkeypatch.undo()
        self.only_the_first_stands(tmp_path)

    def test_a_real_limit_in_the_middle_of_a_file(self, tmp_path):
        save(tmp_path, small_state(1), step=1)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            with pytest.raises(BellmarkError, match=r"step 2 \(4\.0 MB\).*larger than this system allows"):
                save(tmp_path, {"a": np.zeros(4_000_000, np.uint8)}, step=2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        self.only_the_first_stands(tmp_path)

    def test_partial_writes_are_completed(self, tmp_path, monkeypatch):
        write = os.write
        monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
        state = small_state(4.0)
        save(tmp_path, state)
        monkeypatch.undo()
        assert bits(checkpoint.latest(tmp_path, state).state.weight) == bits(state.weight)

    def test_an_interrupt_leaves_nothing_behind(self, tmp_path, monkeypatch):
        save(tmp_path, small_state(1), step=1)

        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, small_state(2), step=2)
        monkeypatch.undo()
        self.only_the_first_stands(tmp_path)

    def test_a_folder_that_vanished_is_not_made_again(self, tmp_path):
        with pytest.raises(BellmarkError, match="the folder has vanished; there is no earlier checkpoint"):
            save(tmp_path / "gone", small_state())
        assert not (tmp_path / "gone").exists()

    def test_a_read_only_folder(self):
        with tempfile.TemporaryDirectory() as directory:
            save(directory, small_state(1), step=1)
            Path(directory).chmod(0o755)
            (Path(directory) / "checkpoints").chmod(0o555)
            done = subprocess.run(
                [sys.executable, "-c", ORDINARY_USER, directory], capture_output=True, text=True
            )
            assert "no permission to write here; the checkpoint at step 1 stands" in done.stdout, done.stderr
            self.only_the_first_stands(Path(directory))

    def test_an_old_one_that_cannot_be_deleted_is_only_a_warning(self, tmp_path, monkeypatch):
        save(tmp_path, small_state(1), step=1, keep=1)
        rename = Path.rename

        def renamed(path, target):
            if path.name == "000000000001":
                raise OSError(errno.EACCES, "denied")
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", renamed)
        with pytest.warns(RuntimeWarning, match="000000000001 was not deleted: there is no permission"):
            save(tmp_path, small_state(2), step=2, keep=1)
        assert checkpoint.latest(tmp_path, small_state()).step == 2


ORDINARY_USER = """
import os, sys
import numpy as np
from bellmark.errors import BellmarkError
from bellmark.run import checkpoint

if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)  # root may write anywhere
try:
    checkpoint.save(sys.argv[1], [np.zeros(3)], iteration=1, step=2, seconds=0.0, metrics_bytes=0)
except BellmarkError as error:
    print(error)
"""

KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from bellmark.run import checkpoint

directory = Path(sys.argv[1])
draw = random.Random(0)
template = {"a": np.zeros(100_000), "b": np.zeros(3, np.int32)}

def state(step):
    return {"a": np.full(100_000, float(step)), "b": np.full(3, step, np.int32)}

def save(step):
    checkpoint.save(directory, state(step), iteration=step, step=step, seconds=0.0, metrics_bytes=step)

save(1)
last, kills, interrupted, deadline = 1, 0, 0, time.monotonic() + 60
# Until enough kills fell into a save, and enough saves were finished between them.
while (interrupted < 20 or last < 20) and time.monotonic() < deadline:
    kills += 1
    child = os.fork()
    if child == 0:
        step = last
        while True:
            # Every third save repeats its step, as a resumed run may.
            step += step % 3 != 0 or draw.random() < 0.5
            save(step)
    time.sleep(draw.uniform(0.0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    interrupted += any(path.name.startswith(".unfinished") for path in (directory / "checkpoints").iterdir())
    found = checkpoint.latest(directory, template)
    assert not found.warnings, found.warnings
    assert found.step >= last and found.metrics_bytes == found.iteration == found.step
    assert (found.state["a"] == found.step).all() and (found.state["b"] == found.step).all()
    last = found.step
print(last, interrupted, kills)
"""


def test_a_process_killed_at_random_instants_always_leaves_a_good_checkpoint(tmp_path):
    command = [sys.executable, "-c", KILLER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    last, interrupted, kills = map(int, done.stdout.split())
    assert last >= 20
    assert kills >= interrupted >= 20, "the kills missed the saves, so nothing was shown"
