"""Keys of a job that the command line sets: ``--set prior.length=0.3``."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from relax.errors import BadInput

# What a TOML value begins with that is no bare word, whatever is wrong with it further on.
_OPENING = ("'", '"', "[", "{")


def changed(tables: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The tables of a job with other values of some keys. Whether they are keys of a job is seen later. Local.

    Args:
        tables: of the file.
        settings: each ``table.key=value``, with more dots where there is a table in the table. Key and value are those
            of TOML; a word that is no value of TOML is a string.

    Raises:
        BadInput: naming the setting, for one without key or value, one that is there twice, and one that reaches into
            what is no table.
    """
    result = deepcopy(tables)
    seen: set[tuple[str, ...]] = set()
    for setting in settings:
        keys, value = _split(setting)
        if keys in seen:
            raise BadInput(f"--set {setting}: {'.'.join(keys)} is there twice; expected each key once")
        seen.add(keys)
        table = result
        for i, key in enumerate(keys[:-1], start=1):
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise BadInput(f"--set {setting}: {'.'.join(keys[:i])} is no table in this job, it is {table!r}")
        table[keys[-1]] = value
    return result


def _split(setting: str) -> tuple[tuple[str, ...], Any]:
    """The keys along the way, and the value."""
    key, _, value = (part.strip() for part in setting.partition("="))
    keys = _keys(key)
    if not keys or not value:
        raise BadInput(
            f"--set {setting}: expected a table, a key and a value, such as --set prior.length=0.3 or "
            "--set pde.dirichlet.left=1.0"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadInput(f"--set {key}: expected a value in UTF-8, got {value!a}") from None
    return keys, _value(setting, value)


def _keys(key: str) -> tuple[str, ...]:
    """A dotted key of TOML in its parts; none where it is none."""
    try:
        node = tomllib.loads(f"{key} = 0")
    except (ValueError, RecursionError):
        return ()
    keys: list[str] = []
    while isinstance(node, dict):
        # A line break in it would make several.
        if len(node) != 1:
            return ()
        ((part, node),) = node.items()
        keys.append(part)
    return tuple(keys) if node == 0 and len(keys) > 1 else ()


def _value(setting: str, text: str) -> Any:
    """A value of TOML, or a bare word."""
    try:
        # In a list, so that a comment or a line break is not taken for the end of the value.
        read = tomllib.loads(f"v = [{text}, 0]")
    except (ValueError, RecursionError):
        read = {}
    if list(read) == ["v"] and len(read["v"]) == 2:
        return read["v"][0]
    if text.startswith(_OPENING):
        raise BadInput(f"--set {setting}: {text} is no value of TOML, and no bare word")
    return text
