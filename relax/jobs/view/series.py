"""A trajectory as it is written: ``states.bp``, and pictures of some of its frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dolfinx import fem

from relax.base.checkpoint import Checkpoint
from relax.base.types import Array
from relax.engine.reduced import ReducedMap
from relax.jobs.view import pictures
from relax.jobs.view.fields import scalar_of
from relax.jobs.view.paraview import TrajectoryFile
from relax.problem.evolution import Evolution

# On a line a frame is cheap, and many of them make a picture over time.
_MOST_PICTURES = 400
_MOST_VALUES = 4_000_000


@dataclass(frozen=True)
class Frame:
    """The state at one step, as it is drawn.

    Attributes:
        step: n of u_n.
        time: of u_n, or n where the evolution does not know the length of its steps.
        picture: of the state, its density or its magnitude.
    """

    step: int
    time: float
    picture: pictures.Picture


@dataclass(frozen=True)
class Series:
    """What is kept of a trajectory.

    Attributes:
        label: what is drawn, such as "u", "|u|" or "density".
        unit: of the time axis: "t", or "step" where the length of a step is not known.
        frames: on rank 0 those that are drawn, in the order of steps; None on the others.
        written: the steps in ``states.bp``, some of those drawn.
        watched: (num_steps + 1, size) what was watched at u_0, ..., u_N, on every rank.
    """

    label: str
    unit: str
    frames: list[Frame] | None
    written: tuple[int, ...]
    watched: Array


def spread(last: int, most: int) -> tuple[int, ...]:
    """Steps from 0 to ``last``, at most ``most``: both ends, the others evenly apart (the last one alone for 1)."""
    if most == 1:
        return (last,)
    stride = max(1, math.ceil(last / (most - 1)))
    return tuple(sorted({*range(0, last + 1, stride), last}))


def record(
    folder: Path,
    G: ReducedMap,
    control: Array,
    *,
    frames: int,
    watch: Callable[[fem.Function], Array] = lambda state: np.empty(0),
    checkpoint: Checkpoint | None = None,
) -> Series:
    """Run through the trajectory of a control: write ``states.bp``, keep pictures, and look at every state.

    Collective.

    Args:
        folder: an output folder that ``clear`` made.
        G: the map of an evolution.
        control: a control vector.
        frames: at most so many states in the file.
        watch: collective; what of the state to note at each step, always as long. Of one with ``state_dict`` and
            ``load_state_dict`` a checkpoint keeps what it has noted.
        checkpoint: where the run is kept, and goes on from.

    Raises:
        BadInput: when the disk is full, on every rank.
        SolveFailed: naming the step.
    """
    evolution = G.problem
    assert isinstance(evolution, Evolution)
    written = spread(evolution.num_steps, frames)
    writer = TrajectoryFile(folder, evolution, len(written))
    camera = _Camera(evolution, written)
    watched: list[Array] = []
    reel = _Reel(evolution, camera, writer, written)
    if checkpoint is not None:
        checkpoint.add(reel=reel, **({"watch": watch} if hasattr(watch, "state_dict") else {}))
    try:
        for n, time in G.trajectory(control, checkpoint=checkpoint):
            if n <= reel.last:
                # The step that the run goes on from, which has been seen.
                continue
            watched.append(watch(evolution.state))
            reel.take(n, float(n) if time is None else time, keep=checkpoint is not None)
    finally:
        writer.close()
    return Series(
        camera.label, "step" if evolution.time_at(0) is None else "t", camera.develop(), written, np.array(watched)
    )


class _Reel:
    """The states that are drawn or written, one after the other; from a checkpoint those before are taken again.

    Collective, as are all methods.
    """

    def __init__(self, evolution: Evolution, camera: _Camera, writer: TrajectoryFile, written: tuple[int, ...]) -> None:
        #: The last step that has been seen.
        self.last = -1
        self._state = evolution.state
        self._camera = camera
        self._writer = writer
        self._written = written
        self._kept: dict[int, tuple[float, fem.Function]] = {}

    def take(self, n: int, at: float, *, keep: bool) -> None:
        """See the state as it is now, u_n."""
        self.last = n
        if keep and (n in self._written or self._camera.wants(n)):
            self._kept[n] = at, self._state.copy()
        self._camera.take(n, at)
        if n in self._written:
            self._writer.write(at)

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last, "states": [[n, at, state] for n, (at, state) in self._kept.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for n, at, stored in state["states"]:
            stored.into(self._state)
            self.take(n, at, keep=True)
        self.last = state["last"]


class _Camera:
    """Keeps what is drawn of some states. Collective to make and to develop."""

    def __init__(self, evolution: Evolution, written: tuple[int, ...]) -> None:
        state = evolution.state
        self._part = scalar_of(state.name, state, wave=evolution.is_wave_function)
        self.label = self._part.field.name
        self._drawn = fem.Function(pictures.drawing_space(self._part.field))
        wanted = set(written)
        V = self._drawn.function_space
        if V.mesh.geometry.dim == 1:
            most = min(_MOST_PICTURES, _MOST_VALUES // max(1, V.dofmap.index_map.size_global))
            wanted |= set(spread(evolution.num_steps, max(2, most)))
        self._wanted = wanted
        self._taken: list[tuple[int, float]] = []
        self._values: list[Array] = []

    def wants(self, n: int) -> bool:
        """Whether step n is drawn. Local."""
        return n in self._wanted

    def take(self, n: int, time: float) -> None:
        """Keep the state as it is now, if step n is wanted. Local."""
        if self.wants(n):
            self._part.update()
            self._drawn.interpolate(self._part.field)
            self._taken.append((n, time))
            self._values.append(self._drawn.x.array.copy())

    def develop(self) -> list[Frame] | None:
        """The frames on rank 0, None on the others."""
        gathered = pictures.gather_values(self._drawn.function_space, np.array(self._values))
        if gathered is None:
            return None
        return [Frame(n, time, picture) for (n, time), picture in zip(self._taken, gathered, strict=True)]
