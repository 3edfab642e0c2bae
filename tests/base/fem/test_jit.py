"""Compiled forms: killed and slow compilations, several processes at one form, folders and compilers that fail."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import ufl
from contract import COMM, raised_everywhere
from dolfinx import fem, jit

from relax import meshes
from relax.base.fem import cache
from relax.errors import BadInput

FLAGS = ["-O0", "-g0"]
# Compiles the form of the tests with a compiler that says when it begins, and then takes its time.
ELSEWHERE = """
import sys
import ufl
from dolfinx import fem
import relax.base.fem.forms
from relax import meshes
V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 1))
options = {"cache_dir": sys.argv[1], "cffi_extra_compile_args": ["-O0", "-g0"]}
fem.form(0.123 * ufl.TestFunction(V) * ufl.dx, jit_options=options)
"""
COMPILER = """#!/bin/sh
echo $$ >> {folder}/compilers
sleep {seconds}
exec cc "$@"
"""


def compiled(folder, number=0.123):
    """A form, compiled into this cache."""
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 1))
    options = {"cache_dir": str(folder), "cffi_extra_compile_args": FLAGS}
    return fem.form(number * ufl.TestFunction(V) * ufl.dx, jit_options=options)


def files(folder):
    return sorted(path.name.partition(".")[2].rpartition("-")[2] for path in folder.glob("libffcx_*"))


@contextmanager
def compiling_elsewhere(tmp_path, seconds):
    """Another process, in the middle of the compilation."""
    compiler, begun = tmp_path / "compiler", tmp_path / "compilers"
    compiler.write_text(COMPILER.format(folder=tmp_path, seconds=seconds), encoding="utf-8")
    compiler.chmod(0o755)
    words = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "cache")]
    other = subprocess.Popen(words, env=os.environ | {"CC": str(compiler)}, stderr=subprocess.PIPE)
    try:
        while not begun.exists() and other.poll() is None:
            time.sleep(0.01)
        assert other.poll() is None, other.stderr.read().decode()
        yield other
    finally:
        other.kill()
        other.wait()
        for process in begun.read_text(encoding="utf-8").split() if begun.exists() else ():
            try:
                os.kill(int(process), signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended
        other.stderr.close()


@pytest.mark.slow
def test_killed_in_the_middle_of_a_compilation(tmp_path, monkeypatch):
    """The next one takes over at once, though the compiler of the dead one lives on."""
    monkeypatch.delenv("OMPI_COMM_WORLD_LOCAL_RANK", raising=False)
    with compiling_elsewhere(tmp_path, seconds=60) as other:
        assert cache.sweep_stale_forms(tmp_path / "cache", older_than=0.0) == []  # it is alive
        other.kill()
        other.wait()
        start = time.monotonic()
        compiled(tmp_path / "cache")
        assert time.monotonic() - start < 20.0
    (left,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert cache.sweep_stale_forms(tmp_path / "cache") == []  # it may be under way where there are no locks
    assert cache.sweep_stale_forms(tmp_path / "cache", older_than=0.0) == [left]
    assert files(tmp_path / "cache") == ["c", "c.cached", "gnu.so"]


@pytest.mark.slow
def test_two_processes_at_one_form(tmp_path, caplog):
    """The second waits for the first, however long it takes, and uses what that one has made."""
    with compiling_elsewhere(tmp_path, seconds=1) as other, caplog.at_level(logging.INFO, logger="relax"):
        compiled(tmp_path / "cache")
        assert other.wait(20.0) == 0
        assert f"waiting for a form that process {other.pid} on " in caplog.text
    assert files(tmp_path / "cache") == ["c", "c.cached", "gnu.so"]


@pytest.mark.slow
def test_a_source_that_dolfinx_alone_has_left(tmp_path, monkeypatch):
    """Somebody else's compilation may be under way: it is left alone, and not waited for."""
    monkeypatch.delenv("OMPI_COMM_WORLD_LOCAL_RANK", raising=False)
    compiled(tmp_path)
    (source,) = tmp_path.glob("libffcx_*.c")
    for part in tmp_path.glob(source.stem + ".*"):
        part.unlink()
    source.touch()
    compiled(tmp_path)
    assert files(tmp_path) == ["c"] and cache.sweep_stale_forms(tmp_path) == []
    hour_ago = time.time() - 3600.0
    os.utime(source, (hour_ago, hour_ago))
    compiled(tmp_path)
    assert files(tmp_path) == ["c", "c.cached", "gnu.so"]
    finished = sorted(tmp_path.glob("libffcx_*"))
    for part in finished:
        os.utime(part, (hour_ago, hour_ago))
    assert cache.sweep_stale_forms(tmp_path) == [] and sorted(tmp_path.glob("libffcx_*")) == finished


def test_a_damaged_module_is_made_again(tmp_path):
    compiled(tmp_path)
    (library,) = tmp_path.glob("libffcx_*.so")
    library.unlink()  # not cut in place: this process runs it
    library.write_bytes(b"cut off")
    compiled(tmp_path)
    assert library.stat().st_size > 1000


@pytest.mark.ranks(1, 2)
def test_a_cache_folder_that_cannot_be_written(shared_tmp):
    """It lies below a file."""
    place = shared_tmp / "file"
    if COMM.rank == 0:
        place.touch()
    COMM.Barrier()
    error = raised_everywhere(BadInput, lambda: compiled(place / "cache"))
    assert f"{place / 'cache'} cannot be written (Not a directory)" in str(error)
    assert "XDG_CACHE_HOME" in str(error)


@pytest.mark.ranks(1, 2)
def test_a_compiler_that_fails(shared_tmp, monkeypatch):
    monkeypatch.setenv("CC", "false")
    error = raised_everywhere(BadInput, lambda: compiled(shared_tmp, number=0.321))
    assert "the C compiler failed" in str(error) and str(shared_tmp) in str(error)
    monkeypatch.undo()
    compiled(shared_tmp, number=0.321)


def test_the_folder_is_that_of_dolfinx():
    assert cache.form_cache() == Path(jit.get_options()["cache_dir"])
