"""a(u, v) = λ b(u, v) for all v: two forms as matrices, and pairs of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem
from dolfinx.fem import petsc as fem_petsc
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem.compiling import compiled_together
from relax.base.fem.forms import num_owned, values_of
from relax.base.fem.orientation import Orientation
from relax.base.la.eigen import EigenPairs, checked_options
from relax.base.la.matrices import SYMMETRY, asymmetry, restricted
from relax.base.la.options import Options
from relax.base.types import Array
from relax.errors import BadInput, SolveFailed


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Pairs of one point, in order, and the whole cluster of the last: (p,), (p, owned), ranges, (p,).

    ``offset`` is what was subtracted from all eigenvalues for the solve.
    """

    values: Array
    vectors: Array
    clusters: tuple[range, ...]
    residuals: Array
    offset: float


@dataclass(frozen=True, eq=False)
class LowerBound:
    """A number below all eigenvalues, which a(u, v) is assembled less: a - offset b is positive definite.

    Attributes:
        offset: the constant in a.
        find: gives it for the present values of coefficients. Collective.
    """

    offset: fem.Constant
    find: Callable[[], float]


class Pencil:
    """a(u, v) = λ b(u, v) for all v in V that vanish where ``bcs`` clamp; assembled again for each point.

    Collective, as is every method. Clamped rows and columns are left out of the matrices, so they bring no eigenvalues.

    Args:
        V: the space.
        bcs: where the values are zero.
        a, b: bilinear forms with fixed quadrature degrees, and tags in one place. Where no lower bound is given they
            are a user's: that they are symmetric, and b positive definite, is seen to at each point.
        options: of the eigensolver.
        part: a part of a whose mean tells close from equal eigenvalues (see ``EigenPairs``).
        lower_bound: below the spectrum; b is then ∫ u v.

    Attributes:
        free: this rank's free degrees of freedom.
        num_free: over all ranks.
        stiffness, mass: a (less the lower bound) and b on the free degrees of freedom, of the last ``assemble``.
    """

    def __init__(
        self,
        V: fem.FunctionSpace,
        bcs: Sequence[fem.DirichletBC],
        a: ufl.Form,
        b: ufl.Form,
        options: Options | None = None,
        *,
        part: ufl.Form | None = None,
        lower_bound: LowerBound | None = None,
    ) -> None:
        self._options = checked_options(options)
        self.space, self.comm, self.bcs, self.a, self.b = V, V.mesh.comm, tuple(bcs), a, b
        self.num_owned = num_owned(V)
        clamped = [bc.dof_indices()[0] for bc in bcs]
        owned = np.arange(self.num_owned, dtype=np.int32)
        self.free = np.setdiff1d(owned, np.concatenate(clamped)) if clamped else owned
        self.num_free = parallel.total(self.comm, len(self.free))
        self._lower_bound = lower_bound
        forms = [form for form in (a, b, part) if form is not None]
        matrices = [_FreePart(form, self.free) for form in compiled_together(forms, V.mesh)]
        self._a, self._b = matrices[:2]
        self._part = matrices[2] if part is not None else None
        if self._part is not None:
            self._part.assemble()
        self._in_b = (*b.coefficients(), *b.constants())
        self._b_values: list[Array] | None = None
        self._orientation = Orientation(V, self.free, are_unit=lower_bound is not None)
        self._floor: float | None = None if lower_bound is None else 0.0

    @property
    def stiffness(self) -> PETSc.Mat:
        return self._a.matrix

    @property
    def mass(self) -> PETSc.Mat:
        return self._b.matrix

    @property
    def offset(self) -> float:
        """What a is less at present, times b."""
        return 0.0 if self._lower_bound is None else float(self._lower_bound.offset.value)

    def assemble(self, offset: float | None = None) -> bool:
        """``stiffness`` and ``mass`` for what the coefficients hold; whether ``mass`` has changed.

        Args:
            offset: that of an earlier point; the present lower bound when not given.
        """
        if self._lower_bound is not None:
            self._lower_bound.offset.value = self._lower_bound.find() if offset is None else offset
        self._a.assemble()
        return self.assemble_mass()

    def assemble_mass(self) -> bool:
        """``mass`` alone, where a coefficient of b has changed since it was assembled; whether one has."""
        now = [np.array(values_of(c)) for c in self._in_b]
        known = self._b_values
        is_new = known is None or any(not np.array_equal(a, b) for a, b in zip(now, known, strict=True))
        if self._in_b and known is not None:
            is_new = parallel.any_rank(self.comm, is_new)
        if is_new:
            self._b.assemble()
            self._b_values = now
        return is_new

    def solve(self, k: int, bounds: tuple[float, float] | None = None) -> Spectrum:
        """The k lowest pairs for the present coefficients, or the k between bounds, with their signs and bases.

        ``assemble`` included.

        Raises:
            BadInput: when k is more than there are, or a potential is not finite.
            SolveFailed: when a or b is not as it must be, not all k are found, or one is not accurate.
        """
        if k > self.num_free:
            raise BadInput(
                f"k: expected at most {self.num_free}, the degrees of freedom that are not clamped, got {k}; "
                "refine the mesh or raise the degree"
            )
        mass_is_new = self.assemble()
        if self._lower_bound is None:
            self._check_symmetric("a", self.stiffness)
            self._check_symmetric("b", self.mass)
        part = None if self._part is None else self._part.matrix
        search = EigenPairs(self.stiffness, self.mass, part, self._options, self._floor)
        if self._lower_bound is None and mass_is_new:
            self._check_definite(search)
        offset, first = self.offset, search.floor
        pairs = search.lowest(k) if bounds is None else search.between(k, bounds[0] - offset, bounds[1] - offset)
        if search.floor < first:
            self._floor = search.floor  # at the next point it will be about as low
        clusters = pairs.clusters()
        vectors = np.zeros((len(pairs.values), self.num_owned))
        vectors[:, self.free] = self._orientation.oriented(pairs.vectors, clusters)
        return Spectrum(pairs.values + offset, vectors, clusters, pairs.residuals, offset)

    def _check_symmetric(self, name: str, matrix: PETSc.Mat) -> None:
        gap = asymmetry(matrix)
        if not np.isfinite(gap):
            raise SolveFailed(f"{name}: its matrix holds NaN or infinity; expected coefficients that are finite here")
        if gap > SYMMETRY:
            raise SolveFailed(
                f"{name}: expected a symmetric form, {name}(u, v) = {name}(v, u), got one that is off by {gap:.1e} of "
                "its size; an interior penalty form needs both its consistency terms, and advection has no place in it"
            )

    def _check_definite(self, search: EigenPairs) -> None:
        bad = search.indefinite()
        if bad:
            self._b_values = None  # the next point is looked at again
            raise SolveFailed(
                f"b is not positive definite: b(u, u) > 0 fails in {bad} of {self.num_free} dimensions of the space "
                "without its clamped values. Expected a b that sees every part of the state, with positive "
                "coefficients; a pressure or a multiplier has no mass, so it cannot be part of the state. "
                "(a, b) is for a(u, v) = λ b(u, v), in this order"
            )

    def close(self) -> None:
        """Free the matrices."""
        self._orientation.close()
        for matrix in (self._a, self._b, self._part):
            if matrix is not None:
                matrix.destroy()


class _FreePart:
    """The matrix of a form on the free degrees of freedom. Collective."""

    def __init__(self, form: fem.Form, free: npt.NDArray[np.int32]) -> None:
        self._form = form
        self._free = free
        self._whole = fem_petsc.create_matrix(form)
        self._matrix: PETSc.Mat | None = None

    @property
    def matrix(self) -> PETSc.Mat:
        assert self._matrix is not None, "assembled before it is used"
        return self._matrix

    def assemble(self) -> None:
        self._whole.zeroEntries()
        fem_petsc.assemble_matrix(self._whole, self._form)
        self._whole.assemble()
        self._matrix = restricted(self._whole, self._free, self._matrix)

    def destroy(self) -> None:
        self._whole.destroy()
        if self._matrix is not None:
            self._matrix.destroy()
