"""What the tables of a job file are made of."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError(f"expected text without NUL characters, which no file's name has, got {text!r}")
    return text


Positive: TypeAlias = Annotated[float, Field(gt=0)]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Seed: TypeAlias = Annotated[int, Field(ge=0)]
Text: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(_without_nul)]
Numbers: TypeAlias = Annotated[list[float], Field(min_length=1, max_length=3)]
Counts: TypeAlias = Annotated[list[Count], Field(min_length=1, max_length=3)]


class Section(BaseModel):
    """A table of the job file: immutable, no unknown keys, no silent conversions, no NaN.

    Pydantic builds a job's validators when the first file is read: once, not for each table and base class again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)
    #: Keys that other jobs have and this one has no use for, with the reason: what the answer is to one of them.
    useless: ClassVar[dict[str, str]] = {}


def as_list(value: Any) -> Any:
    """A number as a list of one; anything else as it is."""
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


Times: TypeAlias = Annotated[list[Positive], Field(min_length=1), BeforeValidator(as_list)]
Points: TypeAlias = Annotated[list[Numbers], Field(min_length=1)]
