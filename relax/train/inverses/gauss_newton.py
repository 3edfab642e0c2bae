"""Gauss–Newton as a local inverse: the linearised inverse problem, with the prior or damping as regularisation."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy.linalg
from petsc4py import PETSc

from relax.base import parallel
from relax.base.checks import AT_LEAST_0, FRACTION, array_like, at_least, number_in, one_of, positive
from relax.base.fem.layout import as_rows
from relax.base.la.factors import Key
from relax.base.teams import Teams, by_teams
from relax.base.types import Array
from relax.engine.linearization import Linearization
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput, SolveFailed
from relax.invert.cg import conjugate_gradients
from relax.invert.priors.base import Prior
from relax.train.inverses.base import MapInverse, as_array, like, parameters_key

# With jacobian="auto" and a prior: at most so many unknowns of the smaller side, and so many numbers in a Jacobian.
_SIDE, _ENTRIES = 3_000, 20_000_000


class gauss_newton_inverse(MapInverse):  # noqa: N801 - used as a function
    """The step dx from x that a linearised inverse problem asks for, J = G'(x), Σ the noise:

    - without a prior: dx = J⁺ dy, the least squares solution of least length, with weights Σ⁻¹; with damping the
      minimum of ½ |Σ⁻¹ (J dx − dy)|² + ½ damping |dx|² (Levenberg–Marquardt);
    - with a prior N(mean, C): the minimum of

        ½ |Σ⁻¹ (J dx − dy)|² + ½ (x + dx − mean)ᵀ C⁻¹ (x + dx − mean) + ½ damping dxᵀ C⁻¹ dx,

      a step of ``gauss_newton`` from x to the most probable control for the data G(x) + dy. It pulls x to the prior's
      mean as far as the data allow, whatever dy is: where dy = 0 it is not zero. Domain knowledge enters here.

    Collective, to make and to call. What to call, and with what: :class:`relax.train.MapInverse`.

    J comes by block adjoint or tangent solves through the factor that the map keeps, whichever are fewer, and the small
    dense system is that of the observations or of the control, whichever is smaller. Where the derivative is the same
    everywhere (a linear source) J and this system are made once, for all samples, all steps and all calls, and made
    again when parameters of the problem change; a correction is then a product with a (size_out, size_in) matrix.
    Elsewhere each sample is linearised: one forward solve, saved by ``observe``, and a Jacobian.

    Args:
        G: the map, in the replicated layout.
        noise: standard deviation of the observations: a number, or one for each. Needed with a prior; without one it
            only weighs observations against each other, and against damping.
        prior: N(mean, C) on the controls of G.
        steps: how many Gauss–Newton steps, each at full length from where the last has led, to the same data.
        damping: as above, at least 0. It bounds steps where J is nearly singular, and does not pull. The attribute
            ``damping`` may be set between calls.
        rcond: without prior and damping, singular values of Σ⁻¹ J below this fraction of the largest are dropped; in
            [0, 1).
        jacobian: "matrix" as above; "products" by conjugate gradients preconditioned with the prior, a tangent and an
            adjoint solve each iteration, for which a prior is needed; "auto" takes the matrix up to 3000 unknowns.
        max_cg: at most so many iterations of conjugate gradients in a step.
        cg_rtol: their relative tolerance, in [0, 1).
        teams: share the samples of a batch among teams of ranks.

    Raises:
        BadInput: on every rank, for arguments that do not fit.
        SolveFailed: when a solve fails, or the normal equations are singular.
    """

    def __init__(
        self,
        G: ReducedMap,
        *,
        noise: float | Array | None = None,
        prior: Prior | None = None,
        steps: int = 1,
        damping: float = 0.0,
        rcond: float = 1e-10,
        jacobian: Literal["auto", "matrix", "products"] = "auto",
        max_cg: int = 200,
        cg_rtol: float = 1e-8,
        teams: Teams | None = None,
    ) -> None:
        super().__init__(G, teams)
        self._noise = checked_noise(self, noise, prior)
        # What is kept depends on it.
        self._noise.flags.writeable = False
        check_prior(G, prior, self.name)
        self._prior = prior
        with parallel.together(self.comm):
            self._steps = at_least(steps, 1, f"{self.name}: steps")
            self._rcond = number_in(rcond, FRACTION, f"{self.name}: rcond")
            self._cg: dict[str, Any] = {
                "max_iterations": at_least(max_cg, 1, f"{self.name}: max_cg"),
                "rtol": number_in(cg_rtol, FRACTION, f"{self.name}: cg_rtol"),
            }
        self.damping = damping
        self._by_matrix = self._use_matrix(jacobian)
        self._may_share = self._by_matrix and isinstance(G, ReducedMap) and G.residual.is_affine
        self._shared: tuple[Key, Array] | None = None
        self._seen: tuple[Key | None, Array, list[Linearization]] | None = None

    @property
    def damping(self) -> float:
        """The damping of the calls to come. Collective to set; rank 0's number counts."""
        return self._damping

    @damping.setter
    def damping(self, value: float) -> None:
        given = 0.0
        with parallel.together(self.comm):
            given = number_in(value, AT_LEAST_0, f"{self.name}: damping")
        self._damping = parallel.of_rank_0(self.comm, given)
        self._back: Array | None = None

    @property
    def noise(self) -> Array:
        """Σ, (size_out,); another noise needs another inverse, as do other steps and another prior."""
        return self._noise

    @property
    def prior(self) -> Prior | None:
        """The prior."""
        return self._prior

    @property
    def steps(self) -> int:
        """How many steps a call makes."""
        return self._steps

    def _use_matrix(self, jacobian: str) -> bool:
        G = self.G
        one_of(jacobian, ("auto", "matrix", "products"), f"{self.name}: jacobian")
        if jacobian == "products" and self.prior is None:
            raise BadInput(f"{self.name}: jacobian='products' needs a prior, which is its preconditioner")
        small = min(G.size_in, G.size_out) <= _SIDE and G.size_in * G.size_out <= _ENTRIES
        return jacobian == "matrix" or (jacobian == "auto" and (small or self.prior is None))

    def observe(self, x: Any) -> Any:
        """G(x), (..., size_in) -> (..., size_out); the next correction at the same x saves its forward solves.

        Collective. Where parameters of the problem have changed in between, it solves again.
        """
        points = self._checked(x, self.G.size_in, "x")
        rows, lead = as_rows(points), points.shape[:-1]
        values = by_teams(self.teams, len(rows), lambda mine: self._observed(rows[mine]))
        return like(x, values.reshape(*lead, self.G.size_out))

    def _observed(self, rows: Array) -> Array:
        points = self.G.linearize_rows(rows) if len(rows) else []
        self._seen = (self._parameters_key(), rows.copy(), points)
        return np.array([point.value for point in points]).reshape(len(rows), self.G.size_out)

    # -- the steps -----------------------------------------------------------------------------------------------------

    def _corrections(self, x: Array | None, residual: Array) -> Array:
        shared = self._shared_step(x)
        if shared is not None:
            return self._linear(x, residual, *shared)
        here = self._needed(x)
        moved = here.copy()
        goal: Array | None = None
        for _ in range(self.steps):
            points = self._points(moved)
            values: Array = np.array([point.value for point in points])
            goal = values + residual if goal is None else goal
            for i, point in enumerate(points):
                moved[i] += self._step_at(point, moved[i], goal[i] - values[i])
                point.close()
        PETSc.garbage_cleanup(self.G.comm)
        return moved - here

    def _points(self, rows: Array) -> list[Linearization]:
        seen, self._seen = self._seen, None
        if seen is not None and seen[0] is self._parameters_key() and np.array_equal(seen[1], rows):
            return seen[2]
        return self.G.linearize_each(rows)

    def _parameters_key(self) -> Key | None:
        """``parameters_key``, None of a map without parameters. Collective."""
        return parameters_key(self.G) if isinstance(self.G, ReducedMap) else None

    def _linear(self, x: Array | None, residual: Array, J: Array, back: Array) -> Array:
        """Steps of a map whose derivative is J everywhere; ``back`` as of ``_way_back``."""
        dx: Array = np.zeros((len(residual), self.G.size_in))
        left = residual
        for _ in range(self.steps):
            pull = self._pull(None if x is None else x + dx)
            dx = dx + self._scaled(left, J, pull) @ back
            if pull is not None:
                dx -= pull
            left = residual - dx @ J.T
        return dx

    def _shared_step(self, x: Array | None) -> tuple[Array, Array] | None:
        """J and the way back of a map whose derivative is the same everywhere; None of another. Collective."""
        if not self._may_share:
            return None
        key = parameters_key(self.G)
        if self._shared is None or self._shared[0] is not key:
            lin = self.G.linearize(np.zeros(self.G.size_in) if x is None else x[0])
            if not lin.is_everywhere_the_same:
                self._may_share = False
                return None
            self._shared = (key, lin.matrix())
            self._back = None
            lin.close()
        J = self._shared[1]
        if self._back is None:
            self._back = self._way_back(J)
        return J, self._back

    def _step_at(self, point: Linearization, x: Array, residual: Array) -> Array:
        pull = self._pull(x)
        if not self._by_matrix:
            return self._by_products(point, x, residual)
        J = point.matrix()
        dx = self._solved(J, self._scaled(residual[None, :], J, None if pull is None else pull[None, :]))[0]
        return dx if pull is None else dx - pull

    def _pull(self, x: Array | None) -> Array | None:
        """(x − mean) / (1 + damping): the step without data is minus this. None without a prior."""
        if self.prior is None:
            return None
        return np.asarray((self._needed(x) - self.prior.mean) / (1.0 + self.damping))

    def _scaled(self, residual: Array, J: Array, pull: Array | None) -> Array:
        """Σ⁻¹ (dy + J pull), rows."""
        return np.asarray((residual if pull is None else residual + pull @ J.T) / self.noise)

    # With A = Σ⁻¹ J and the metric D = C / (1 + damping), or I / damping, the step is D Aᵀ (I + A D Aᵀ)⁻¹ b − pull,
    # b = Σ⁻¹ (dy + J pull), and D Aᵀ (I + A D Aᵀ)⁻¹ = (AᵀA + D⁻¹)⁻¹ Aᵀ.

    def _way_back(self, J: Array) -> Array:
        """W (size_out, size_in) with D Aᵀ (I + A D Aᵀ)⁻¹ b = b W. Collective."""
        return self._solved(J, np.eye(len(J)))

    def _solved(self, J: Array, b: Array) -> Array:
        """D Aᵀ (I + A D Aᵀ)⁻¹ b for each row of b (k, size_out): (k, size_in). Collective."""
        A = J / self.noise[:, None]
        if self.prior is None and self.damping == 0.0:
            return np.asarray(b @ _pseudo_inverse(A, self._rcond).T)
        prior, scale = self.prior, self.damping if self.prior is None else 1.0 + self.damping
        rows, columns = A.shape
        if rows <= columns:
            root = A if prior is None else prior.color_adjoint(A)
            dual = self._spd_solve(np.eye(rows) + root @ root.T / scale, b) @ A
            return np.asarray((dual if prior is None else prior.covariance(dual)) / scale)
        precision = np.eye(columns) if prior is None else prior.precision(np.eye(columns))
        return self._spd_solve(A.T @ A + scale * 0.5 * (precision + precision.T), b @ A)

    def _spd_solve(self, matrix: Array, rows: Array) -> Array:
        try:
            return np.asarray(scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix), rows.T).T)
        except (scipy.linalg.LinAlgError, ValueError) as error:
            # The matrix is the same on every rank, and so is this.
            raise SolveFailed(
                f"{self.name}: the normal equations of {len(matrix)} unknowns are singular to rounding ({error}); try "
                "more damping, or a prior with a smaller standard deviation"
            ) from error

    def _by_products(self, point: Linearization, x: Array, residual: Array) -> Array:
        """The same step by conjugate gradients. Collective."""
        prior, scale, weights = self.prior, 1.0 + self.damping, 1.0 / self.noise**2
        assert prior is not None

        def data_hessian(v: Array) -> Array:
            return point.vjp(weights * point.jvp(v))

        def metric(v: Array) -> Array:
            return np.asarray(prior.covariance(v) / scale)

        b = point.vjp(weights * residual) - prior.gradient(x)
        return conjugate_gradients(data_hessian, metric, b, metric(b), self.G.dot, **self._cg).p


