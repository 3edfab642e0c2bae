"""The tables of a job file as models: which keys there are, and what may stand in them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from relax.jobs.toml.base import Count, Counts, Numbers, Positive, Section, Seed, Text, as_list
from relax.jobs.toml.relaxed import DescentSection, LandscapeSection, MisfitSection

Preset: TypeAlias = Literal["direct", "direct_symmetric", "amg_cg", "amg_gmres"]

# Which keys each generator needs, besides `generator` itself.
GENERATORS: dict[str, tuple[str, ...]] = {
    "interval": ("n", "lower", "upper"),
    "unit_square": ("n",),
    "rectangle": ("n", "lower", "upper"),
    "unit_cube": ("n",),
    "disk": ("h",),
}

# Which keys each schedule of [solver] storage needs.
SCHEDULES: dict[str, tuple[str, ...]] = {
    "revolve": ("slots",),
    "multistage": ("slots", "disk_slots"),
    "disk": (),
}

# Steps that a method takes at most, where [method] max_steps does not say.
_MAX_STEPS = {"gauss_newton": 50, "lbfgs": 500}


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
    generator: Literal["interval", "unit_square", "rectangle", "unit_cube", "disk"] | None = None
    n: Annotated[Counts | None, BeforeValidator(as_list)] = None
    lower: Annotated[Numbers | None, BeforeValidator(as_list)] = None
    upper: Annotated[Numbers | None, BeforeValidator(as_list)] = None
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


Keyword: TypeAlias = int | float | bool | str | list[float] | list[str] | dict[str, float | list[float]]


class PdeSection(BaseModel):
    """``name``, and keywords for the function of that name: numbers, words, lists, tables of tag -> number."""

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
    """``points``: how many random ones (with ``seed``), or a CSV file of them; ``steps`` of an equation in time.

    ``steps`` is the number of a step, a list of them, or "all", steps 1 to N; by default the last one. 0 is the initial
    state, -1 the last one, too.
    """

    points: Count | Text
    seed: Seed = 0
    steps: Annotated[list[int] | Literal["all"] | None, BeforeValidator(_as_steps)] = None


class DataSection(Section):
    """Synthetic data from a ``truth`` with ``noise`` and ``seed``, or measured data from a CSV ``file``.

    The truth of a field has a name; that of the numbers of a [misfit] is a list of them. ``noise`` is the standard
    deviation as a fraction of the largest observation in size. A measured file may carry a column ``sigma`` instead.
    """

    truth: Text | Numbers | None = None
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


class TargetSection(Section):
    """Where the wave function is to be after the last step: in one eigenstate, or spread over the lowest ones.

    ``state`` is the number of an eigenstate, 1 the ground state; ``populations`` one number for each of the lowest.
    They are eigenstates of the static ``potential``, by default that of [pde]. The misfit is in units of ``tolerance``.
    """

    state: Count | None = None
    populations: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)] | None = None
    potential: float | None = None
    tolerance: Positive = 0.01

    @model_validator(mode="after")
    def _one_target(self) -> TargetSection:
        if (self.state is None) == (self.populations is None):
            got = "none" if self.state is None else "two"
            raise ValueError(f"expected one target, either `state` or `populations`, got {got}")
        total = 1.0 if self.populations is None else math.fsum(self.populations)
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"populations: expected numbers that add up to 1, got {total:g} in all")
        return self


class StartSection(Section):
    """The first guess of a control in time: where it is zero a population is stationary, and nothing would move.

    ``shape`` over the whole time: "random" numbers with ``seed``, "constant", or "sine" with so many ``periods``; of
    this ``amplitude`` (for random numbers, their standard deviation), by default a tenth of [prior] std.
    """

    amplitude: Positive | None = None
    shape: Literal["random", "constant", "sine"] = "random"
    periods: Positive = 1.0
    seed: Seed = 0


class PriorSection(Section):
    """What is likely before anything is seen: ``std`` and ``mean`` in units of the control.

    A field has the Whittle-Matern prior with this correlation ``length`` in mesh units; the values of a number per step
    are independent, which makes 1/2 sum (E_n - mean)^2 / std^2 their price.
    """

    length: Positive | None = None
    std: Positive = 1.0
    mean: float = 0.0


class MethodSection(Section):
    """How the minimiser is found; ``max_steps`` is 50 for Gauss-Newton and 500 for L-BFGS where it is not given."""

    name: Literal["gauss_newton", "lbfgs"] = "gauss_newton"
    max_steps: Count
    rtol: Annotated[float, Field(gt=0, lt=1)] = 1e-6

    @model_validator(mode="before")
    @classmethod
    def _known_max_steps(cls, data: Any) -> Any:
        if isinstance(data, dict) and "max_steps" not in data:
            data = {**data, "max_steps": _MAX_STEPS.get(str(data.get("name", "gauss_newton")), 1)}
        return data


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

    options: Preset | dict[str, str | int | float | bool] | None = None
    layout: Literal["replicated", "owned"] = "replicated"
    storage: StorageSection | None = None


class OutputSection(Section):
    """``folder`` for the results, relative to the current folder; at most so many ``frames`` of a trajectory."""

    folder: Text
    frames: Count = 50


# Tables that a kind of job has no use for.
_USELESS: dict[str, tuple[str, ...]] = {
    "inverse": ("descent",),
    "control": ("descent",),
    "landscape": ("observe", "data", "start", "prior", "method"),
    "misfit": ("start", "prior", "descent"),
}


class Job(Section):
    """A whole job file, valid in itself; whether its files, tags and names exist is seen when it runs.

    With [data] it is an inverse problem, which recovers a field. With [target] it is a control job, which drives a
    number per step so that the last state is as wanted. With [landscape] it relaxes a function of x. With [data] and
    [misfit] it recovers up to three numbers, by relaxing their misfit.
    """

    mesh: MeshSection
    pde: PdeSection
    observe: ObserveSection | None = None
    data: DataSection | None = None
    target: TargetSection | None = None
    start: StartSection | None = None
    landscape: LandscapeSection | None = None
    descent: DescentSection | None = None
    misfit: MisfitSection | None = None
    prior: PriorSection | None = Field(default=None, validate_default=True)
    method: MethodSection = MethodSection()  # type: ignore[call-arg]
    solver: SolverSection = SolverSection()
    output: OutputSection

    @property
    def kind(self) -> Literal["inverse", "control", "landscape", "misfit"]:
        """What the job is about: the table that makes it so."""
        if self.landscape is not None:
            return "landscape"
        if self.misfit is not None:
            return "misfit"
        return "control" if self.target is not None else "inverse"

    @field_validator("pde")
    @classmethod
    def _no_mesh_keyword(cls, pde: PdeSection) -> PdeSection:
        if "mesh" in pde.keywords:
            raise ValueError("`mesh` is not a keyword of [pde]; the table [mesh] describes it")
        return pde

    @field_validator("prior")
    @classmethod
    def _prior_where_needed(cls, prior: PriorSection | None, info: ValidationInfo) -> PriorSection | None:
        # A table that is wrong itself is not among the values.
        relaxes = any(info.data.get(table, "wrong") is not None for table in ("landscape", "misfit"))
        if prior is None and not relaxes:
            raise PydanticCustomError("missing", "Field required")
        return prior

    @model_validator(mode="after")
    def _one_kind(self) -> Job:
        named = [table for table in ("target", "landscape", "misfit") if getattr(self, table) is not None]
        if len(named) > 1:
            raise ValueError(f"[{named[0]}], [{named[1]}]: expected one of them, each makes a job of its own kind")
        if self.data is None and (not named or self.misfit is not None):
            others = "" if named else "; or [target], for a job that drives a control, or [landscape]"
            raise ValueError(f"[data]: this table is missing{others}")
        if self.data is not None and self.target is not None:
            raise ValueError("[data], [target]: expected one of them: an inverse problem or a control job")
        useless = [table for table in _USELESS[self.kind] if table in self.model_fields_set]
        if useless:
            raise ValueError(f"[{useless[0]}]: {_article(self.kind)} job has no use for this table; remove it")
        if self.data is not None:
            self._check_data(self.data)
        if self.kind == "inverse":
            self._check_inverse()
        elif self.kind == "control":
            self._check_control()
        else:
            self._check_relaxed()
        return self

    def _check_data(self, data: DataSection) -> None:
        if data.truth is not None and self.observe is None:
            raise ValueError("synthetic data need the table [observe] with `points`, a number or a CSV file")
        if data.file is not None and self.observe is not None and isinstance(self.observe.points, int):
            raise ValueError(
                "[observe] points: random points have no measured values; name a CSV file of points, or remove "
                "[observe] when [data] file has the coordinates"
            )
        dim = None if self.misfit is None else len(self.misfit.box)
        if isinstance(data.truth, str) and dim is not None:
            raise ValueError(f"[data] truth: expected {dim} number(s), one for each of the box, got {data.truth!r}")
        if isinstance(data.truth, list) and len(data.truth) != dim:
            wanted = "the name of a field" if dim is None else f"{dim} number(s), one for each of the box"
            raise ValueError(f"[data] truth: expected {wanted}, got {data.truth}")

    def _check_inverse(self) -> None:
        if self.start is not None:
            raise ValueError("[start]: an inverse problem starts from [prior] mean; this table is for a [target]")
        if self.prior is not None and self.prior.length is None:
            raise ValueError("[prior] length: this key is missing: the correlation length of the field to recover")

    def _check_control(self) -> None:
        if self.observe is not None:
            raise ValueError("[observe]: a job with a [target] looks at the last state alone; remove this table")
        if self.prior is not None and self.prior.length is not None:
            raise ValueError("[prior] length: the numbers of a control in time are independent; remove this key")

    def _check_relaxed(self) -> None:
        if self.solver.layout == "owned":
            raise ValueError(
                f"[solver] layout: {_article(self.kind)} job has no control to distribute; remove this key"
            )
        if self.landscape is not None and self.solver.storage is not None:
            raise ValueError("[solver] storage: a landscape job looks at each state as it comes; remove this key")
        if self.misfit is not None and self.method.name != "gauss_newton":
            raise ValueError("[method] name: a misfit job ends with 'gauss_newton'; remove this key")


def _article(kind: str) -> str:
    return f"an {kind}" if kind == "inverse" else f"a {kind}"
