"""Names of a package that are loaded when first used, so that torch is loaded only by those who use it."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from relax.base.start import GET_DOLFINX

_LINE = re.compile(r"^from (\S+) import (\w+) as \2$", re.MULTILINE)


def names(package: str) -> dict[str, str]:
    """The module that each public name of a package comes from, as the stub ``__init__.pyi`` beside it lists them.

    The stub is the one list: type checkers read it as it is. A package that hands on a module of its own lists it as
    ``from relax.train import inverses as inverses``.
    """
    stub = Path(sys.modules[package].__file__ or "").with_suffix(".pyi")
    return {name: home for home, name in _LINE.findall(stub.read_text(encoding="utf-8"))}


def value(package: str, home_of: dict[str, str], name: str) -> Any:
    """What a package's ``__getattr__`` gives for a name, which the package then keeps.

    Raises:
        AttributeError: for other names.
        ImportError: where torch or DOLFINx is missing, with the way to it.
    """
    if name not in home_of:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    home = home_of[name]
    try:
        if home == package:
            given = importlib.import_module(f"{package}.{name}")
        else:
            given = getattr(importlib.import_module(home), name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("dolfinx", "petsc4py", "ufl", "basix", "mpi4py"):
            raise ImportError(GET_DOLFINX) from error
        if missing in ("torch", "sympy"):
            raise ImportError(
                f"{package}.{name} needs {missing}, which is not installed: on Debian `apt install python3-{missing}`, "
                f"or `pip install {missing}`"
            ) from error
        raise
    setattr(sys.modules[package], name, given)
    return given


@cache
def part(name: str, package: str | None = None) -> Any:
    """What is called ``module:name``, a module with a dot before it being one of ``package``; it is loaded now."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module, package), attribute)


def attach(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names its stub lists."""
    home_of = names(package)

    def getattribute(name: str) -> Any:
        return value(package, home_of, name)

    return getattribute, lambda: sorted(home_of), list(home_of)
