"""The residual of any field in the norm that is dual to an energy: ½ ⟨F(u, m), R⁻¹ F(u, m)⟩, and its derivatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import ufl
from dolfinx import fem

from relax.base import parallel
from relax.base.fem.pointwise import refuse_laws
from relax.base.la.factors import Factor, Key
from relax.base.la.linear import LinearSolver
from relax.base.la.options import DIRECT_SYMMETRIC, Options, merged
from relax.base.types import Array
from relax.engine.linearization import BLOCK
from relax.engine.residual.residual import Residual
from relax.engine.solve.factored import FactoredOperator
from relax.errors import BadInput, BadProblem, SolveFailed
from relax.problem.problem import Problem

#: The parts of a control, and a state: owned and ghost values, entries of constants.
Point: TypeAlias = tuple[list[Array], Array]

# Rounding of a matrix that is symmetric.
_SYMMETRY = 1e-10


class Size(NamedTuple):
    """½ ⟨r, R⁻¹ r⟩, and its derivatives in the values of u, (owned,), and in each control."""

    value: float
    of_state: Array
    of_controls: list[Array]


class DualNorm:
    """½ ⟨F(u, m), R⁻¹ F(u, m)⟩ over the test functions that vanish where u is given. Collective, as are all methods.

    Args:
        problem: the PDE. Values of u where it is clamped are the given ones, whatever u says.
        riesz: R: "operator" for ∂F/∂u itself, of a linear symmetric problem; "h1" for (grad u, grad v) + (u, v); or a
            symmetric bilinear form on the state's space.
        options: PETSc options for R.

    Raises:
        BadProblem: for "operator" where ∂F/∂u depends on u or is not symmetric; for a problem with ``mpc``.
        BadInput: for a form that is not symmetric, or not on the state's space.
    """

    def __init__(self, problem: Problem, riesz: str | ufl.Form, options: Options | str | None) -> None:
        self.residual = residual = Residual(problem)
        if residual.tied:
            raise BadProblem(
                "ResidualLoss: expected values of the state that are free or clamped, got a problem with an mpc, or "
                "with a block that is one number"
            )
        self._is_operator = isinstance(riesz, str) and riesz == "operator"
        self._operators: FactoredOperator | None = None
        self._fixed: Factor | None = None
        if self._is_operator:
            if not residual.is_linear or not residual.is_self_adjoint:
                raise BadProblem(
                    "ResidualLoss: riesz='operator' is for linear problems with a symmetric operator, whose energy it "
                    "is; expected riesz='h1', or a symmetric form, for this one"
                )
            self._operators = FactoredOperator(residual, f"{problem.name}_riesz", 2e9, options)
        else:
            self._fixed = self._factored(_form_of(problem, riesz), problem, options)

    def at(self, points: Sequence[Point], *, as_primal: bool, with_controls: bool) -> list[Size]:
        """The size of the residual of some fields, by block solves where R is the same for all of them.

        Args:
            points: the controls, owned and ghost values or entries of constants, and u, owned and ghost values.
            as_primal: the derivative in u as its representer, R⁻¹ of it.
            with_controls: the derivatives in the controls, too; there are none otherwise.

        Raises:
            SolveFailed: when R cannot be factored, or is not positive.
        """
        is_shared = self._operators is None or self.residual.operator_is_constant
        length = BLOCK if is_shared else 1
        blocks = [points[i : i + length] for i in range(0, len(points), length)]
        return [size for block in blocks for size in self._sizes(block, as_primal, with_controls)]

    def _sizes(self, points: Sequence[Point], as_primal: bool, with_controls: bool) -> list[Size]:
        """Of fields with one R."""
        residual, registers = self.residual, self.residual.registers
        # What is symmetric takes R⁻¹ r back to r; clamped values have no part in either.
        is_known = self._is_operator and not (with_controls and residual.boundary.has_controls)
        with registers.lent():
            r: Array = np.empty((len(points), residual.num_owned))
            for i, point in enumerate(points):
                self._install(point)
                r[i] = residual.residual()
            with self._factor() as factor:
                _check_positive(factor)
                w = factor.solver.solve_many(r)
                values = [0.5 * parallel.dot(residual.comm, r[i], w[i]) for i in range(len(points))]
                for value in values:
                    if not value >= 0.0:
                        raise _not_positive(f"the residual has the square {2.0 * value:.3g} in the dual norm")
                of_state, of_controls = r, list[list[Array]]([[]] * len(points))
                if with_controls or not is_known:
                    slopes = [
                        self._slopes(point, r[i], w[i], is_known, with_controls) for i, point in enumerate(points)
                    ]
                    of_state, of_controls = np.array([of[0] for of in slopes]), [of[1] for of in slopes]
                if as_primal:
                    of_state = w if is_known else factor.solver.solve_many(of_state)
        return [Size(values[i], of_state[i], of_controls[i]) for i in range(len(points))]

    def _install(self, point: Point) -> None:
        """Have the registers hold it."""
        residual = self.residual
        parts, state = point
        residual.registers.install_controls(parts)
        residual.parameters.snapshot()
        u = residual.state.x.array
        u[:] = state
        residual.boundary.apply(u)

    def _slopes(
        self, point: Point, r: Array, w: Array, is_known: bool, with_controls: bool
    ) -> tuple[Array, list[Array]]:
        """The derivatives in u and in the controls."""
        residual = self.residual
        self._install(point)
        residual.registers.install_adjoint(w)
        of_state = r if is_known else residual.operator_adjoint_action().copy()
        of_controls: list[Array] = []
        if with_controls:
            of_controls = residual.gradient(of_state if residual.boundary.has_controls else None, Key())
            if self._is_operator and not residual.operator_is_constant:
                bent = self._bent(w)
                of_controls = [of - 0.5 * bend for of, bend in zip(of_controls, bent, strict=True)]
        of_state[residual.boundary.owned] = 0.0
        return of_state, of_controls

    @contextmanager
    def _factor(self) -> Iterator[Factor]:
        """Of R at the registers' point."""
        if self._operators is None:
            if self._fixed is None:
                raise BadInput("this loss has been closed; make a new one")
            yield self._fixed
            return
        residual = self.residual
        key = residual.parameters.operator_key if residual.operator_is_constant else Key()
        with self._operators.factor_here(key) as factor:
            yield factor

    def _bent(self, w: Array) -> list[Array]:
        """wᵀ (∂A/∂m) w for each control, of an F that is affine in the state: by F at w and at zero."""
        residual = self.residual
        u = residual.state.x
        terms = []
        for values in (w, np.zeros_like(w)):
            u.array[: residual.num_owned] = values
            u.scatter_forward()
            terms.append(residual.gradient(None, Key()))
        return [at_w - at_zero for at_w, at_zero in zip(*terms, strict=True)]

    def _factored(self, form: ufl.Form, problem: Problem, options: Options | str | None) -> Factor:
        comm = problem.mesh.comm
        matrix = fem_petsc.assemble_matrix(fem.form(form), bcs=list(problem.bcs))
        matrix.assemble()
        if not matrix.isSymmetric(_SYMMETRY * matrix.norm()):
            matrix.destroy()
            raise BadInput("ResidualLoss: riesz: expected a symmetric form, got one that is not")
        prefix = f"relax_{problem.name}_riesz_"
        solver = LinearSolver(comm, prefix, merged(DIRECT_SYMMETRIC, options), self_adjoint=True)  # type: ignore[arg-type]
        factor = Factor(solver.placed(matrix), solver)
        solver.factor(factor.matrix)
        return factor

    def close(self) -> None:
        """Free the factors."""
        if self._operators is not None:
            self._operators.close()
        if self._fixed is not None:
            self._fixed.destroy()
            self._fixed = None


