"""Run by `enter` with a Python in question: prints what to install for DOLFINx's wheel, a requirement a line.

Status 1, and the reason on stderr, where that Python cannot take the wheel. There is no torch in the list: the one on
PyPI brings gigabytes of CUDA.
"""

import os
import platform
import shutil
import sys
import sysconfig

EXTRAS = ("dolfinx", "plot", "mesh", "checkpoint", "dev")


def obstacle() -> str:
    """What keeps this Python from the wheel, or nothing."""
    if sys.version_info < (3, 12):
        return f"it is {platform.python_version()}, and the wheel needs 3.12 or later"
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"the wheel is for Linux on x86_64, this is {sys.platform} on {platform.machine()}"
    kind, version = platform.libc_ver()
    if kind != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 34):
        return f"the wheel needs glibc 2.34 or later, this is {kind or 'another libc'} {version}"
    # DOLFINx compiles forms, with the compiler and the header of the Python it runs in.
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"DOLFINx compiles forms, and its C compiler {compiler} is not there"
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        return "DOLFINx compiles forms, and its header Python.h is not there (Debian: python3-dev)"
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return "it makes no virtual environments (Debian: python3-venv)"
    return ""


def requirements(pyproject: str) -> list:
    """What pyproject.toml asks for, with the extras that the wheel's environment has."""
    import tomllib

    with open(pyproject, "rb") as file:
        project = tomllib.load(file)["project"]
    return project["dependencies"] + [words for name in EXTRAS for words in project["optional-dependencies"][name]]


if __name__ == "__main__":
    if why_not := obstacle():
        sys.exit(f"{sys.executable} cannot take DOLFINx's wheel: {why_not}")
    here = os.path.dirname(os.path.abspath(__file__))
    print(f"# for Python {sys.version_info[0]}.{sys.version_info[1]} of {sys.base_prefix}")
    print("\n".join(requirements(os.path.join(here, "..", "pyproject.toml"))))
