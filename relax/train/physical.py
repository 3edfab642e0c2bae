"""Physical gradients: a network follows the inverse of the physics rather than its adjoint.

Holl, Koltun and Thuerey, "Scale-invariant Learning by Physics Inversion", NeurIPS 2022 (SIP).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias

import torch
from mpi4py import MPI
from torch import Tensor

from relax.base import parallel
from relax.base.checks import as_number, one_of
from relax.errors import BadInput


class LocalInverse(Protocol):
    """An inverse that depends on where the physics is: ``inverse.at(x)(residual)`` is the correction dx.

    Whatever has a method ``at`` is taken for one. Those of relax (``gauss_newton_inverse``, ...) are.
    """

    def at(self, x: Tensor) -> Callable[[Tensor], Any]:
        """The inverse near x: a function of the residual, of the shape of y, whose value has the shape of x."""


PlainInverse: TypeAlias = Callable[[Tensor], Any]


def physical_gradient(
    x: Tensor,
    y: Any,
    target: Any,
    inverse: PlainInverse | LocalInverse,
    *,
    step: float = 1.0,
    proxy: Literal["l2", "l1"] = "l2",
    weight: Any = None,
    comm: MPI.Comm | None = None,
) -> Tensor:
    """½ Σ |x − stop(x + dx)|² with dx = inverse(target − y): a loss whose gradient with respect to x is −dx.

    The sum is over the batch and over the entries of x. y = G(x) is where the physics takes the network's output x, and
    dx is the way back in x of the way from y to the target. The physics is never differentiated by torch: y needs no
    graph, and a graph that it has is left alone; gradients flow through x alone. Holl et al. (above), there with η for
    ``step``. Where the inverse is exact this is supervised learning of x + dx; where many x have one y it takes the
    one near x, which no average over the data does.

    The residual ``step * (target − y)`` is the Newton step of ½ |y − target|² in y. For another loss L of y hand over
    y plus its Newton step, y − (∂²L)⁻¹ ∂L, as the target.

    ``inverse`` is called once for the whole batch, without autograd:

    - a function of one argument: ``inverse(residual)``;
    - an object with a method ``at``, for an inverse that needs the point: ``inverse.at(x)(residual)``.

    x and the residual come as tensors without graph: x with the dtype that it has, the residual with that of
    ``target − y``, so float64 physics stays float64 under a network in float32, or in half precision. The correction is
    a tensor or an array of the shape of x; it is cast to the dtype and device of x. The value of the loss is then
    ½ Σ |dx|², and its gradient −dx, both without rounding of x + dx.

    Over ``Teams``: either every rank holds the whole batch, and the inverse shares the samples (``teams=`` of relax's
    inverses, or ``relax.train.over_teams``); or each team calls this with samples of its own, and gradients are summed
    over ``teams.batch`` by whatever drives the optimiser: the loss is a sum.

    Args:
        x: (batch, n) output of a network, with its graph; any shape that the inverse can take.
        y: (batch, p) G(x), a tensor or an array.
        target: the observations that are wanted, of the shape of y.
        inverse: a function or a local inverse, as above; y is in the direction of the target from x + dx.
        step: η, the part of the way to the target, one for all samples: 1 where the inverse can be trusted so far.
        proxy: "l2" as above, or "l1", Σ |x − stop(x + dx)|, with gradient −sign(dx), for inverses whose length means
            little.
        weight: numbers that multiply the entries of the sum, broadcast to the shape of x: a sample's weight of shape
            (batch, 1), or the diagonal of a mass matrix (n,).
        comm: ranks that raise together when one finds something wrong; by default those of the inverse
            (``inverse.comm``), if it has such, else this rank alone.

    Returns:
        The loss, a scalar of the dtype of x, of float32 where that is shorter.

    Raises:
        BadInput: on every rank, for shapes that do not fit, and values that are not finite.
    """
    if not callable(inverse) and not callable(getattr(inverse, "at", None)):
        raise BadInput(
            f"physical_gradient: inverse: expected a function of the residual, or what has `at`, got {inverse!r:.80}"
        )
    comm = getattr(inverse, "comm", MPI.COMM_SELF) if comm is None else comm
    one_of(proxy, ("l2", "l1"), "physical_gradient: proxy")
    with parallel.together(comm):
        _check_x(x)
    with torch.no_grad():
        seen, wanted = _tensor(y, x.device), _tensor(target, x.device)
        with parallel.together(comm):
            _check_data(seen, wanted, step)
        length = as_number(step)
        residual = wanted - seen if length == 1.0 else length * (wanted - seen)
        here = x.detach()
        local = getattr(inverse, "at", None)
        given = inverse(residual) if local is None else local(here)(residual)  # type: ignore[operator]
        dx = _tensor(given, x.device).to(x.dtype)
        # Squares and sums of float16 overflow above 65504.
        summed = torch.promote_types(x.dtype, torch.float32)
        weights = None if weight is None else _tensor(weight, x.device).to(summed)
        with parallel.together(comm):
            _check_correction(dx, given, here)
            _check_weight(weights, here)
    # x − stop(x) is zero with derivative one: the correction does not lose digits to x.
    gap = ((x - here) - dx).to(summed)
    terms = 0.5 * gap**2 if proxy == "l2" else gap.abs()
    return (terms if weights is None else weights * terms).sum()


def _tensor(values: Any, device: torch.device) -> Tensor:
    """A tensor without graph on the device; one that holds a single NaN for what is no array of numbers."""
    try:
        return torch.as_tensor(values, device=device).detach()
    except (TypeError, ValueError, RuntimeError):
        return torch.full((), float("nan"), device=device)


def _check_finite(tensor: Tensor, what: str, hint: str) -> None:
    count = int((~torch.isfinite(tensor.detach())).sum())
    if count:
        raise BadInput(f"physical_gradient: {what}: {count} of {tensor.numel()} entries {hint}")


def _check_x(x: Any) -> None:
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise BadInput(f"physical_gradient: x: expected a tensor of floating point numbers, got {kind}")
    _check_finite(x, "x", "are NaN or infinite; has the network diverged?")


def _check_data(y: Tensor, target: Tensor, step: Any) -> None:
    if y.shape != target.shape:
        raise BadInput(
            f"physical_gradient: expected y and target of one shape, got {tuple(y.shape)} and {tuple(target.shape)}; "
            "both are observations of the whole batch"
        )
    for what, tensor in (("y", y), ("target", target)):
        _check_finite(tensor, what, "are NaN or infinite, or no numbers; expected a tensor or an array of finite ones")
    if not 0.0 < as_number(step) < math.inf:
        has_axes = getattr(step, "ndim", 0) > 0
        given = f"shape {tuple(step.shape)}; steps of samples go into the target" if has_axes else repr(step)
        raise BadInput(f"physical_gradient: step: expected one finite number above 0, got {given}")


def _check_correction(dx: Tensor, given: Any, x: Tensor) -> None:
    if dx.shape != x.shape:
        shape = tuple(dx.shape) if dx.numel() > 1 or isinstance(given, torch.Tensor) else type(given).__name__
        raise BadInput(
            f"physical_gradient: inverse: expected a correction of the shape of x, {tuple(x.shape)}, got {shape}; it "
            "is called once for the whole batch and returns dx, not x + dx"
        )
    hint = f"of the correction are NaN or infinite as {x.dtype}; try a smaller step, a prior, or damping"
    _check_finite(dx, "inverse", hint)


def _check_weight(weight: Tensor | None, x: Tensor) -> None:
    if weight is None:
        return
    try:
        fits = torch.broadcast_shapes(weight.shape, x.shape) == x.shape
    except RuntimeError:
        fits = False
    if not (fits and bool(torch.isfinite(weight).all()) and bool((weight >= 0).all())):
        raise BadInput(
            f"physical_gradient: weight: expected finite numbers of at least 0 that broadcast to the shape of x, "
            f"{tuple(x.shape)}, got shape {tuple(weight.shape)}"
        )
