"""Stops `pip install` in one sentence where DOLFINx is missing; pyproject.toml holds everything else."""

import os
import subprocess
import sys

from setuptools import setup

# pip builds in an isolated environment, and marks it with this variable. A fresh interpreter without the variables of
# the isolation sees what the one that relax is installed for will see. Other build tools make wheels for elsewhere.
if "PIP_BUILD_TRACKER" in os.environ and not os.environ.get("RELAX_BUILD_ANYWHERE"):
    here = os.path.dirname(os.path.abspath(__file__))
    find = "import sys; from importlib.util import find_spec; sys.exit(find_spec('dolfinx') is None)"
    isolation = {"PYTHONPATH", "PYTHONNOUSERSITE"}
    environment = {name: value for name, value in os.environ.items() if name not in isolation}
    if subprocess.run([sys.executable, "-c", find], env=environment, cwd=here).returncode != 0:
        sys.exit(
            "relax needs DOLFINx 0.9 to 0.11, which pip cannot install: get it with `apt install python3-dolfinx-real` "
            "(Debian 13 and later), `conda env create -f environment/conda.yml` or Spack, and install relax with that "
            "Python (in a virtual environment made with --system-site-packages)."
        )

setup()
