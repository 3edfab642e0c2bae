"""Programs in processes of their own, under mpirun where they take several ranks: for what ends a whole job."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# What an MPI process inherits would make its children take part in its own job.
_INHERITED = re.compile(r"OMPI_(COMM|APP|FIRST|UNIVERSE|FILE|ARGV|COMMAND)|PMIX_|PRTE_(LAUNCHED|NODE)")


def own_environment() -> dict[str, str]:
    """This process's environment, for a job of its own."""
    return {name: value for name, value in os.environ.items() if not _INHERITED.match(name)}


def python(
    *words: object,
    ranks: int = 1,
    timeout: float = 120.0,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run Python with ``words``, under mpirun for more than one rank; ``TimeoutExpired`` when it hangs.

    mpirun names its session folder after its process id, and PRRTE 3 does not start where that folder exists already:
    one killed earlier leaves it behind. Hence a folder for temporary files of each run's own, and SIGTERM at a timeout,
    which mpirun passes on to its ranks.
    """
    command = [*(["mpirun", "-n", str(ranks)] if ranks > 1 else []), sys.executable, *map(str, words)]
    variables = own_environment() | (environment or {})
    with tempfile.TemporaryDirectory(prefix="run-", ignore_cleanup_errors=True) as own:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=variables | {"TMPDIR": own},
        )
        with process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.terminate()
                try:
                    process.communicate(timeout=10.0)
                finally:
                    process.kill()
                raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def run(
    folder: Path, text: str, *arguments: object, ranks: int, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a script's text in ``folder``; ``TimeoutExpired`` when it hangs."""
    (folder / "script.py").write_text(text)
    return python("script.py", *arguments, ranks=ranks, timeout=timeout, cwd=folder)


def with_word(word: object) -> list[int]:
    """The processes with a word in their command line, but for mpirun, in the order of their numbers."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(word).encode() in words and not words[0].endswith((b"mpirun", b"prterun")):
            found.append(int(process.name))
    return sorted(found)
