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
from relax.base.la.factors import Key
from relax.engine.residual.derived import DerivedForms


@dataclass(frozen=True)
class Scalar:
    """One entry of a Constant."""

    constant: fem.Constant
    entry: int

    @property
    def value(self) -> float:
        """As it stands."""
        return float(np.asarray(self.constant.value).reshape(-1)[self.entry])


def scalars_in(form: ufl.Form, constants: Sequence[fem.Constant]) -> list[Scalar]:
    """The entries of those Constants that stand in a form."""
    return [Scalar(c, j) for c in constants if holds(form, c) for j in range(c.value.size)]


def slopes(weak: DerivedForms, form: ufl.Form, scalars: Sequence[Scalar]) -> list[ufl.Form | None] | None:
    """The derivative of a form in each scalar; None unless it is affine in all of them together."""
    if any(jumps_with(form, s.constant) for s in scalars):
        return None
    terms = [weak.in_constant(form, s.constant, s.entry) for s in scalars]
    for slope in terms:
        if slope is not None and any(holds(slope, s.constant) for s in scalars):
            return None
    return terms


def _derived(slope: ufl.Form) -> ufl.Form:
    return slope


class AffineMatrix:
    """A(c) = A_0 + Σ c_i A_i for scalars c_i. Collective, as are all methods.

    Args:
        assemble: writes the matrix at the present values of everything into another one.
        create: an empty matrix of the right sparsity.
        scalars: c_i.
        terms: the forms of A_i.
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
        self._forms = [together.add(partial(_derived, t)) for _, t in standing]
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
            for matrix, form in zip(self._terms, self._forms, strict=True):
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
