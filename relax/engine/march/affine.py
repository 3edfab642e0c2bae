"""Matrices that are affine in scalar controls: each term assembled once, then combined."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import ufl
from dolfinx import fem
from petsc4py import PETSc

from relax.base.fem.compiling import Together
from relax.base.fem.forms import given_back, holds, jumps_with
from relax.base.fem.pointwise import AtPoints
from relax.base.la.factors import Key
from relax.engine.residual.derived import DerivedForms
from relax.engine.residual.registers import Registers


@dataclass(frozen=True)
class Scalar:
    """One entry of a Constant, and the register of dm for that Constant."""

    constant: fem.Constant
    direction: fem.Constant
    entry: int

    @property
    def value(self) -> float:
        """As it stands."""
        return float(np.asarray(self.constant.value).reshape(-1)[self.entry])

    def point_along(self) -> None:
        """Let dm be one in this entry, and zero in the others of its Constant. Local."""
        self.direction.value[...] = 0.0
        self.direction.value.reshape(-1)[self.entry] = 1.0


def scalars_in(form: ufl.Form, registers: Registers, constants: Sequence[fem.Constant]) -> list[Scalar]:
    """The entries of those Constants, controls, that stand in a form."""
    pairs = zip(registers.controls, registers.tangent_controls, strict=True)
    standing = [(c, d) for c, d in pairs if any(c is one for one in constants) and holds(form, c)]
    return [Scalar(c, d, j) for c, d in standing for j in range(c.value.size)]


def slopes(weak: DerivedForms, form: ufl.Form, scalars: Sequence[Scalar]) -> list[ufl.Form | None] | None:
    """For each scalar the derivative of a form along its register of dm, one form for all entries of a Constant.

    None unless the form is affine in all of them together.
    """
    constants = {id(s.constant): s.constant for s in scalars}
    if any(jumps_with(form, c) for c in constants.values()):
        return None
    if any(
        c is t for f in form.coefficients() if isinstance(f, AtPoints) for t in f.depends_on for c in constants.values()
    ):
        return None
    terms = {id(c): weak.in_direction(form, i) for i, c in enumerate(weak.controls) if id(c) in constants}
    if any(holds(slope, c) for slope in terms.values() if slope is not None for c in constants.values()):
        return None
    return [terms[id(s.constant)] for s in scalars]


def _derived(slope: ufl.Form) -> ufl.Form:
    return slope


class AffineMatrix:
    """A(c) = A_0 + Σ c_i A_i for scalars c_i. Collective, as are all methods.

    Args:
        assemble: writes the matrix at the present values of everything into another one.
        create: an empty matrix of the right sparsity.
        scalars: c_i.
        terms: for each the form of A_i, where its register of dm points along it.
        together: compiles them.
        bcs: conditions whose rows and columns are the identity's in A_0, and zero in A_i.
    """

    def __init__(
        self,
        assemble: Callable[[PETSc.Mat], None],
        create: Callable[[], PETSc.Mat],
        scalars: Sequence[Scalar],
        terms: Sequence[ufl.Form | None],
        together: Together,
        bcs: Sequence[fem.DirichletBC] = (),
    ) -> None:
        self._assemble = assemble
        self._create = create
        standing = [(s, t) for s, t in zip(scalars, terms, strict=True) if t is not None]
        self._scalars = [s for s, _ in standing]
        distinct = {id(t): t for _, t in standing}
        later = {key: together.add(partial(_derived, t)) for key, t in distinct.items()}
        self._forms = [later[id(t)] for _, t in standing]
        self._bcs = list(bcs)
        self._base: PETSc.Mat | None = None
        self._terms: list[PETSc.Mat] = []
        self._stamp: weakref.ref[Key] | None = None

    def write(self, into: PETSc.Mat, stamp: Key) -> None:
        """The matrix at the scalars' present values.

        Args:
            into: a matrix of ``create``.
            stamp: names everything else that the matrix depends on; terms are assembled anew when it changes.
        """
        if not into.assembled:
            # Gives the matrix its sparsity, which copies need.
            self._assemble(into)
        base = self._current(stamp)
        base.copy(into, PETSc.Mat.Structure.SAME_NONZERO_PATTERN)
        for scalar, term in zip(self._scalars, self._terms, strict=True):
            if scalar.value != 0.0:
                into.axpy(scalar.value, term, PETSc.Mat.Structure.SUBSET_NONZERO_PATTERN)

    def _current(self, stamp: Key) -> PETSc.Mat:
        if self._base is None:
            self._base = self._create()
            self._terms = [fem_petsc.create_matrix(form()) for form in self._forms]
        if self._stamp is None or self._stamp() is not stamp:
            with given_back([s.constant for s in self._scalars]):
                for s in self._scalars:
                    s.constant.value[...] = 0.0
                self._assemble(self._base)
            with given_back([s.direction for s in self._scalars]):
                for s, matrix, form in zip(self._scalars, self._terms, self._forms, strict=True):
                    s.point_along()
                    matrix.zeroEntries()
                    fem_petsc.assemble_matrix(matrix, form(), self._bcs, 0.0)
                    matrix.assemble()
            self._stamp = weakref.ref(stamp)
        return self._base

    def destroy(self) -> None:
        """Free the terms."""
        for matrix in (self._base, *self._terms):
            if matrix is not None:
                matrix.destroy()
        self._base, self._terms, self._stamp = None, [], None
