"""Closed forms of solutions: proposed by size, fitted to an equation, judged by finite elements."""

from __future__ import annotations

import time as clock
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import sympy
import ufl
from dolfinx import fem
from mpi4py import MPI

from relax.base import parallel
from relax.base.checks import at_least, of_kind, positive, several
from relax.errors import BadInput, NotConverged
from relax.symbolic.ansatz import likely, possible
from relax.symbolic.equation import Equation
from relax.symbolic.genetic import bred
from relax.symbolic.jets import FUNCTIONS
from relax.symbolic.judge import Judge, Verdict
from relax.symbolic.pointwise import Formula, PointwiseFit, in_sympy
from relax.symbolic.trees import Tree

# Formulas that are shared among the ranks at once: the same on any number of them.
_TOGETHER = 12


@dataclass(frozen=True)
class CandidateFormula:
    """One of the best formulas of their sizes: no smaller one has a smaller misfit.

    Attributes:
        expression: in SymPy.
        size: nodes of its tree.
        misfit: the root of the mean square of what it leaves of the equation and of its conditions at points, and of
            its distance from the finite elements, each relative to what is there.
        residual: as :attr:`SymbolicSolution.residual`.
        error: as :attr:`SymbolicSolution.error`.
    """

    expression: sympy.Expr
    size: int
    misfit: float
    residual: float
    error: float


@dataclass(frozen=True)
class SymbolicSolution:
    """What was found; printed, it says in words whether it is the solution.

    Attributes:
        expression: the best formula, in SymPy's symbols x, y, z, t.
        is_exact: whether it is the solution: its residuals vanish, and its distance from the finite elements falls with
            their error.
        residual: ∫ c_0 v + c · grad v dx + ∫ b v ds of it, of the worst of five times and of the mesh's hat functions
            v that do not vanish only where u is held, as a part of |c_0| + (|c| + |b|)/h over a cell.
        error: its largest distance from the finite elements on the finer mesh; the misfit of a formula that is not
            exact where the conditions have no "boundary".
        candidates: the best formulas by size.
        tried: how many formulas were fitted.
        solves: whether it leaves nothing of the equation and its conditions at points, be it the solution or not.
    """

    expression: sympy.Expr
    is_exact: bool
    residual: float
    error: float
    candidates: tuple[CandidateFormula, ...]
    tried: int
    solves: bool

    def __str__(self) -> str:
        if self.is_exact:
            return f"u = {self.expression} is the solution (weak residual {self.residual:.1e}, {self.tried} formulas)"
        if self.solves:
            return (
                f"u = {self.expression} solves the equation and its conditions (weak residual {self.residual:.1e}), "
                f"but finite elements do not tend to it (distance {self.error:.1e}): the mesh is too coarse, or there "
                "are other solutions"
            )
        return (
            f"no closed form was found among {self.tried} formulas; the best of them, u = {self.expression}, has the "
            f"error {self.error:.1e} and the weak residual {self.residual:.1e}"
        )


