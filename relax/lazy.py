"""Names of a package that are loaded when first used, so that torch is loaded only by those who use it."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from typing import Any


def attribute(package: str, name: str, home_of: Mapping[str, str], modules: Collection[str] = ()) -> Any:
    """What a package's ``__getattr__`` gives for a name.

    Args:
        package: the package's ``__name__``.
        name: asked for.
        home_of: the module below the package that a name is in.
        modules: those that are names themselves.

    Raises:
        AttributeError: for other names.
        ImportError: where torch is missing, with the way to it.
    """
    if name in modules:
        return importlib.import_module(f"{package}.{name}")
    if name not in home_of:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "torch":
            raise ImportError(
                f"{package}.{name} needs torch, which is not installed: on Debian `apt install python3-torch`, or "
                "`pip install torch`"
            ) from error
        raise
