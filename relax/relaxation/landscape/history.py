"""Fields u(., t) at a few times, and what is between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from dolfinx import fem
from dolfinx.mesh import Mesh

from relax.base import parallel
from relax.base.checkpoint import Checkpoint
from relax.base.checks import at_least
from relax.base.fem.coefficients import Coefficient
from relax.base.types import Array
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput
from relax.observe import FieldValues
from relax.pdes.hamilton_jacobi import viscous_evolution
from relax.problem.evolution import Evolution

# Neighbouring stored times that an interpolation takes: a cubic.
_STENCIL = 4
# Where the first interval is cut: what is rough in f changes the faster, the younger it is.
_CUTS = (1.0 / 64.0, 1.0 / 16.0, 1.0 / 4.0)


@dataclass(frozen=True)
class History:
    """u at stored times.

    Attributes:
        space: of u.
        times: increasing, the first 0: those asked for, and the cuts of the first interval.
        fields: local values with ghosts for each, (num_local,).
        routes: "direct" or "cole_hopf" for each interval that was asked for.
    """

    space: fem.FunctionSpace
    times: Array
    fields: list[Array]
    routes: tuple[str, ...]


def interpolation_weights(times: Array, t: float) -> dict[int, float]:
    """u(., t) as a combination of stored fields, {number: weight}, the weights summing to 1. Local.

    A stored time by itself; a line between 0 and the first time; else a cubic in t^½ of the four nearest times. In t^½,
    the length over which u changes: what is linear in t is exact, and geometric times stay well apart.

    Raises:
        BadInput: for t outside the stored times.
    """
    last = times[-1]
    slack = 1e-12 * last
    if not -slack <= t <= last + slack:
        raise BadInput(f"t: expected a time between 0 and {last:g}, the last of `times`, got {t!r}")
    nearest = int(np.argmin(np.abs(times - t)))
    if abs(times[nearest] - t) <= slack:
        return {nearest: 1.0}
    if t < times[1]:
        return {0: 1.0 - t / times[1], 1: t / times[1]}
    above = int(np.searchsorted(times, t))
    first = min(max(1, above - _STENCIL // 2), max(1, len(times) - _STENCIL))
    stencil = range(first, min(first + _STENCIL, len(times)))
    s = {i: np.sqrt(times[i]) - np.sqrt(t) for i in stencil}
    return {i: float(np.prod([s[j] / (s[j] - s[i]) for j in stencil if j != i])) for i in stencil}


def checked_times(times: npt.ArrayLike) -> Array:
    """Increasing times that begin with 0, which is added where it is missing.

    Raises:
        BadInput: unless there is at least one above 0, and all are finite and different.
    """
    rising = np.sort(np.asarray(times, dtype=np.float64).reshape(-1))
    if len(rising) == 0 or not np.isfinite(rising).all() or rising[0] < 0.0 or (np.diff(rising) == 0.0).any():
        raise BadInput(f"times: expected different finite times of at least 0, got {times!r}")
    rising = rising if rising[0] == 0.0 else np.concatenate([[0.0], rising])
    if len(rising) < 2:
        raise BadInput("times: expected at least one time above 0")
    return rising


def relaxed(
    mesh: Mesh, f: Coefficient, *, beta: float, times: Array, num_steps: int | Sequence[int], degree: int,
    checkpoint: Checkpoint | None = None, **how: Any,
) -> History:  # fmt: skip
    """Solve from each time to the next, each interval with steps of its own from the last field. Collective.

    The first interval is cut at 1/64, 1/16 and 1/4 of its length, and each part takes its number of steps. Where
    ``theta`` is None the first part is solved by backward Euler, which damps what Crank–Nicolson would carry along.

    Args:
        mesh: the mesh.
        f: u at time 0.
        beta: inverse temperature.
        times: as :func:`checked_times` gives them.
        num_steps: in each interval, or one number for each.
        degree: of u.
        checkpoint: where the fields are kept, after each interval, and gone on from.
        how: further arguments of ``viscous_evolution``.
    """
    intervals = len(times) - 1
    given: list[int] = [num_steps] * intervals if np.ndim(num_steps) == 0 else list(num_steps)  # type: ignore
    if len(given) != intervals:
        raise BadInput(f"num_steps: expected a number, or one for each of {intervals} intervals, got {num_steps!r}")
    counts = [at_least(count, 1, "num_steps") for count in given]
    cut = np.concatenate([[0.0], [part * times[1] for part in _CUTS], times[1:]])
    start: Coefficient = f
    u: fem.Function | None = None
    fields: list[Array] = []
    routes = []
    runs = _Runs()
    try:
        for n, (length, count) in enumerate(zip(np.diff(cut), [counts[0]] * len(_CUTS) + counts, strict=True)):
            here = how if u is not None or how.get("theta") is not None else {**how, "theta": 1.0}
            evolution = viscous_evolution(
                mesh, start, beta=beta, t=float(length), num_steps=count, degree=degree, **here
            )
            if u is None:
                u = fem.Function(evolution.state.function_space, name="u")
                u.interpolate(evolution.initial_state)
                fields.append(u.x.array.copy())
                if checkpoint is not None:
                    checkpoint.add(landscape=_Kept(u, fields))
                    checkpoint.restore()
            routes.append("direct" if evolution.substitution is None else "cole_hopf")
            start = u
            if n + 1 < len(fields):
                u.x.array[:] = fields[n + 1]
                continue
            runs.follow(evolution, u)
            fields.append(u.x.array.copy())
            if checkpoint is not None:
                checkpoint.save(n + 1)
    finally:
        runs.close()
    assert u is not None
    return History(u.function_space, cut, fields, tuple(routes[len(_CUTS) :]))


class _Kept:
    """The fields that there are, as a checkpoint keeps them. Collective, as are the methods."""

    def __init__(self, u: fem.Function, fields: list[Array]) -> None:
        self._u = u
        self._fields = fields

    def state_dict(self) -> dict[str, Any]:
        stored = []
        for values in self._fields:
            field = fem.Function(self._u.function_space)
            field.x.array[:] = values
            stored.append(field)
        return {"fields": stored}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        first, *others = state["fields"]
        field = fem.Function(self._u.function_space)
        first.into(field)
        if parallel.any_rank(self._u.function_space.mesh.comm, not np.allclose(field.x.array, self._fields[0])):
            raise BadInput("f: is not that of the landscape that the checkpoint is of; give each its own folder")
        for other in others:
            other.into(field)
            self._fields.append(field.x.array.copy())


class _Runs:
    """Runs of evolutions one after the other, of which most are the same equation with another length of steps.

    Such a one is solved by the map that solved the one before, with the constants of the new one: what takes time on a
    small mesh is to make a map. Collective, as are all methods.
    """

    def __init__(self) -> None:
        self._map: ReducedMap | None = None
        self._kind: tuple[Any, ...] = ()

    def follow(self, evolution: Evolution, u: fem.Function) -> None:
        """Run an evolution from u; u is then its last state."""
        form = evolution.plain_step.residual
        kind = (form.signature(), evolution.num_steps, type(evolution.substitution))
        if self._map is None or kind != self._kind:
            self.close()
            self._map = ReducedMap(evolution, FieldValues(evolution.state.function_space), layout="owned")
            self._kind = kind
        G = self._map
        assert isinstance(G.problem, Evolution)
        for mine, theirs in zip(G.problem.plain_step.residual.constants(), form.constants(), strict=True):
            mine.value[...] = theirs.value
        G.problem.initial_state.interpolate(u)
        for _ in G.trajectory(G.present_control()):
            pass
        u.interpolate(G.problem.state)
        u.x.scatter_forward()

    def close(self) -> None:
        """Free the map."""
        if self._map is not None:
            self._map.close()
        self._map = None
