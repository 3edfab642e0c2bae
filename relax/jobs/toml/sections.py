"""The tables of a job file as models: which keys there are, and what may stand in them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from relax.invert.table import METHODS
from relax.jobs.toml.base import Count, Counts, Numbers, Positive, Section, Seed, Text, as_list
from relax.jobs.toml.messages import known

Preset: TypeAlias = Literal["direct", "direct_symmetric", "amg_cg", "amg_gmres"]
Options: TypeAlias = Preset | dict[str, str | int | float | bool] | None

# Which keys each schedule of [solver] storage needs.
SCHEDULES: dict[str, tuple[str, ...]] = {
    "revolve": ("slots",),
    "multistage": ("slots", "disk_slots"),
    "disk": (),
}


def _as_steps(value: Any) -> Any:
    if value == "all":
        return value
    steps = as_list(value)
    whole = isinstance(steps, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in steps)
    if not whole or not steps:
        raise ValueError(f'expected the number of a step, a list of them, or "all", got {value!r}')
    return steps


class MeshSection(Section):
    """``file`` (with ``h``, the cell size, for a .geo), or ``generator`` with the numbers that it takes."""

    file: Text | None = None
    generator: Text | None = None
    n: Annotated[Counts | None, BeforeValidator(as_list)] = None
    lower: Annotated[Numbers | None, BeforeValidator(as_list)] = None
    upper: Annotated[Numbers | None, BeforeValidator(as_list)] = None
    h: Positive | None = None

    @field_validator("generator")
    @classmethod
    def _known_generator(cls, name: str | None) -> str | None:
        from relax.jobs.setting.generators import GENERATORS

        return None if name is None else known(name, GENERATORS)

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
        from relax.jobs.setting.generators import numbers_of

        takes = numbers_of(str(self.generator))
        if given != set(takes):
            got = ", ".join(sorted(given)) or "none of them"
            raise ValueError(f"generator = {self.generator!r} takes {', '.join(sorted(takes))}; got {got}")
        for key, num in takes.items():
            value = getattr(self, key)
            if isinstance(value, list) and len(value) != num:
                raise ValueError(f"{key}: generator = {self.generator!r} takes {num} number(s), got {len(value)}")
        return self


Keyword: TypeAlias = int | float | bool | str | list[float] | list[str] | dict[str, float | list[float]]


class PdeSection(BaseModel):
    """``name``, and keywords for the function of that name: numbers, words, lists, tables of tag -> number."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)
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
    """``points``: how many random ones (with ``seed``), or a CSV file of them; ``steps`` of an equation in time.

    ``steps`` is the number of a step, a list of them, or "all", steps 1 to N; by default the last one. 0 is the initial
    state, -1 the last one, too.
    """

    points: Annotated[int, Field(ge=1, le=10**7)] | Text
    seed: Seed = 0
    steps: Annotated[list[int] | Literal["all"] | None, BeforeValidator(_as_steps)] = None


class DataSection(Section):
    """Synthetic data from a ``truth`` with ``noise`` and ``seed``, or measured data from a CSV ``file``.

    The truth of a field has a name; that of the numbers of a [misfit] is a list of them. ``noise`` is the standard
    deviation as a fraction of the largest observation in size. A measured file may carry a column ``sigma`` instead.
    """

    truth: Text | Numbers | None = None
    file: Text | None = None
    noise: Annotated[float, Field(ge=1e-12)] | None = None
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
    """What is likely before anything is seen: ``std`` and ``mean`` in units of the control."""

    std: Positive = 1.0
    mean: float = 0.0


class MethodSection(Section):
    """How the minimiser is found; where ``max_steps`` is not given, each method has its own.

    ``rtol`` and ``atol`` are those of ``relax.gauss_newton``.
    """

    name: Annotated[str, AfterValidator(lambda name: known(name, METHODS))] = "gauss_newton"
    max_steps: Count
    rtol: Annotated[float, Field(gt=0, lt=1)] = 1e-8
    atol: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_max_steps(cls, table: Any) -> Any:
        if isinstance(table, dict) and "max_steps" not in table:
            method = METHODS.get(str(table.get("name", "gauss_newton")))
            table = {**table, "max_steps": method.max_steps if method else 1}
        return table


class StorageSection(Section):
    """How the states of a trajectory are kept for its adjoint, where not all of them fit into memory.

    "revolve" keeps ``slots`` states in memory and computes the others again; "multistage" keeps ``disk_slots`` more on
    disk; "disk" keeps all on disk, in ``TMPDIR``.
    """

    schedule: Literal["revolve", "multistage", "disk"]
    slots: Count | None = None
    disk_slots: Count | None = None

    @model_validator(mode="after")
    def _what_it_takes(self) -> StorageSection:
        needed = SCHEDULES[self.schedule]
        given = [key for key in ("slots", "disk_slots") if getattr(self, key) is not None]
        if set(given) != set(needed):
            takes, got = (", ".join(keys) or "nothing else" for keys in (needed, given))
            raise ValueError(f"schedule = {self.schedule!r} takes {takes}; got {got}")
        return self


class SolverSection(Section):
    """PETSc options of the forward solves, how control vectors lie on the ranks, how trajectories are stored."""

    options: Options = None
    layout: Literal["replicated", "owned"] = "replicated"
    storage: StorageSection | None = None


class OutputSection(Section):
    """``folder`` for the results, relative to the current folder; at most so many ``frames`` of a trajectory."""

    folder: Text
    frames: Count = 50


class Job(Section):
    """What every job file has. A kind of job adds tables; whether files, tags and names exist is seen when it runs."""

    #: The key of this model in ``relax.jobs.kinds.KINDS``.
    kind: ClassVar[str]
    #: Tables that may be others where a run of the job is gone on with.
    changeable: ClassVar[tuple[str, ...]] = ()

    mesh: MeshSection
    pde: PdeSection
    output: OutputSection

    @field_validator("pde")
    @classmethod
    def _no_mesh_keyword(cls, pde: PdeSection) -> PdeSection:
        if "mesh" in pde.keywords:
            raise ValueError("`mesh` is not a keyword of [pde]; the table [mesh] describes it")
        return pde


class MeasuredJob(Job):
    """A job with data: what is seen of the state at points, made from a truth or measured."""

    observe: ObserveSection | None = None
    data: DataSection

    @model_validator(mode="after")
    def _points_have_values(self) -> MeasuredJob:
        if self.data.truth is not None and self.observe is None:
            raise ValueError("synthetic data need the table [observe] with `points`, a number or a CSV file")
        if self.data.file is not None and self.observe is not None and isinstance(self.observe.points, int):
            raise ValueError(
                "[observe] points: random points have no measured values; name a CSV file of points, or remove "
                "[observe] when [data] file has the coordinates"
            )
        return self
