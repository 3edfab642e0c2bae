"""What a user may hand over by mistake: an error of relax's own on every rank, that names the place and what to try.

The mistakes are listed in ``support/bad_inputs``; ``make faults`` makes each in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jobs
import numpy as np
import pytest
from bad_inputs import CALLS, COMMAND_LINES
from bad_inputs.given import Given, heat
from mpi4py import MPI

import relax
from relax import BadInput, BadProblem, PointsOutsideMesh, RelaxError, cli
from relax.base import ending

COMM = MPI.COMM_WORLD


@pytest.fixture(scope="module")
def given():
    made = Given()
    yield made
    made.close()


@pytest.mark.ranks(2)
def test_mistakes_are_answered_in_words(given):
    """All in one test: what pytest does between two takes longer than a mistake."""
    faults = {}
    for name, (call, words) in CALLS.items():
        found = "accepted"
        try:
            call(given)
        except RelaxError as error:
            found = None if words in str(error) else error
        except Exception as error:
            found = error
        if any(COMM.allgather(found is not None)):
            faults[name] = found
    assert not faults


@pytest.mark.ranks(2)
def test_command_lines_are_answered_in_words(monkeypatch, capfd):
    # It sweeps the folder of compiled forms.
    monkeypatch.setattr(relax, "init", lambda argv: None)
    faults = {}
    for name, command in COMMAND_LINES.items():
        with jobs.shared_folder() as folder:
            command.lay_out(folder)
            with monkeypatch.context() as there:
                there.chdir(folder)
                capfd.readouterr()
                status = cli.execute(list(command.arguments))
        said = capfd.readouterr().err
        told = COMM.allgather((status, said))
        everything = "".join(err for _, err in told)
        is_right = all(status == command.status for status, _ in told) and everything.count(command.words) == 1
        if not is_right or "Traceback" in everything:
            faults[name] = told
    assert not faults


@pytest.mark.slow
def test_four_of_them_in_processes_of_their_own():
    runner = Path(__file__).with_name("mistakes.py")
    names = [*list(CALLS)[::200], *list(COMMAND_LINES)[::100]][:4]
    ended = subprocess.run([sys.executable, runner, "--exactly", *names], capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "4 of 4" in ended.stdout


def test_the_status_of_what_was_handed_over_is_2():
    assert {ending.status_of(kind("")) for kind in (BadInput, BadProblem, PointsOutsideMesh)} == {2}


def test_numbers_of_numpy_are_numbers(given):
    assert heat(given, theta=np.float64(0.5), num_steps=np.int64(3), dt=np.float64(0.1)).num_steps == 3
    assert issubclass(BadInput, ValueError)
