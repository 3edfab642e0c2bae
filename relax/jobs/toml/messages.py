"""From pydantic's errors to sentences that name the place, the mistake and the nearest right spelling."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel

from relax.jobs.toml.sections import Job

_EXPECTED = {
    "string_type": "a string",
    "string_too_short": "a string that is not empty",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a number or a list of numbers",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


def nearest(word: str, known: list[str]) -> str:
    """``"; did you mean 'x'?"`` followed by what there is, for the end of a message about an unknown name."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    ask = f"; did you mean {near[0]!r}?" if near else ""
    return f"{ask} (there is: {', '.join(known)})"


def sentences(errors: list[Any]) -> list[str]:
    """One line per place. Where a key may be of several kinds, pydantic reports each one that failed."""
    by_place: dict[str, list[Any]] = {}
    for error in errors:
        place = _place(tuple(error["loc"])) if error["loc"] else ""
        by_place.setdefault(place, []).append(error)
    lines = []
    for place, found in by_place.items():
        telling = [e for e in found if e["type"] not in _EXPECTED] or found
        if telling[0]["type"] in _EXPECTED:
            kinds = " or ".join(dict.fromkeys(_EXPECTED[e["type"]] for e in telling))
            if place.startswith("[pde] ") and len(telling) > 1:
                kinds = "a number, a word, a list of them, or a table of tag = number"
            lines.append(f"{place}: expected {kinds}, got {telling[0]['input']!r}")
        else:
            lines.append(_sentence(place, telling[0]))
    return lines


def _models(location: tuple[Any, ...]) -> list[type[BaseModel]]:
    """The models along a location: Job, its table, and a table in that, for as far as there are models."""
    found: list[type[BaseModel]] = [Job]
    for key in location:
        field = found[-1].model_fields.get(str(key))
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            break
        found.append(inner[0])
    return found


def _place(location: tuple[Any, ...]) -> str:
    # Pydantic appends the branch of a union ("int", "list[float]") to the keys; the reader wrote only the keys.
    table, *keys = (str(k) for k in location[: len(_models(location))])
    return f"[{table}] {'.'.join(keys)}" if keys else f"[{table}]"


def _sentence(place: str, error: Any) -> str:
    kind, location, value, context = error["type"], tuple(error["loc"]), error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        *outer, key = location
        known = list(_models(tuple(outer))[-1].model_fields)
        what = "key" if outer else "table"
        return f"{place}: unknown {what}" + nearest(str(key), known)
    if kind == "missing":
        return f"{place}: this {'table' if len(location) == 1 else 'key'} is missing"
    if kind == "value_error":
        return f"{place}: {context['error']}" if place else str(context["error"])
    if kind == "literal_error":
        known = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        return f"{place}: unknown name {value!r}{nearest(str(value), known)}"
    signs = {"greater_than": "gt >", "greater_than_equal": "ge >=", "less_than": "lt <", "less_than_equal": "le <="}
    if kind in signs:
        key, sign = signs[kind].split()
        return f"{place}: expected a number {sign} {context[key]:g}, got {value!r}"
    return f"{place}: {error['msg']}, got {value!r}"
