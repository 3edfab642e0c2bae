"""environment/enter, RELAX_SUITE=wheel: which Python takes the wheel, and an environment that is whole or not there.

A script stands in for Python: what PyPI gives is for the gate to install.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

ENVIRONMENT = Path(__file__).resolve().parents[1] / "environment"

PYTHON = """#!/bin/sh
case "$1 $2" in
    *wheel.py*) echo "# for Python 3.99"; echo "thing>=1; python_version >= '3'"; echo other ;;
    "-m venv")
        mkdir "$3/bin"
        cp "$0" "$3/bin/python"
        printf '#!%s/bin/python\\n' "$3" >"$3/bin/tool"
        chmod +x "$3/bin/tool"
        echo "home = $3" >"$3/pyvenv.cfg"
        echo built >>"$LOG" ;;
    "-m pip") shift 2; for word; do echo "<$word>" >>"$LOG"; done; eval "${PIP-true}" ;;
    "-c "*) echo 0.11 ;;
    *) exit 1 ;;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """A machine with a Python that can take the wheel, and the means to enter it: (folder, environment)."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text(PYTHON)
    (tmp_path / "bin" / "python3").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in ("RELAX_SUITE", "PYTHONPATH")}
    environment |= {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "LOG": str(tmp_path / "log"),
    }
    return tmp_path, environment


def start(machine, *command, **more):
    words = {"env": machine[1] | more, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([ENVIRONMENT / "enter", *command], **words)


def enter(machine, *command, **more):
    process = start(machine, *command, **more)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def built(machine):
    """The folders that are left under the cache, but for logs and locks."""
    return sorted(path.name for path in (machine[0] / "cache" / "relax").iterdir() if path.is_dir())


@pytest.mark.parametrize("suite", [{}, {"RELAX_SUITE": "wheel"}], ids=["by itself", "wheel"])
def test_the_wheel_is_taken_where_a_python_can(machine, suite):
    """No DOLFINx here, a Python that takes the wheel: what pyproject.toml asks for is installed, once, word by word."""
    ask = ("sh", "-c", 'echo "$VIRTUAL_ENV"; command -v tool; cat "$(command -v tool)"; echo "$RELAX_SUITE"')
    status, out, err = enter(machine, *ask, **suite)
    assert status == 0, err
    [name] = built(machine)
    venv = machine[0] / "cache" / "relax" / name
    assert out.split() == [str(venv), f"{venv}/bin/tool", f"#!{venv}/bin/python", "native"]
    log = (machine[0] / "log").read_text().splitlines()
    assert log[0] == "built" and log[-2:] == ["<thing>=1; python_version >= '3'>", "<other>"]
    assert enter(machine, *ask, **suite)[:2] == (0, out)
    assert (machine[0] / "log").read_text().count("built") == 1


def test_a_root_that_is_there_is_kept_to(machine):
    """Whoever has built one, with torch in it, does not find another DOLFINx one day; unless there is the wheel."""
    own = (ENVIRONMENT / "enter").read_text().splitlines()
    [lines, key] = [line.strip() for line in own if line.startswith("lines()") or "key=$({ lines" in line]
    script = f"here=$1; {lines}; {key}; echo $key"
    key = subprocess.run(["bash", "-c", script, "bash", ENVIRONMENT], capture_output=True, text=True, check=True).stdout
    root = machine[0] / "cache" / "relax" / f"trixie-{key.strip()}"
    root.mkdir(parents=True)
    assert enter(machine, "true")[0] != 0, "an empty root"
    assert not [name for name in built(machine) if name.startswith("wheel")]
    assert enter(machine, "true", RELAX_SUITE="wheel")[0] == 0
    assert enter(machine, "sh", "-c", 'echo "$VIRTUAL_ENV"')[1].strip()


def test_a_folder_may_have_any_name(machine):
    """What sed and xargs make something of, and a Python that warns."""
    python = machine[0] / "bin" / "python3"
    python.write_text(PYTHON.replace('echo "# for', 'echo "Warning: beta" >&2; echo "# for'))
    cache = machine[0] / "a b|c&d"
    status, out, err = enter(machine, "sh", "-c", 'cat "$(command -v tool)"', XDG_CACHE_HOME=str(cache))
    assert status == 0, err
    [venv] = [path for path in (cache / "relax").iterdir() if path.is_dir()]
    assert out == f"#!{venv}/bin/python\n" and "Warning" not in (machine[0] / "log").read_text()
    assert venv.stat().st_mode & 0o777 == 0o755


def test_another_list_is_another_environment(machine):
    enter(machine, "true")
    python = machine[0] / "bin" / "python3"
    python.write_text(PYTHON.replace("echo other", "echo another"))
    assert enter(machine, "true")[0] == 0
    assert len(built(machine)) == 2


@pytest.mark.slow
def test_two_at_once_build_once(machine):
    both = [start(machine, "echo", "in", PIP="sleep 1") for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0] and {out for out, _ in said} == {"in\n"}
    assert sum("waiting for it" in err for _, err in said) == 1
    assert (machine[0] / "log").read_text().count("built") == 1


def test_a_build_that_fails_leaves_nothing_and_says_why(machine):
    status, out, err = enter(machine, "echo", "in", PIP="echo 'no such thing'; false")
    assert (status, out) == (1, "") and "pip failed" in err and "| no such thing" in err and "RELAX_SUITE=trixie" in err
    assert built(machine) == []
    assert enter(machine, "echo", "in")[:2] == (0, "in\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_build_that_is_stopped_leaves_nothing_in_the_way(machine, name):
    """A signal that can be heard clears up; after one that cannot, the next build does."""
    stopped = start(machine, "echo", "in", PIP="sleep 30")
    while not (machine[0] / "log").exists() or "thing" not in (machine[0] / "log").read_text():
        assert stopped.poll() is None
        time.sleep(0.01)
    builder = Path(f"/proc/{stopped.pid}/task/{stopped.pid}/children").read_text().split()
    stopped.send_signal(getattr(signal, name))
    if name == "SIGKILL":
        os.kill(int(builder[0]), signal.SIGKILL)
    # Not `communicate`: a pip that a killed build leaves holds the pipes open.
    assert stopped.wait(timeout=20) != 0
    assert [folder.split(".")[1] for folder in built(machine)] == (["partial"] if name == "SIGKILL" else [])
    assert enter(machine, "echo", "in")[:2] == (0, "in\n")
    assert len(built(machine)) == 1


def test_without_a_python_that_can_it_says_so(machine):
    for name in ("python3", "python3.12", "python3.13", "python3.14"):
        path = machine[0] / "bin" / name
        path.write_text("#!/bin/sh\nexit 127\n")
        path.chmod(0o755)
    status, _, err = enter(machine, "true", RELAX_SUITE="wheel")
    assert status == 1 and "python3.14" in err and "RELAX_SUITE=trixie" in err
    (machine[0] / "bin" / "python3.13").write_text("#!/bin/sh\necho 'P cannot take it: old' >&2\nexit 1\n")
    assert "P cannot take it: old" in enter(machine, "true", RELAX_SUITE="wheel")[2]


@pytest.fixture
def wheel(monkeypatch):
    """environment/wheel.py, in a Python that has nothing in its way."""
    spec = importlib.util.spec_from_file_location("wheel", ENVIRONMENT / "wheel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.34"))
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(module.os.path, "exists", lambda path: True)
    assert module.obstacle() == ""
    return module


@pytest.mark.parametrize(
    ("where", "name", "value", "words"),
    [
        (sys, "version_info", (3, 11, 9), "3.12 or later"),
        (sys, "platform", "darwin", "darwin on x86_64"),
        (platform, "machine", lambda: "aarch64", "linux on aarch64"),
        (platform, "libc_ver", lambda: ("glibc", "2.31"), "glibc 2.34 or later, this is glibc 2.31"),
        (platform, "libc_ver", lambda: ("", ""), "another libc"),
        ("shutil", "which", lambda name: None, "C compiler"),
        ("os", "path.exists", lambda path: False, "Python.h"),
    ],
)
def test_what_keeps_a_python_from_the_wheel(wheel, monkeypatch, where, name, value, words):
    target = getattr(wheel, where) if isinstance(where, str) else where
    *inner, last = name.split(".")
    monkeypatch.setattr(getattr(target, inner[0]) if inner else target, last, value)
    assert words in wheel.obstacle()


def test_the_compiler_is_the_users(wheel, monkeypatch):
    monkeypatch.setattr(wheel.shutil, "which", lambda name: None if name == "mine" else name)
    monkeypatch.setenv("CC", "mine -O3")
    assert "mine" in wheel.obstacle()
    monkeypatch.delenv("CC")
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: "cc -pthread")
    assert wheel.obstacle() == ""
