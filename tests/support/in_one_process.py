"""Scripts run one after the other by one process a rank: to import torch and DOLFINx takes longer than most do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import scripts

# A script that fails ends the job where there are several ranks: the others may be waiting in it.
_TEXT = """
import contextlib, io, json, runpy, sys, time, traceback
for path, words in json.loads({commands!r}):
    sys.argv = [path, *words]
    sys.path.insert(0, path.rpartition("/")[0])
    out, start, failure = io.StringIO(), time.process_time(), ""
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_path(path, run_name="__main__")
        except BaseException:
            if {ranks} > 1:
                raise
            failure = traceback.format_exc()
    from mpi4py import MPI
    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps([out.getvalue(), failure, time.process_time() - start]), flush=True)
"""


class Ran(NamedTuple):
    """What a script printed, the traceback that ended it, if one did, and rank 0's CPU seconds."""

    out: str
    failure: str
    seconds: float


def run_all(folder: Path, paths: Sequence[Path], *words: str, ranks: int = 1, timeout: float = 600.0) -> dict[str, Ran]:
    """Run scripts in ``folder``; by their names. ``{name}`` in the words is the name of the script."""
    commands = json.dumps([[str(path), [word.format(name=path.stem) for word in words]] for path in paths])
    run = scripts.run(folder, _TEXT.format(commands=commands, ranks=ranks), ranks=ranks, timeout=timeout)
    lines = run.stdout.splitlines()
    assert run.returncode == 0 and len(lines) == len(paths), run.stdout + run.stderr
    return {path.stem: Ran(*json.loads(line)) for path, line in zip(paths, lines, strict=True)}
