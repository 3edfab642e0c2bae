"""Stops `pip install` in one sentence where DOLFINx is missing and cannot be had; the rest is in pyproject.toml.

pip does not tell whether the extra `dolfinx` was asked for. So where its wheel can be installed nothing is refused, and
relax says at run time what is missing; elsewhere the extra would bring nothing without a word, so it is said here.
"""

import os
import platform
import subprocess
import sys

from setuptools import setup


def wheel_can_come() -> bool:
    """Whether PyPI has DOLFINx for this Python: what the extra in pyproject.toml says, and the wheel's glibc."""
    kind, version = platform.libc_ver()
    machine = (sys.platform, platform.machine(), kind) == ("linux", "x86_64", "glibc")
    return machine and sys.version_info >= (3, 12) and tuple(map(int, version.split(".")[:2])) >= (2, 34)


# pip builds in an isolated environment, and marks it with this variable. A fresh interpreter without the variables of
# the isolation sees what the one that relax is installed for will see. Other build tools make wheels for elsewhere.
if "PIP_BUILD_TRACKER" in os.environ and not os.environ.get("RELAX_BUILD_ANYWHERE") and not wheel_can_come():
    here = os.path.dirname(os.path.abspath(__file__))
    find = "import sys; from importlib.util import find_spec; sys.exit(find_spec('dolfinx') is None)"
    isolation = {"PYTHONPATH", "PYTHONNOUSERSITE"}
    environment = {name: value for name, value in os.environ.items() if name not in isolation}
    if subprocess.run([sys.executable, "-c", find], env=environment, cwd=here).returncode != 0:
        sys.exit(
            "relax needs DOLFINx 0.9 to 0.11, which `pip install .[dolfinx]` brings for Python 3.12 or later on Linux "
            "(x86-64, glibc 2.34 or later) only. Here get it with `apt install python3-dolfinx-real` (Debian 13 and "
            "later), `conda env create -f environment/conda.yml` or Spack, and install relax with that Python (in a "
            "virtual environment made with --system-site-packages)."
        )

setup()