def solve(
    residual: ufl.Form,
    conditions: Mapping[str, Any],
    *,
    t: float = 1.0,
    time: fem.Constant | None = None,
    operators: Sequence[str] = ("exp", "sin", "log", "inv", "square"),
    size: int = 9,
    budget: float = 60.0,
) -> SymbolicSolution:
    """A formula for the solution u of an equation, R(u, u_t, u_tt, x, t; v) = 0 for all test functions v.

    Collective; the same on every rank. Polynomials, products of functions of one variable, plane waves and sums of
    these are tried first, and what gplearn proposes where it is installed, then formulas by size, of coordinates,
    constants and ``operators``. Constants start from exponents
    and frequencies in a finite element solution (linear steps of the implicit midpoint rule), and are fitted by least
    squares to that solution, then to the strong equation and its conditions at points, with derivatives by propagation.
    A formula is the solution when nothing is left at the points, the weak residual on the mesh vanishes, and its
    distance from the finite elements falls as they are refined, in space and in time. Panju and Ghodsi,
    arXiv:2011.06673, pose the task; the method is another.

    Args:
        residual: R, a UFL form of ``u = relax.symbolic.unknown(V)``, ``u.dt``, ``u.dt.dt`` and a test function v: an
            integral over the domain, and, where u has a natural condition, b v over the boundary or over tagged parts
            of it (:func:`relax.meshes.ds`), so that the flux is -b there; b may have u, its gradient, the normal and
            ``time`` in it, and is ``fem.Constant(mesh, 0.0)`` where nothing flows. The normal is that of the mesh,
            of a disk that of a polygon. V is a scalar Lagrange space on a coarse mesh of simplices; a few hundred cells
            are enough. Constants count as the numbers that they hold now.
        conditions: numbers or UFL expressions of ``ufl.SpatialCoordinate(mesh)``: "boundary", u on the boundary where
            the residual has no integral ``* ufl.ds``, which also may depend on ``time``; "initial", u at time 0, of
            evolutions; "velocity", u_t at time 0, of those with u_tt. Without "boundary" the domain is there a part of
            all space: finite elements then take the boundary values of the formula that is judged.
        t: the end of the time that is looked at.
        time: the Constant that stands for t in the residual and in the boundary values.
        operators: what formulas are made of besides sums and products, among those named by default.
        size: the largest number of nodes of formulas that are enumerated.
        budget: CPU seconds of rank 0 after which the best formula is taken as it is.

    Returns:
        The formula, with ``is_exact`` or its error.

    Raises:
        BadProblem: for a residual of another kind.
        BadInput: for conditions that have no closed form or do not fit the equation; on every rank.
        SolveFailed: where the finite elements do not solve it.
    """
    began = clock.process_time()
    operators = several(operators, "names of functions", "operators")
    if unknown := [name for name in operators if name not in FUNCTIONS]:
        raise BadInput(f"operators: expected some of {', '.join(FUNCTIONS)}, got {unknown[0]!r}")
    size, end, budget = at_least(size, 1, "size"), positive(t, "t"), positive(budget, "budget")
    of_kind(residual, ufl.Form, "a UFL form in relax.symbolic.unknown(V) and a test function", "residual")
    comm = residual.ufl_domain().ufl_cargo().comm
    with parallel.together(comm):
        equation = Equation(residual, conditions, time)
    fluxes = [(integral.subdomain_id(), flux) for integral, flux in equation.terms]
    said = str((equation.parts, fluxes, equation.conditions, operators, size, end))
    if parallel.any_rank(comm, said != parallel.of_rank_0(comm, said)):
        raise BadInput("symbolic.solve: expected the same equation, conditions and settings on every rank")
    judge = Judge(equation, end)
    fit = judge.pointwise()

    front: list[Formula] = []
    tried, source = 0, _proposals(fit, equation, operators, size)
    while batch := list(islice(source, _TOGETHER)):
        mine: list[Formula] = []
        with parallel.together(comm):
            mine = [fit.fitted(batch[i], tried + i) for i in range(comm.rank, len(batch), comm.size)]
        by_rank = parallel.on_each_rank(comm, mine)
        fitted = [by_rank[i % comm.size][i // comm.size] for i in range(len(batch))]
        tried += len(batch)
        front = _pareto([*front, *fitted])
        for formula in sorted((f for f in fitted if f.solves), key=lambda f: f.size):
            verdict = judge(formula)
            if verdict.is_exact:
                return _answer(judge, formula, verdict, front, tried)
        if parallel.of_rank_0(comm, clock.process_time() - began) > budget:
            break
    if not front:
        raise NotConverged("symbolic.solve: no formula is finite at all points; try other operators")
    best, verdict = min(((f, judge(f)) for f in front), key=lambda pair: (not pair[0].solves, pair[1].error))
    return _answer(judge, best, verdict, front, tried)


def _proposals(fit: PointwiseFit, equation: Equation, operators: Sequence[str], size: int) -> Iterator[Tree]:
    """Every formula that is tried, the likely ones first. Collective: all ranks take as many."""
    num_axes = len(equation.symbols)
    yield from likely(num_axes, operators)
    if fit.known[1].size:
        yield from parallel.on_rank_0(equation.V.mesh.comm, lambda: bred(*fit.known, operators))
    yield from possible(num_axes, operators, size)


def _pareto(formulas: Sequence[Formula]) -> list[Formula]:
    """Those that no smaller or equal one fits better than."""
    kept: list[Formula] = []
    for formula in sorted(formulas, key=lambda f: (f.size, f.misfit)):
        if np.isfinite(formula.misfit) and (not kept or formula.misfit < 0.9 * kept[-1].misfit):
            kept.append(formula)
    return kept


def _answer(judge: Judge, best: Formula, verdict: Verdict, front: Sequence[Formula], tried: int) -> SymbolicSolution:
    """The answer. Collective."""
    symbols, comm = judge.equation.symbols, judge.equation.V.mesh.comm
    candidates = []
    for formula in front:
        seen = judge(formula)
        # Simplified on each rank by itself, one formula could be written in two ways.
        candidates.append(
            CandidateFormula(_said(comm, formula, symbols), formula.size, formula.misfit, seen.weak, seen.error)
        )
    said = _said(comm, best, symbols)
    return SymbolicSolution(said, verdict.is_exact, verdict.weak, verdict.error, tuple(candidates), tried, best.solves)


def _said(comm: MPI.Comm, formula: Formula, symbols: Sequence[sympy.Symbol]) -> sympy.Expr:
    return parallel.on_rank_0(comm, lambda: in_sympy(formula, symbols))
