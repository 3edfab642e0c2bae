"""The generators of ``relax.meshes`` as a job gives them their numbers: whatever is there, by its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

from relax.meshes import generators

GENERATORS: dict[str, Callable[..., Any]] = {
    name: function
    for name, function in vars(generators).items()
    if inspect.isfunction(function) and not name.startswith("_") and function.__module__ == generators.__name__
}


def numbers_of(name: str) -> dict[str, int]:
    """The keys of [mesh] that a generator needs, and how many numbers each is: "n" -> 2, "lower" -> 2, ... Local."""
    hints = get_type_hints(GENERATORS[name])
    needed = {
        key: len(get_args(hints[key])) or 1
        for key, parameter in inspect.signature(GENERATORS[name]).parameters.items()
        if parameter.default is parameter.empty
    }
    # The ends of an interval are its corners.
    return needed | ({"lower": 1, "upper": 1} if "ends" in hints else {})


def arguments_of(name: str, numbers: dict[str, Any]) -> dict[str, Any]:
    """The numbers of [mesh], by key, as the keywords of a generator. Local."""
    counts = numbers_of(name)
    given = {key: value[0] if isinstance(value, list) and counts[key] == 1 else value for key, value in numbers.items()}
    if "ends" in get_type_hints(GENERATORS[name]):
        given["ends"] = (given.pop("lower"), given.pop("upper"))
    return given
