"""Faults of closed forms."""

from __future__ import annotations

from faults.mutant import Mutant

MUTANTS = [
    Mutant(
        "terms.append(second * a[key[:1]] * a[key[1:]])",
        "terms.append(second * a[key[:1]])",
        "test_symbolic_pieces.py -k propagation",
        "the chain rule's second derivative takes one slope for two",
    ),
    Mutant(
        "(key[:1], key[1:]), (key[1:], key[:1])",
        "(key[:1], key[1:])",
        "test_symbolic_pieces.py -k propagation",
        "the product rule takes one of the mixed terms",
    ),
    Mutant(
        "fine * _FALL < coarse",
        "fine < np.inf",
        "test_symbolic.py -k verdicts",
        "a formula need not come nearer to the finite elements as they are refined",
    ),
    Mutant(
        "[4, 5, 6, 8], [4, 5, 7, 8]",
        "[4, 5, 6, 8], [4, 5, 6, 8]",
        "test_symbolic_pieces.py -k halved",
        "a tetrahedron's children overlap",
    ),
    Mutant(
        "2.0 * (states[-1] - states[-2]) / self._k - rate",
        "(states[-1] - states[-2]) / self._k",
        "test_symbolic_pieces.py -k waves",
        "the velocity at the end of a step is its mean",
    ),
    Mutant(
        "answers[1] < _FALL * answers[0]",
        "answers[1] > 0.0",
        "test_symbolic.py -k eigenvalues",
        "at an eigenvalue one of many solutions is called the solution",
    ),
    Mutant(
        "<= 1e-9 * abs(value):",
        "<= 1e-9 * max(1.0, abs(value)):",
        "test_symbolic.py -k small_and_large",
        "a small constant of a formula is written as 0",
    ),
    Mutant(
        "if not np.isfinite(value):",
        "if value == 0.5:",
        "test_symbolic.py -k mistakes",
        "NaN in a Constant is an error of SymPy's",
        file="translate.py",
    ),
    Mutant(
        '("square", quadratic), *others]',
        "*others]",
        "test_symbolic.py -k centres",
        "no polynomial of one variable vanishes with its slope at both ends of an interval",
    ),
    Mutant(
        '[("+", affine, term) for term in _products',
        '[("+", AMPLITUDE, term) for term in _products',
        "test_symbolic.py -k beside",
        "what stands beside a boundary layer is no affine function",
    ),
    Mutant(
        "away = corners[:, 0] - apart",
        "away = apart - corners[:, 0]",
        "test_symbolic_pieces.py -k boundary",
        "normals point inward",
    ),
    Mutant(
        "kinds=np.repeat(self.kinds, num)",
        "kinds=np.tile(self.kinds, num)",
        "test_symbolic_pieces.py -k boundary",
        "parts of the boundary wander as the mesh is halved",
    ),
    Mutant(
        "form += flux * v * ds(k + 1)",
        "form += 0 * flux * v * ds(k + 1)",
        "test_symbolic.py -k flux_that_is_wrong",
        "the finite elements know no flux",
    ),
    Mutant(
        "assembled(form, dual) + hats.integrals(flux)",
        "assembled(form, dual) + 0 * hats.integrals(flux)",
        "test_symbolic.py -k flux_that_is_wrong",
        "the weak residual has no part on the boundary",
    ),
    Mutant(
        "form, bcs = form + self._g * v * ds, []",
        "form, bcs = form + 0 * self._g * v * ds, []",
        "test_symbolic.py -k eigenvalues",
        "without held values nothing shows an eigenvalue",
    ),
    Mutant(
        "if any(slopes):",
        "if False:",
        "test_symbolic.py -k mistakes",
        "the slope of a test function on the boundary is dropped",
    ),
]
