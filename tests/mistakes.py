"""``make faults``: each bad input in a process of its own, under ``mpirun -n 2``, must end in words.

usage: mistakes.py [--exactly] [WORD ...]

Each mistake of ``support/bad_inputs`` is made by a program that does nothing else. It must end by itself within 20
seconds of computing, with the same status on both ranks, 2 (or that of its line), with the words of its line and
without another's traceback. WORDs narrow down: those mistakes stay that have one of them in their names, or, exactly,
are one of them.

Exit status: 0 all do, 1 some do not.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent / "support"))

_RANKS, _SECONDS = 2, 20.0
# What is found out while it runs is no bad input: training that has diverged.
_STATUSES = {"learning: a loss: NaN": 3}


def make(name: str, statuses: Path) -> int:
    """Make one mistake, on this rank, in a folder of its own; write down this rank's status, and return it."""
    import relax  # noqa: F401  # above what imports DOLFINx

    # isort: split
    from bad_inputs import CALLS, COMMAND_LINES
    from bad_inputs.given import Given
    from mpi4py import MPI

    from relax import cli
    from relax.base import ending

    if name in COMMAND_LINES:
        status = cli.execute(list(COMMAND_LINES[name].arguments))
    else:
        # As a script does that ends by itself.
        call, _ = CALLS[name]
        status = ending.run(lambda: bool(call(Given())) and 0, MPI.COMM_WORLD)
    (statuses / str(MPI.COMM_WORLD.rank)).write_text(str(status))
    return status


def wrong(name: str) -> str | None:
    """How a mistake ended otherwise than it must; None where it did not."""
    import scripts
    from bad_inputs import CALLS, COMMAND_LINES

    command = COMMAND_LINES.get(name)
    status, words = (command.status, command.words) if command else (_STATUSES.get(name, 2), CALLS[name][1])
    with tempfile.TemporaryDirectory(prefix="relax-bad-") as statuses, tempfile.TemporaryDirectory() as folder:
        if command:
            command.lay_out(Path(folder))
        began = os.times()
        path = {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE.parent / "support")])}
        try:
            ended = scripts.python(
                HERE, "--make", name, statuses, ranks=_RANKS, timeout=120.0, cwd=Path(folder), environment=path
            )
        except scripts.subprocess.TimeoutExpired:
            return "it hangs"
        now = os.times()
        # A rank that waits is busy: its seconds of computing say how long it took, however many others compute here.
        seconds = (now.children_user + now.children_system - began.children_user - began.children_system) / _RANKS
        found = [(Path(statuses) / str(rank)) for rank in range(_RANKS)]
        told = [file.read_text() if file.exists() else "none" for file in found]
    said = ended.stdout + ended.stderr
    if told != [str(status)] * _RANKS or ended.returncode != status:
        return f"statuses {told}, {ended.returncode} in all, expected {status}; it said\n{said[-2000:]}"
    if "Traceback" in said or said.count(words) != 1:
        return f"expected once, without a traceback: {words!r}; it said\n{said[-2000:]}"
    return None if seconds <= _SECONDS else f"took {seconds:.0f} s"


def main(arguments: list[str]) -> int:
    """Make those that the words choose."""
    from bad_inputs import CALLS, COMMAND_LINES

    exactly = arguments[:1] == ["--exactly"]
    wanted = arguments[1:] if exactly else arguments
    names = [n for n in (*CALLS, *COMMAND_LINES) if not wanted or any(w == n if exactly else w in n for w in wanted)]
    good = 0
    for name in names:
        fault = wrong(name)
        good += fault is None
        if fault is not None:
            print(f"{name}: {fault}", flush=True)
    print(f"{good} of {len(names)} bad inputs end in words")
    return 0 if good == len(names) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        sys.exit(make(sys.argv[2], Path(sys.argv[3])))
    sys.exit(main(sys.argv[1:]))