def _form_of(problem: Problem, riesz: str | ufl.Form) -> ufl.Form:
    V = problem.state.function_space
    if isinstance(riesz, ufl.Form):
        refuse_laws(riesz, "ResidualLoss: riesz")
        if [a.ufl_function_space() for a in riesz.arguments()] != [V, V]:
            raise BadInput("ResidualLoss: riesz: expected a form in a trial and a test function of the state's space")
        for moving in (problem.state, *problem.controls):
            if any(moving is c for c in (*riesz.coefficients(), *riesz.constants())):
                raise BadInput(
                    f"ResidualLoss: riesz: expected a form that depends on neither the state nor a control, got "
                    f"{moving} in it; try 'operator', or a Function with values that stay"
                )
        return riesz
    if riesz != "h1":
        raise BadInput(
            f"ResidualLoss: riesz: expected 'operator', 'h1' or a symmetric bilinear form, got {riesz!r:.80}"
        )
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    return (ufl.inner(ufl.grad(u), ufl.grad(v)) + ufl.inner(u, v)) * ufl.dx


def _check_positive(factor: Factor) -> None:
    """Refuse an R whose factorisation has met negative pivots: some residuals would have a positive square still.

    MUMPS may not count all of them on several ranks, but none that is not there.
    """
    pc = factor.solver.ksp.getPC()
    if pc.getType() == "cholesky" and str(pc.getFactorSolverType()) == "mumps":
        negative = pc.getFactorMatrix().getMumpsInfog(12)
        if negative > 0:
            raise _not_positive(f"R has negative eigenvalues, {negative} of them")


def _not_positive(what: str) -> SolveFailed:
    return SolveFailed(f"ResidualLoss: {what}; expected an R that is positive: riesz='h1', or a form that is")
