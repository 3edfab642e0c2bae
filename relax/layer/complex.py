"""Complex tensors for maps that hold a complex field as two real components."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relax.base import parallel
from relax.base.teams import Teams
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput
from relax.layer.layer import SolutionLayer, around_graphs

_COMPLEX = (torch.complex64, torch.complex128)
_REAL = (torch.float32, torch.float64)


def as_real(z: Tensor) -> Tensor:
    """Complex numbers as pairs side by side: (..., n) to (..., 2 n), real parts at even places. Local.

    The order of a field in ("Lagrange", degree, (2,)) under the replicated layout. Differentiable any number of times.

    Raises:
        BadInput: when z is not a complex64 or complex128 tensor with a last axis.
    """
    _check_kind(z, "as_real", _COMPLEX)
    return torch.view_as_real(z.resolve_conj()).flatten(-2)


def as_complex(x: Tensor) -> Tensor:
    """Pairs side by side as complex numbers: (..., 2 n) to (..., n). Local. Differentiable any number of times.

    Raises:
        BadInput: when x is not a float32 or float64 tensor, or its last axis has an odd length.
    """
    _check_kind(x, "as_complex", _REAL)
    if x.shape[-1] % 2 != 0:
        raise BadInput(f"as_complex: expected shape (..., 2 n), pairs of real and imaginary part, got {tuple(x.shape)}")
    return torch.view_as_complex(x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2).contiguous())


class ComplexLayer(torch.nn.Module):
    """y = G(m) with complex y: (..., size_in / 2) complex, or (..., size_in) real, to (..., size_out / 2) complex.

    Collective, as :class:`relax.SolutionLayer`, which it wraps; derivatives, ``torch.func``, ranks and teams are as
    there. For maps whose observation is complex numbers as pairs (u_0, u_1) side by side: a field in
    ("Lagrange", degree, (2,)), or overlaps. A complex m is taken as such pairs, too, which makes sense where every
    control is one; a real m is taken as it is.

    Gradients are torch's: dL/d(Re m) + i dL/d(Im m) for a real loss L, which points uphill.

    Precision: complex64 and float32 give complex64, complex128 and float64 give complex128; computed in double.

    Args:
        G: the map, with an even number of observations.
        teams: share the samples of a batch among teams of ranks.
        dense: march all samples of a batch at once, as :class:`relax.SolutionLayer` has it.

    Raises:
        BadInput: on every rank: when made, for an odd size_out; when called, for a complex m and an odd size_in, or a
            tensor of another shape or kind.
    """

    def __init__(self, G: ReducedMap, *, teams: Teams | None = None, dense: bool = False) -> None:
        super().__init__()
        self.layer = SolutionLayer(G, teams=teams, dense=dense)
        if G.size_out % 2 != 0:
            raise BadInput(
                f"ComplexLayer: expected an even size_out, real and imaginary parts side by side, got {G.size_out}; "
                "relax.SolutionLayer gives real observations as they are"
            )

    @property
    def size_in(self) -> int:
        """Length of a control vector on this rank, in real numbers."""
        return self.layer.size_in

    @property
    def size_out(self) -> int:
        """Length of an observation, in real numbers."""
        return self.layer.size_out

    def forward(self, m: Tensor) -> Tensor:
        """G of each sample, as complex numbers: (..., size_out / 2)."""
        around_graphs()
        return self._solved(m)

    @torch.compiler.disable  # type: ignore[misc,untyped-decorator,unused-ignore]
    def _solved(self, m: Tensor) -> Tensor:
        with parallel.together(self.layer.comm):
            self._check(m)
        return as_complex(self.layer(as_real(m) if m.is_complex() else m))

    def _check(self, m: Any) -> None:
        _check_kind(m, "ComplexLayer", (*_COMPLEX, *_REAL))
        n = self.size_in
        if m.is_complex() and n % 2 != 0:
            raise BadInput(
                f"ComplexLayer: expected a real tensor of shape (..., {n}), got {m.dtype}: a control of {n} real "
                "numbers is not made of pairs"
            )
        if m.shape[-1] != (n // 2 if m.is_complex() else n):
            pairs = f"(..., {n // 2}) complex or " if n % 2 == 0 else ""
            raise BadInput(
                f"ComplexLayer: expected shape {pairs}(..., {n}) real, got {tuple(m.shape)} of {m.dtype}; the last "
                "axis is the control vector, in the order of relax.control_values"
            )

    def extra_repr(self) -> str:
        """The sizes in complex numbers."""
        return f"{self.size_in / 2:g} -> {self.size_out // 2}, complex"


def _check_kind(tensor: Any, what: str, dtypes: tuple[torch.dtype, ...]) -> None:
    """Refuse what is no tensor of one of these dtypes with a last axis."""
    names = " or ".join(str(dtype) for dtype in dtypes)
    if not isinstance(tensor, torch.Tensor):
        raise BadInput(f"{what}: expected a torch tensor of {names}, got {type(tensor).__name__}; try torch.as_tensor")
    if tensor.dtype not in dtypes:
        raise BadInput(f"{what}: expected a tensor of {names}, got {tensor.dtype}; try .to({dtypes[-1]})")
    if tensor.ndim == 0:
        raise BadInput(f"{what}: expected a tensor with a last axis, got a single number")
