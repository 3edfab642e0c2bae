"""Job files: TOML into pydantic models, and messages that name the mistake and the nearest right spelling.

Nothing here knows a mesh or a solver; :mod:`relax.case` turns a :class:`Job` into those.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from relax.errors import BadInput

Positive: TypeAlias = Annotated[float, Field(gt=0)]
Seed: TypeAlias = Annotated[int, Field(ge=0)]
Text: TypeAlias = Annotated[str, Field(min_length=1)]
Numbers: TypeAlias = Annotated[list[float], Field(min_length=1, max_length=3)]
Counts: TypeAlias = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=3)]

Preset: TypeAlias = Literal["direct", "direct_symmetric", "amg_cg", "amg_gmres"]

# Which keys each generator needs, besides `generator` itself.
GENERATORS: dict[str, tuple[str, ...]] = {
    "interval": ("n", "lower", "upper"),
    "unit_square": ("n",),
    "rectangle": ("n", "lower", "upper"),
    "unit_cube": ("n",),
    "disk": ("h",),
}


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


class Section(BaseModel):
    """A table of the job file: immutable, no unknown keys, no silent conversions, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class MeshSection(Section):
    """``file`` (with ``h``, the cell size, for a .geo), or ``generator`` with the numbers that it takes."""

    file: Text | None = None
    generator: Literal["interval", "unit_square", "rectangle", "unit_cube", "disk"] | None = None
    n: Annotated[Counts | None, BeforeValidator(_as_list)] = None
    lower: Annotated[Numbers | None, BeforeValidator(_as_list)] = None
    upper: Annotated[Numbers | None, BeforeValidator(_as_list)] = None
    h: Positive | None = None

    @model_validator(mode="after")
    def _one_mesh(self) -> MeshSection:
        given = {key for key in ("n", "lower", "upper", "h") if getattr(self, key) is not None}
        if (self.file is None) == (self.generator is None):
            got = "none" if self.file is None else "two"
            raise ValueError(f"expected one mesh, either `file` or `generator`, got {got}")
        if self.file is not None:
            allowed = {"h"} if self.file.endswith(".geo") else set()
            if given - allowed:
                raise ValueError(f"with `file = {self.file!r}`, remove {', '.join(sorted(given - allowed))}")
            return self
        needed = set(GENERATORS[str(self.generator)])
        if given != needed:
            got = ", ".join(sorted(given)) or "none of them"
            raise ValueError(f"generator = {self.generator!r} takes {', '.join(sorted(needed))}; got {got}")
        dim = 2 if self.generator == "rectangle" else 1
        for key in ("n", "lower", "upper"):
            value = getattr(self, key)
            if value is not None and len(value) != dim:
                raise ValueError(f"{key}: generator = {self.generator!r} takes {dim} number(s), got {len(value)}")
        return self


Keyword: TypeAlias = int | float | bool | list[float] | dict[str, float | list[float]]