def _pseudo_inverse(A: Array, rcond: float) -> Array:
    """A⁺, singular values below rcond times the largest dropped."""
    U, s, Vt = scipy.linalg.svd(A, full_matrices=False)
    kept = s > rcond * s.max(initial=0.0)
    return np.asarray((Vt[kept].T / s[kept]) @ U[:, kept].T)


def checked_noise(inverse: MapInverse, noise: float | Array | None, prior: Prior | None) -> Array:
    """The noise as a vector (size_out,), 1 where none is needed. Collective over ``inverse.comm``.

    Raises:
        BadInput: when it is missing beside a prior, not positive, or of another length.
    """
    comm, size, what = inverse.comm, inverse.G.size_out, f"{inverse.name}: noise"
    vector: Any = noise
    with parallel.together(comm):
        if noise is None and prior is not None:
            raise BadInput(
                f"{what}: expected the standard deviation of the observations, which weighs them against the prior, "
                "got None"
            )
        if noise is None or np.ndim(array_like(noise, what)) == 0:
            vector = np.full(size, 1.0 if noise is None else positive(noise, what))
    sigma = parallel.checked_on_all(comm, as_array(vector), size, what)
    if sigma.ndim != 1 or sigma.min(initial=1.0) <= 0.0:
        raise BadInput(f"{what}: expected positive standard deviations, a number or one per observation")
    return sigma


def check_prior(G: ReducedMap, prior: Prior | None, name: str) -> None:
    """Refuse a prior of other vectors than the controls of G. Local; layouts are replicated.

    Raises:
        BadInput: then.
    """
    if prior is not None and (prior.kind != "replicated" or prior.size != G.size_in):
        raise BadInput(
            f"{name}: prior: expected one for {G.size_in} values in layout='replicated', got {prior.size} values in "
            f"layout={prior.kind!r}"
        )
