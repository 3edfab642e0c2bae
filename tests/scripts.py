"""Scripts in processes of their own, under mpirun: for what ends a whole job."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

# What an MPI process inherits would make its children take part in its own job.
_INHERITED = re.compile(r"OMPI_(COMM|APP|FIRST|UNIVERSE|FILE|ARGV|COMMAND)|PMIX_|PRTE_(LAUNCHED|NODE)")


def run(
    folder: Path, text: str, *arguments: object, ranks: int, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a script's text in ``folder``; ``TimeoutExpired`` when it hangs."""
    (folder / "script.py").write_text(text)
    environment = {k: v for k, v in os.environ.items() if not _INHERITED.match(k)}
    words = ["mpirun", "-n", str(ranks), sys.executable, "script.py", *map(str, arguments)]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=timeout, cwd=folder, env=environment, check=False
    )
