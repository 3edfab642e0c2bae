"""A reduced map as a torch module: reverse, forward and second order, ``torch.func``, batches, MPI."""

from __future__ import annotations

from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from relax.base import parallel
from relax.base.start import one_torch_thread_per_rank
from relax.base.teams import Teams, check_teams
from relax.engine.batch import KnownPoints
from relax.engine.dense import DenseMap, KnownBatches
from relax.engine.protocols import check_is_map
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput
from relax.layer.products import Call, Solve

one_torch_thread_per_rank()

# What torch quotes where it may not go around the layer.
_NO_GRAPH = (
    "a solve of relax is no operation of torch, so no graph holds all of a network with a SolutionLayer in it: "
    "torch.compile without fullgraph=True goes around the layer; export the parts before and behind it"
)

_TAKES_WORDS = torch.__version__ >= "2.7"


def around_graphs() -> None:
    """Let what torch compiles end here and go on behind; where there must be one graph torch quotes the words."""
    if torch.compiler.is_dynamo_compiling():
        # torch 2.6 quotes what it cannot follow.
        torch._dynamo.graph_break(msg=_NO_GRAPH) if _TAKES_WORDS else BadInput(_NO_GRAPH)


class SolutionLayer(torch.nn.Module):
    """y = G(m) for tensors: (..., size_in) -> (..., size_out). Leading axes are samples.

    Collective: every rank calls it, and calls ``backward``, in the same order.

    Differentiable twice: ``backward``, ``torch.autograd.grad(create_graph=True)``, and ``torch.func`` with ``vjp``,
    ``jvp``, ``vmap``, ``jacrev``, ``jacfwd``, ``hessian``. Each forward pass owns its linearisation points, so any
    number of them may come before their backward passes, in any order. ``torch.autograd.functional``, with
    ``vectorize=True``, and ``is_grads_batched=True`` work, too. Directions that ``vmap`` brings go through one
    factorisation and one block solve. A third derivative raises.

    Precision and device: computed in float64 on the CPU; the result has the dtype and device of the input.

    Ranks, under ``layout="replicated"``: all hand over the same control (rounding is rank 0's; for a sample per rank,
    as in DDP, make the mesh on ``MPI.COMM_SELF``). Each rank gets the same y, computes the same loss, and gets the
    same, whole gradient: a loss is counted once, not once per rank. Under ``layout="owned"`` each rank hands over, and
    gets the gradient of, the control values that it owns.

    A copy, by ``copy.deepcopy`` or ``AveragedModel``, shares the map. ``torch.compile`` goes around the layer; what
    needs one graph (``fullgraph=True``, ``torch.export``), what records operations (``torch.func.linearize``,
    ``make_fx``, ``torch.jit.trace``) and pickling are errors.

    Args:
        G: the map. The layer adds no parameters of its own.
        teams: share the samples of a batch among teams of ranks. G is then a map on a mesh over ``teams.space``, the
            same on every team, with the replicated layout; y is whole on every rank of every team.
        dense: march all samples of a batch at once, by dense matrices (:class:`relax.engine.dense.DenseMap`): for
            linear systems of up to a few hundred unknowns, with an operator that is affine in numbers, a mesh on one
            rank.

    Raises:
        BadInput: on every rank, for teams that G is not made for, a map that cannot be marched densely, or a tensor of
            another shape, of integers or complex numbers, or with NaN in it.
        SolveFailed: on every rank, when a sample cannot be solved for.
    """

    def __init__(self, G: ReducedMap, *, teams: Teams | None = None, dense: bool = False) -> None:
        super().__init__()
        check_is_map(G, "SolutionLayer")
        check_teams(teams)
        self.G = G
        self.teams = teams
        if teams is not None and (G.layout.kind != "replicated" or G.comm.size != teams.space.size):
            raise BadInput(
                f"SolutionLayer: expected a map with the replicated layout on a mesh over teams.space "
                f"({teams.space.size} ranks), got layout {G.layout.kind!r} on {G.comm.size} ranks"
            )
        self._dense = DenseMap(G) if dense else None

    @property
    def comm(self) -> MPI.Comm:
        """The ranks that call the layer together."""
        return self.G.comm if self.teams is None else self.teams.comm

    @property
    def size_in(self) -> int:
        """Length of a control vector on this rank."""
        return self.G.size_in

    @property
    def size_out(self) -> int:
        """Length of an observation."""
        return self.G.size_out

    def forward(self, m: Tensor) -> Tensor:
        """G of each sample: (..., size_in) -> (..., size_out)."""
        around_graphs()
        return self._solved(m)

    # torch.compile would follow the solve into DOLFINx.
    @torch.compiler.disable  # type: ignore[misc,untyped-decorator,unused-ignore]
    def _solved(self, m: Tensor) -> Tensor:
        with parallel.together(self.comm):
            self._check(m)
        samples = KnownPoints(self.G) if self._dense is None else KnownBatches(self._dense)
        y = Solve.apply(m.to(device="cpu", dtype=torch.float64), Call(self.G, self.teams, samples))
        return y.to(device=m.device, dtype=m.dtype)

    def _check(self, m: Any) -> None:
        if not isinstance(m, torch.Tensor):
            raise BadInput(f"SolutionLayer: expected a torch tensor, got {type(m).__name__}; try torch.as_tensor(m)")
        if m.is_meta:
            raise BadInput("SolutionLayer: expected a tensor with values, got a meta tensor, which has a shape alone")
        if not m.is_floating_point():
            raise BadInput(
                f"SolutionLayer: expected a tensor of float64 or float32, got {m.dtype}; try m.to(torch.float64)"
            )
        if m.ndim == 0 or m.shape[-1] != self.size_in:
            raise BadInput(
                f"SolutionLayer: expected shape (..., {self.size_in}), got {tuple(m.shape)}; the last axis is the "
                "control vector, in the order of relax.control_values"
            )

    def extra_repr(self) -> str:
        """The problem and the sizes."""
        return f"{self.G.problem.name}: {self.size_in} -> {self.size_out}"
