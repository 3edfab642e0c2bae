"""From pydantic's errors to sentences that name the place, the mistake and the nearest right spelling."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, get_args

from pydantic import BaseModel

from relax.base.checks import nearest

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


def known(name: str, names: Collection[str]) -> str:
    """The name.

    Raises:
        ValueError: where it is none of these.
    """
    if name not in names:
        raise ValueError(f"unknown name {name!r}{nearest(name, names)}")
    return name


def sentences(errors: list[Any], model: type[BaseModel], tables: Collection[str]) -> list[str]:
    """One line per place. Where a key may be of several kinds, pydantic reports each one that failed.

    Args:
        errors: pydantic's.
        model: of the job.
        tables: those of all kinds of jobs.
    """
    by_place: dict[str, list[Any]] = {}
    for error in errors:
        place = _place(model, tuple(error["loc"])) if error["loc"] else ""
        by_place.setdefault(place, []).append(error)
    lines = []
    for place, at_place in by_place.items():
        telling = [e for e in at_place if e["type"] not in _EXPECTED] or at_place
        if telling[0]["type"] in _EXPECTED:
            kinds = " or ".join(dict.fromkeys(_EXPECTED[e["type"]] for e in telling))
            if place.startswith("[pde] ") and len(telling) > 1:
                kinds = "a number, a word, a list of them, or a table of tag = number"
            lines.append(f"{place}: expected {kinds}, got {telling[0]['input']!r}")
        else:
            lines.append(_sentence(place, telling[0], model, tables))
    return lines


def article(kind: str) -> str:
    """With "a" or "an" before it."""
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def unknown_table(name: str, tables: Collection[str]) -> str:
    """The answer to a table that no job has."""
    return f"[{name}]: unknown table{nearest(name, tables)}"


def _models(model: type[BaseModel], location: tuple[Any, ...]) -> list[type[BaseModel]]:
    """The models along a location: the job, its table, and a table in that, for as far as there are models."""
    along = [model]
    for key in location:
        field = along[-1].model_fields.get(str(key))
        types = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = [kind for kind in types if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            break
        along.append(inner[0])
    return along


def _place(model: type[BaseModel], location: tuple[Any, ...]) -> str:
    # Pydantic appends the branch of a union ("int", "list[float]") to the keys; the reader wrote only the keys.
    table, *keys = (str(k) for k in location[: len(_models(model, location))])
    return f"[{table}] {'.'.join(keys)}" if keys else f"[{table}]"


def _sentence(place: str, error: Any, model: type[BaseModel], tables: Collection[str]) -> str:
    kind, location, value, context = error["type"], tuple(error["loc"]), error["input"], error.get("ctx", {})
    if location:
        *outer, key = location
        reasons = getattr(_models(model, tuple(outer))[-1], "useless", {})
        if key in reasons and kind in ("extra_forbidden", "literal_error"):
            return f"{place}: {reasons[key]}"
    if kind == "extra_forbidden":
        if outer:
            return f"{place}: unknown key" + nearest(str(key), list(_models(model, tuple(outer))[-1].model_fields))
        if key in tables:
            return f"{place}: {article(getattr(model, 'kind', 'job'))} job has no use for this table; remove it"
        return unknown_table(str(key), tables)
    if kind == "missing":
        field = _models(model, tuple(outer))[-1].model_fields[str(key)]
        meaning = f": {field.description}" if field.description else ""
        return f"{place}: this {'key' if outer else 'table'} is missing{meaning}"
    if kind == "value_error":
        return f"{place}: {context['error']}" if place else str(context["error"])
    if kind == "literal_error":
        names = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        return f"{place}: unknown name {value!r}{nearest(str(value), names)}"
    signs = {"greater_than": "gt >", "greater_than_equal": "ge >=", "less_than": "lt <", "less_than_equal": "le <="}
    if kind in signs:
        key, sign = signs[kind].split()
        return f"{place}: expected a number {sign} {context[key]:g}, got {value!r}"
    return f"{place}: {error['msg']}, got {value!r}"
