"""Total variation: a penalty that lets fields jump."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import ufl
from dolfinx import fem

from relax.base import parallel
from relax.base.checks import one_of, positive
from relax.base.fem.forms import assembled
from relax.base.fem.layout import Kind
from relax.base.fem.submeshes import check_both_sides
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert.priors.form import FormPrior
from relax.invert.priors.vectors import FieldVectors
from relax.invert.priors.white_noise import is_discontinuous
from relax.invert.priors.whittle_matern import facet_over_cell, has_simplices

# Of the least stiffness of the lagged form: what is added to it there, as a proximal term.
_PROXIMAL = 1e-2


def _refuse(what: str) -> NoReturn:
    raise BadInput(
        f"TotalVariation has no {what}: it is a penalty, not a Gaussian. Expected a use of its cost, gradient and "
        'hessian; optimisers of Gaussian priors take prior=tv.at(m), gauss_newton with jacobian="products"'
    )


class _Penalty:
    """What a Gaussian has and a penalty has not."""

    def whiten(self, m: Array) -> Array:  # noqa: D102
        _refuse("square root of a covariance")

    def color(self, xi: Array) -> Array:  # noqa: D102
        _refuse("square root of a covariance")

    def color_adjoint(self, v: Array) -> Array:  # noqa: D102
        _refuse("square root of a covariance")

    def sample(self, seed: int) -> Array:  # noqa: D102
        _refuse("draws")

    def variance(self, *, samples: int | None = None, seed: int = 0) -> Array:  # noqa: D102
        _refuse("variance")


class TotalVariation(_Penalty):
    """J(m) = weight ∫ √(|∇m|² + smoothing²) dx, a convex penalty; in DG spaces jumps count, too.

    In DG spaces J has the terms weight ∫ √([m]² + (smoothing d)²) ds over facets between two cells, d half the sum of
    their extents |K|/|F| across: for degree 0 these alone. As smoothing -> 0, J tends to the total variation (Rudin,
    Osher and Fatemi, Physica D 60 (1992) 259–268), which measures a jump by its height, however sharp it is, where a
    smooth prior makes sharp ones dear. Of a vector field |∇m| is Frobenius' norm, and components jump together.

    J is no Gaussian: it has no mean, no covariance and no draws, and says so where one is asked for. What optimisers of
    Gaussian priors take is ``tv.at(m)``, which has J's cost and gradient, and its curvature at m as a metric: the
    lagged diffusivity (Vogel and Oman, SIAM J. Sci. Comput. 17 (1996) 227–238), of which each step lowers the cost from
    anywhere, and soon slowly; or J's Hessian, of which the last steps converge as Newton's do:

        for k in range(60):
            prior = tv.at(m, curvature="lagged" if k < 10 else "newton")
            step = relax.gauss_newton(G, data, m, noise=noise, prior=prior, jacobian="products", max_steps=1)
            prior.close()
            m = step.value
            if step.history[-1]["gradient_norm"] < 1e-6:
                break

    To either 1e-2 of the least stiffness of a field that varies over the whole mesh is added for constants, which J
    does not see: a metric may be any, so it changes the way, not the end.

    Collective, as are all methods. Nothing is gathered in layout="owned".

    Args:
        V: the space of the control: one with a gradient, or DG.
        weight: a positive number.
        smoothing: a positive number, in units of m over length: gradients far above it count as jumps do. The smaller,
            the sharper, and the more steps.
        layout: that of the ``ReducedMap``: "replicated" or "owned".

    Raises:
        BadInput: for numbers that are not positive; in a DG space on several ranks for a mesh without ghost cells.
    """

    def __init__(self, V: fem.FunctionSpace, weight: float, smoothing: float, *, layout: Kind = "replicated") -> None:
        self._vectors = FieldVectors(V, layout)
        self.space = V
        self.weight = positive(weight, "weight")
        self.smoothing = positive(smoothing, "smoothing")
        self.kind: Kind = self._vectors.kind
        self.size = self._vectors.size
        self._comm = self._vectors.comm
        self._m, self._v, self._dual = fem.Function(V), fem.Function(V), fem.Function(V)
        # A Constant, so that one compiled form serves all weights.
        w = fem.Constant(V.mesh, self.weight)
        cost, lagged = _forms(V, self._m, fem.Constant(V.mesh, self.smoothing), w)
        gradient = ufl.derivative(cost, self._m, ufl.TestFunction(V))
        newton = ufl.derivative(gradient, self._m, ufl.TrialFunction(V))
        self._cost = fem.form(cost)
        self._gradient = fem.form(gradient)
        self._hessian = fem.form(ufl.action(newton, self._v))
        self._proximal = fem.Constant(V.mesh, 0.0)
        product = ufl.inner(ufl.TrialFunction(V), ufl.TestFunction(V)) * ufl.dx
        self._metrics = {"lagged": lagged + self._proximal * product, "newton": newton + self._proximal * product}
        volume = fem.assemble_scalar(fem.form(fem.Constant(V.mesh, 1.0) * ufl.dx))
        low, high = parallel.extremes(self._comm, V.mesh.geometry.x)
        # ∫ dx / L², which with the weight and the mean slope makes a stiffness.
        self._shape = float(parallel.sum_over_ranks(self._comm, np.array([volume]))[0]) / float((high - low).max()) ** 2

    def _set(self, function: fem.Function, owned: Any) -> None:
        function.x.array[: self._vectors.num_owned] = owned
        function.x.scatter_forward()

    def _at(self, m: Array) -> None:
        """Let the forms hold m, one control vector (size,)."""
        vector = self._vectors.checked(m, "m")
        if parallel.any_rank(self._comm, vector.ndim != 1):
            raise BadInput(f"m: expected one control vector of shape ({self.size},), got {vector.shape}")
        self._set(self._m, self._vectors.own(vector)[0])

    def _value(self) -> float:
        return float(parallel.sum_over_ranks(self._comm, np.array([fem.assemble_scalar(self._cost)]))[0])

    def cost(self, m: Array) -> float:
        """J(m), for one control vector (size,)."""
        self._at(m)
        return self._value()

    def gradient(self, m: Array) -> Array:
        """dJ(m), dual, for one control vector (size,)."""
        self._at(m)
        return self._vectors.join(assembled(self._gradient, self._dual)[None], m, dual=True)

    def hessian(self, m: Array, v: Array) -> Array:
        """J''(m) v for v of shape (..., size), primal to dual: symmetric positive semidefinite, zero for constants."""
        self._at(m)
        rows = self._vectors.rows(v, "v")
        result = np.empty_like(rows)
        for i, row in enumerate(rows):
            self._set(self._v, row)
            result[i] = assembled(self._hessian, self._dual)
        return self._vectors.join(result, v, dual=True)

    def at(self, m: Array, *, curvature: str = "lagged") -> PenaltyAt:
        """This penalty with its curvature at m as a metric, as ``gauss_newton`` and ``lbfgs`` take it for a prior.

        Args:
            m: a control vector (size,).
            curvature: "lagged" or "newton", above.

        Returns:
            Cost and gradient are those of J everywhere; ``close`` it.
        """
        one_of(curvature, ("lagged", "newton"), "curvature")
        self._at(m)
        self._proximal.value = _PROXIMAL * self.weight**2 * self._shape / self._value()
        metric = FormPrior(self._metrics[curvature], layout=self.kind)
        return PenaltyAt(self, self._vectors.checked(m, "m").copy(), metric)

    def close(self) -> None:
        """Nothing to free."""

    @property
    def mean(self) -> Array:
        """None is there: BadInput says so, as of all that a Gaussian has and this has not."""
        _refuse("mean")

    def precision(self, v: Array) -> Array:  # noqa: D102
        _refuse("precision")

    def covariance(self, v: Array) -> Array:  # noqa: D102
        _refuse("covariance")


class PenaltyAt(_Penalty):
    """A penalty with a metric at a control. Collective, as are all methods.

    Args:
        penalty: with the methods ``cost`` and ``gradient``.
        m: the control (size,); where an optimiser starts that is given no other.
        metric: a Gaussian whose precision is the curvature there. ``close`` closes it.
    """

    def __init__(self, penalty: TotalVariation, m: Array, metric: FormPrior) -> None:
        self._penalty, self._metric = penalty, metric
        self.kind: Kind = penalty.kind
        self.size = penalty.size
        self.mean: Array = m

    def cost(self, m: Array) -> float:
        """J(m)."""
        return self._penalty.cost(m)

    def gradient(self, m: Array) -> Array:
        """dJ(m), dual."""
        return self._penalty.gradient(m)

    def precision(self, v: Array) -> Array:
        """The curvature on v of shape (..., size), primal to dual."""
        return self._metric.precision(v)

    def covariance(self, v: Array) -> Array:
        """The inverse of the curvature on v of shape (..., size), dual to primal."""
        return self._metric.covariance(v)

    def close(self) -> None:
        """Free the metric."""
        self._metric.close()


def _forms(V: fem.FunctionSpace, m: fem.Function, smoothing: Any, weight: Any) -> tuple[ufl.Form, ufl.Form]:
    """J, and its lagged diffusivity as a bilinear form."""
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    element, domain = V.ufl_element(), V.mesh
    degree = element.embedded_superdegree
    # Fixed before anything is differentiated; of slopes that are constant in cells one point sees all.
    inside = {"quadrature_degree": 0 if degree <= 1 and has_simplices(domain) else 2 * degree}
    terms: list[tuple[Any, Any]] = []
    if degree > 0:
        slope = ufl.sqrt(ufl.inner(ufl.grad(m), ufl.grad(m)) + smoothing**2)
        dx = ufl.dx(domain=domain, metadata=inside)
        terms.append((weight * slope * dx, weight * ufl.inner(ufl.grad(u), ufl.grad(v)) / slope * dx))
    if is_discontinuous(V):
        check_both_sides(domain, "V")
        d = 0.5 * sum(1.0 / facet_over_cell(domain, side) for side in ("+", "-"))
        jump = ufl.sqrt(ufl.inner(ufl.jump(m), ufl.jump(m)) + (smoothing * d) ** 2)
        dS = ufl.dS(domain=domain, metadata={"quadrature_degree": 2 * degree})
        terms.append((weight * jump * dS, weight * ufl.inner(ufl.jump(u), ufl.jump(v)) / jump * dS))
    cost, lagged = zip(*terms, strict=True)
    return sum(cost[1:], start=cost[0]), sum(lagged[1:], start=lagged[0])
