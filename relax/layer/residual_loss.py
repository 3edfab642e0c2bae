"""Training by the residual: a network's field judged by the equation, in the norm where that is the error."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import ufl
from mpi4py import MPI
from torch import Tensor

from relax.base import parallel
from relax.base.checks import of_kind, one_of
from relax.base.fem.layout import Replicated, SpaceLayout, as_rows
from relax.base.la.options import Options
from relax.base.teams import Teams, by_teams, check_teams
from relax.base.types import Array
from relax.engine.solve.dual_norm import DualNorm
from relax.errors import BadInput
from relax.layer.layer import around_graphs
from relax.problem.problem import Problem


class ResidualLoss(torch.nn.Module):
    """½ ⟨r, R⁻¹ r⟩ with r = F(u, m): how far a field u is from solving the equation, for tensors.

    (..., size_in), (..., n) -> (...): m in the order of ``relax.control_values``, u the values of the state in that of
    ``FieldValues``; a number for each sample, without any solution known. Where u is clamped the given values count.
    With R = ∂F/∂u, of a linear symmetric positive problem, this *is* ½ |u - u_h|² in the energy, u_h the solution at
    m. Descent on ½ |r|² goes by the square of the operator's condition number, on this by the condition number itself,
    and with ``metric="riesz"`` by 1.

    Collective. Each rank hands over the same m and u, as for :class:`relax.SolutionLayer`, and gets the same loss and
    the same, whole gradient. Differentiable once: a second derivative raises. One solve with R for each sample, in
    blocks of samples where it does not depend on m, and is factored once; a second one for ``metric="riesz"`` with
    another R than the operator. A copy shares the factors.

    Args:
        problem: the PDE, linear or not.
        riesz: R: "operator" for ∂F/∂u; "h1" for (grad u, grad v) + (u, v); or a symmetric bilinear form on the state's
            space, as it is when the loss is made.
        metric: "euclidean" for the derivative in the values of u; "riesz" hands back R⁻¹ of it instead: what a network
            is then moved by is the error's own direction, u - u_h for the operator.
        teams: share the samples of a batch among teams of ranks, as ``SolutionLayer``.
        options: PETSc options for R; prefix ``relax_<name>_riesz_``.

    Raises:
        BadProblem: on every rank, for "operator" where ∂F/∂u depends on u or is not symmetric.
        BadInput: for other arguments that do not fit.
        SolveFailed: when R cannot be factored, or is not positive.
    """

    def __init__(
        self,
        problem: Problem,
        riesz: str | ufl.Form = "operator",
        *,
        metric: str = "euclidean",
        teams: Teams | None = None,
        options: Options | None = None,
    ) -> None:
        super().__init__()
        of_kind(problem, Problem, "a relax.Problem", "ResidualLoss: problem")
        check_teams(teams)
        if teams is not None and problem.mesh.comm.size != teams.space.size:
            raise BadInput("ResidualLoss: teams: expected a mesh over teams.space")
        one_of(metric, ("euclidean", "riesz"), "ResidualLoss: metric")
        self.metric = metric
        self._teams = teams
        self._norm = DualNorm(problem, riesz, options)
        self._controls = Replicated(problem.mesh.comm, problem.controls)
        self._field = SpaceLayout(problem.state.function_space)
        self.size_in = self._controls.size
        self.size_state = self._field.size
        self._comm: MPI.Comm = problem.mesh.comm if teams is None else teams.comm

    def forward(self, m: Tensor, u: Tensor) -> Tensor:
        """The loss of each sample: (..., size_in), (..., n) -> (...)."""
        around_graphs()
        return self._found(m, u)

    # torch.compile would follow it into DOLFINx.
    @torch.compiler.disable  # type: ignore[misc,untyped-decorator,unused-ignore]
    def _found(self, m: Tensor, u: Tensor) -> Tensor:
        with parallel.together(self._comm):
            lead = self._lead(m, u)
        loss: Tensor = _Loss.apply(
            m.to("cpu", torch.float64).expand(*lead, self.size_in),
            u.to("cpu", torch.float64).expand(*lead, self.size_state),
            self,
        )
        return loss.to(device=u.device, dtype=u.dtype)

    def _lead(self, m: Any, u: Any) -> torch.Size:
        """The leading axes of both together."""
        for what, tensor, size in (("m", m, self.size_in), ("u", u, self.size_state)):
            if not isinstance(tensor, torch.Tensor) or tensor.is_meta or not tensor.is_floating_point():
                got = f"one of {tensor.dtype}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
                raise BadInput(f"ResidualLoss: {what}: expected a tensor of floating point numbers, got {got}")
            if tensor.shape[-1:] != (size,):
                raise BadInput(f"ResidualLoss: {what}: expected a tensor (..., {size}), got {tuple(tensor.shape)}")
        try:
            return torch.broadcast_shapes(m.shape[:-1], u.shape[:-1])
        except RuntimeError as error:
            raise BadInput(
                f"ResidualLoss: leading axes of m {tuple(m.shape)} and u {tuple(u.shape)} do not fit together"
            ) from error

    def __deepcopy__(self, memo: dict[int, object]) -> ResidualLoss:
        """There is nothing to train in it. Local."""
        return self

    def sizes(self, m: Array, u: Array, *, with_controls: bool) -> Array:
        """(k, size_in), (k, n) -> (k, 1 + n) or (k, 1 + n + size_in): the loss, and its derivatives in u and m.

        Collective. Those in m where a rank asks for them.
        """
        controls = parallel.checked_on_all(self._comm, m, self.size_in, "ResidualLoss: control")
        fields = parallel.checked_on_all(self._comm, u, self.size_state, "ResidualLoss: field")
        with_controls = parallel.any_rank(self._comm, with_controls)

        def rows_of(mine: slice) -> Array:
            points = [
                (self._controls.split(controls[i]), self._field.spread(fields[i])) for i in range(len(controls))[mine]
            ]
            rows = np.empty((len(points), 1 + self.size_state + (self.size_in if with_controls else 0)))
            sizes = self._norm.at(points, as_primal=self.metric == "riesz", with_controls=with_controls)
            for row, size in zip(rows, sizes, strict=True):
                row[0] = size.value
                row[1 : 1 + self.size_state] = self._field.gather(size.of_state, dual=self.metric == "euclidean")
                if with_controls:
                    row[1 + self.size_state :] = self._controls.join(size.of_controls)
            return rows

        return by_teams(self._teams, len(controls), rows_of)

    def close(self) -> None:
        """Free the factors. Collective."""
        self._norm.close()


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, m: Tensor, u: Tensor, loss: ResidualLoss) -> Tensor:
        needed = ctx.needs_input_grad[0]
        values = (as_rows(tensor.detach().numpy()) for tensor in (m, u))
        rows = torch.from_numpy(loss.sizes(*values, with_controls=needed))
        of_field, of_control = rows[:, 1 : 1 + loss.size_state], rows[:, 1 + loss.size_state :]
        ctx.save_for_backward(m, u, of_control.reshape(m.shape) if needed else None, of_field.reshape(u.shape))
        return rows[:, 0].reshape(m.shape[:-1]).clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor, None]:
        m, u, of_control, of_field = ctx.saved_tensors
        if torch.is_grad_enabled():
            of_control, of_field = _Once.apply(m, u, of_control, of_field)
        return None if of_control is None else dy[..., None] * of_control, dy[..., None] * of_field, None


class _Once(torch.autograd.Function):
    """The derivatives, which depend on m and u in a way that nobody knows here."""

    @staticmethod
    def forward(
        ctx: Any, m: Tensor, u: Tensor, of_control: Tensor | None, of_field: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        return None if of_control is None else of_control.clone(), of_field.clone()

    @staticmethod
    def backward(ctx: Any, *seeds: Tensor) -> tuple[Tensor, ...]:
        raise BadInput(
            "ResidualLoss: it is differentiable once, and a second derivative was asked for; try "
            "relax.SolutionLayer, which is differentiable twice, or detach the gradient"
        )