class PdeSection(BaseModel):
    """``name``, and keywords for the function of that name: numbers, lists of numbers, tables of tag -> number."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Keyword] = Field(init=False)

    name: Text

    @property
    def keywords(self) -> dict[str, Any]:
        """What goes to the function. A tag written in digits is a number, any other is a name."""
        return {key: _with_tags(value) for key, value in (self.model_extra or {}).items()}


def _with_tags(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {int(tag) if tag.isdecimal() else tag: number for tag, number in value.items()}


class ObserveSection(Section):
    """``points``: how many random ones (with ``seed``), or a CSV file of them."""

    points: Annotated[int, Field(ge=1)] | Text
    seed: Seed = 0


class DataSection(Section):
    """Synthetic data from a named ``truth`` with ``noise`` and ``seed``, or measured data from a CSV ``file``.

    ``noise`` is the standard deviation as a fraction of the largest observation in size. A measured file may carry a
    column ``sigma`` instead.
    """

    truth: Text | None = None
    file: Text | None = None
    noise: Positive | None = None
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _file_as_truth(cls, data: Any) -> Any:
        if isinstance(data, dict) and str(data.get("truth", "")).endswith(".csv") and "file" not in data:
            data = {**data, "file": data["truth"]}
            del data["truth"]
        return data

    @model_validator(mode="after")
    def _one_source(self) -> DataSection:
        if (self.truth is None) == (self.file is None):
            got = "none" if self.truth is None else "two"
            raise ValueError(f"expected one source of data, either `truth` or `file`, got {got}")
        if self.truth is not None and self.noise is None:
            raise ValueError("synthetic data need `noise`, a fraction of the largest observation, such as 0.01")
        return self


class PriorSection(Section):
    """The Whittle-Matern prior: correlation ``length`` in mesh units; ``std`` and ``mean`` in units of the control."""

    length: Positive
    std: Positive = 1.0
    mean: float = 0.0


class MethodSection(Section):
    """How the minimiser is found."""

    name: Literal["gauss_newton"] = "gauss_newton"
    max_steps: Annotated[int, Field(ge=1)] = 50
    rtol: Annotated[float, Field(gt=0, lt=1)] = 1e-6


class SolverSection(Section):
    """PETSc options of the forward solves, by preset or in full, and how control vectors lie on the ranks."""

    options: Preset | dict[str, str | int | float | bool] | None = None
    layout: Literal["replicated", "owned"] = "replicated"


class OutputSection(Section):
    """``folder`` for the results, relative to the current folder."""

    folder: Text


class Job(Section):
    """A whole job file, valid in itself; whether its files, tags and names exist is seen when it runs."""

    mesh: MeshSection
    pde: PdeSection
    observe: ObserveSection | None = None
    data: DataSection
    prior: PriorSection
    method: MethodSection = MethodSection()
    solver: SolverSection = SolverSection()
    output: OutputSection

    @field_validator("pde")
    @classmethod
    def _no_mesh_keyword(cls, pde: PdeSection) -> PdeSection:
        if "mesh" in pde.keywords:
            raise ValueError("`mesh` is not a keyword of [pde]; the table [mesh] describes it")
        return pde

    @model_validator(mode="after")
    def _points_and_data(self) -> Job:
        if self.data.truth is not None and self.observe is None:
            raise ValueError("synthetic data need the table [observe] with `points`, a number or a CSV file")
        if self.data.file is not None and self.observe is not None and isinstance(self.observe.points, int):
            raise ValueError(
                "[observe] points: random points have no measured values; name a CSV file of points, or remove "
                "[observe] when [data] file has the coordinates"
            )
        return self


def project_root(job_file: Path) -> Path:
    """The folder that relative paths in a job start from.

    It is the nearest folder, from the job file's own upwards, that holds a ``pyproject.toml`` or a ``.git``; where
    there is none, the job file's own folder.
    """
    folder = job_file.resolve().parent
    for candidate in (folder, *folder.parents):
        if (candidate / "pyproject.toml").exists() or (candidate / ".git").exists():
            return candidate
    return folder


def parse(text: str, source: str = "job") -> Job:
    """A job from the text of a TOML file.

    Args:
        text: the file's content.
        source: its name, for messages.

    Raises:
        BadInput: with one line per mistake: the table and key, what was expected, what was found.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{source}: this is not TOML: {error}") from None
    try:
        return Job.model_validate(raw)
    except ValidationError as error:
        lines = _sentences(error.errors())
        count = f"{len(lines)} mistakes" if len(lines) > 1 else "a mistake"
        raise BadInput(f"{source}: {count} in this job file\n" + "\n".join(f"  {line}" for line in lines)) from None


@dataclass(frozen=True)
class JobFile:
    """A job as it was read: the settings, the file's text, and the folder that its relative paths start from."""

    job: Job
    text: str
    path: Path
    root: Path


def read(path: Path) -> JobFile:
    """The job in a file.

    Raises:
        BadInput: when there is no such file, it cannot be read, or it is not a valid job.
    """
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.toml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else f"; looked in {path.resolve().parent}"
        raise BadInput(f"{path}: there is no such job file{hint}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: expected a readable TOML file: {error}") from None
    return JobFile(parse(text, str(path)), text, path.resolve(), project_root(path))


# -- from pydantic's errors to sentences -------------------------------------------------------------------------------

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


def _model_at(location: tuple[Any, ...]) -> type[BaseModel]:
    """The model whose keys were looked at: Job, or that of a table of it."""
    if not location:
        return Job
    kinds: dict[str, type[BaseModel]] = {
        "mesh": MeshSection, "pde": PdeSection, "observe": ObserveSection, "data": DataSection, "prior": PriorSection,
        "method": MethodSection, "solver": SolverSection, "output": OutputSection,
    }  # fmt: skip
    return kinds.get(str(location[0]), Job)


def nearest(word: str, known: list[str]) -> str:
    """``"; did you mean 'x'?"`` followed by what there is, for the end of a message about an unknown name."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    ask = f"; did you mean {near[0]!r}?" if near else ""
    return f"{ask} (there is: {', '.join(known)})"


def _place(location: tuple[Any, ...]) -> str:
    table, keys = location[0], [str(k) for k in location[1:]]
    # Pydantic appends the branch of a union ("int", "list[float]") to the keys; the reader wrote only the key itself.
    return f"[{table}] {keys[0]}" if keys else f"[{table}]"


def _sentences(errors: list[Any]) -> list[str]:
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
                kinds = "a number, a list of numbers, or a table of tag = number"
            lines.append(f"{place}: expected {kinds}, got {telling[0]['input']!r}")
        else:
            lines.append(_sentence(place, telling[0]))
    return lines


def _sentence(place: str, error: Any) -> str:
    kind, location, value, context = error["type"], tuple(error["loc"]), error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        *outer, key = location
        known = list(_model_at(tuple(outer)).model_fields)
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
