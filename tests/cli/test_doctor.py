"""`bellmark doctor`: says what is there, and finds what is broken."""

import importlib
import re
import subprocess
import sys

import pytest

from bellmark.cli import doctor
from bellmark.errors import BadInput


def test_a_healthy_house(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "loop").write_bytes(b"0" * 2_500_000)
    assert doctor.main([]) == 0
    output = capsys.readouterr().out
    for title in ("versions", "machine", "JAX", "Numba", "files", "extras"):
        assert f"\n{title}\n" in f"\n{output}"
    assert "cpu:0" in output
    # JAX may add a program of its own while the doctor looks at the devices
    assert re.search(rf"{tmp_path}/cache \(\d+ files, 2\.\d MB\)", output)
    assert f"{tmp_path}/runs: can be written to" in output
    assert "threading layer  " in output
    assert output.endswith("all is well: everything that Bellmark needs works\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "cache"]


@pytest.mark.parametrize("package", ["optax", "jax", "numba"])
def test_a_broken_core_part_is_named_with_exit_status_1(capsys, monkeypatch, tmp_path, package):
    monkeypatch.chdir(tmp_path)
    original = importlib.import_module

    def imported(name, *arguments):
        if name.partition(".")[0] == package:
            raise ImportError(f"{package}.so is for another machine\nand more")
        return original(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", imported)
    assert doctor.main([]) == 1
    output = capsys.readouterr().out
    assert (
        f"broken: {package} cannot be imported: ImportError: {package}.so is for another machine\n" in output
    )
    assert "all is well" not in output


def test_a_section_that_fails_does_not_hide_the_others(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_jax", lambda: 1 / 0)
    assert doctor.main([]) == 1
    output = capsys.readouterr().out
    assert "broken: jax: ZeroDivisionError: division by zero" in output
    assert "\nextras\n" in output


def test_a_place_that_cannot_be_written_to(capsys, monkeypatch):
    monkeypatch.chdir("/proc")
    assert doctor.main([]) == 1
    assert "broken: no run can be saved in /proc/runs: " in capsys.readouterr().out


def test_extras_name_what_is_missing(monkeypatch):
    monkeypatch.setattr(
        doctor,
        "_requirements",
        lambda: {
            "video": [("imageio", "imageio"), ("pygame", "pygame")],
            "mujoco": [("gymnasium[mujoco]", "mujoco")],
            "new": [("thing", "thing")],
        },
    )
    monkeypatch.setattr(
        doctor, "installed", lambda package: None if package in ("mujoco", "pygame") else "1.0"
    )
    assert doctor._extras() == {
        "video": "bellmark watch: MP4 and GIF of an agent: pip install pygame",
        "mujoco": f'{doctor.GIVES["mujoco"]}: pip install "gymnasium[mujoco]"',
        "new": "thing: installed",
    }


def test_extras_are_those_of_the_installed_package():
    found = doctor._requirements()
    assert ("imageio-ffmpeg", "imageio-ffmpeg") in found["video"]
    assert ("gymnasium[mujoco]", "mujoco") in found["mujoco"]
    assert set(doctor.GIVES) <= set(found)


def test_input_and_quick_help():
    with pytest.raises(BadInput, match="unexpected argument 'now'"):
        doctor.main(["now"])
    source = (
        "import sys\nfrom bellmark.cli.doctor import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'jax', 'numba', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", source], check=True, stdout=subprocess.DEVNULL)
