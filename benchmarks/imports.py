"""What a job costs before it does anything: the CPU time of its imports, less that of DOLFINx alone.

Run: ``environment/enter python3 benchmarks/imports.py``. The modules are those that are loaded once a small Poisson
inverse job has run, but for what its figure needs and its compiled forms; their bytecode is there, as where relax is
installed.
"""

from __future__ import annotations

from timing import table  # isort: skip  (sets the number of threads)

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

JOB = """
[mesh]
generator = "unit_square"
n = 4
[pde]
name = "poisson.diffusion"
source = 1.0
[observe]
points = 4
[data]
truth = "ramp"
noise = 0.1
[prior]
length = 0.5
[output]
folder = "out"
"""
DOLFINX = "import dolfinx, dolfinx.fem.petsc, mpi4py.MPI, petsc4py.PETSc, ufl\n"
RUN = """
import sys
from pathlib import Path
from relax.jobs import read, run_job
from relax.jobs.view import style
style.is_there = lambda comm: False
run_job(read(Path("job.toml")), show=False)
import json
print(json.dumps([name for name in sys.modules if not name.startswith(("libffcx", "__"))]))
"""
IMPORT = """
import importlib
for name in {names}:
    importlib.import_module(name)
"""
CLOCK = "import time\nprint(time.process_time())"
REPEATS = 20


def output_of(script: str, folder: str) -> str:
    """The last line that a script prints in a process of its own."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env={**env, "PYTHONPYCACHEPREFIX": folder}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()[-1]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "job.toml").write_text(JOB)
        loaded = json.loads(output_of(RUN, folder))
        scripts = [DOLFINX, DOLFINX + "import relax.jobs" + IMPORT.format(names=loaded)]
        seconds: list[list[float]] = [[], []]
        for _ in range(REPEATS):
            for script, taken in zip(scripts, seconds, strict=True):
                taken.append(float(output_of(script + CLOCK, folder)))
    alone, job = (statistics.median(taken) for taken in seconds)
    rows = [
        ("DOLFINx alone", alone, 1.0, None),
        ("what a Poisson inverse job loads, less that", job - alone, job - alone, 0.14),
    ]
    table("CPU time of imports", rows, repeats=REPEATS)
