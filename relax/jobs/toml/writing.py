"""Tables as TOML, which Python reads and does not write. Of what job files hold: no dates."""

from __future__ import annotations

import json
import re
from typing import Any


def written(tables: dict[str, Any]) -> str:
    """The text of a file: keys, then tables, one a paragraph, with those in them on one line. It reads as it was."""
    paragraphs = ["".join(f"{_key(key)} = {literal(value)}\n" for key, value in _of_kind(tables, False).items())]
    for name, table in _of_kind(tables, True).items():
        lines = "".join(f"{_key(key)} = {literal(value)}\n" for key, value in table.items())
        paragraphs.append(f"[{_key(name)}]\n{lines}")
    return "\n".join(filter(None, paragraphs))


def literal(value: Any) -> str:
    """A value as TOML has it, on one line."""
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {literal(entry)}" for key, entry in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, str):
        # The escapes of JSON are TOML's; DEL needs one in TOML only.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else literal(key)


def _of_kind(tables: dict[str, Any], is_table: bool) -> dict[str, Any]:
    return {key: value for key, value in tables.items() if isinstance(value, dict) is is_table}
