"""What is looked at of a random map: its numbers, and whether they are right."""

from __future__ import annotations

import contextlib
import io

import numpy as np

from relax import CheckFailed, check_map

# Direct solvers on a few dozen cells; Newton's method to rounding.
SAME = 1e-10
# As many directions as it takes for sparse matrices and block solves.
DIRECTIONS = 5
# Difference quotients of fourth order, by steps relative to the control.
QUOTIENT, STEPS = 1e-6, (1e-2, 2.5e-3, 6e-4)


def numbers_of(G, seed):
    """Value, tangents, adjoints and Hessian actions at a random point: the same point on any number of ranks."""
    point, D, W = point_of(G, seed)
    with G.linearize(point) as lin:
        return {"value": lin.value, "tangent": lin.jvp(D), "adjoint": lin.vjp(W), "Hessian": lin.hvp(W, D)}


def point_of(G, seed):
    """A control near the present one, directions in units of its size, weights of observations."""
    rng = np.random.default_rng([seed, 1])
    present = G.present_control()
    sizes = G.layout.sizes(present)
    point = present + 0.1 * sizes * rng.uniform(-0.5, 1.0, G.size_in)
    D = sizes * rng.uniform(-0.5, 1.0, (DIRECTIONS, G.size_in))
    return point, D, rng.uniform(-1.0, 1.0, (DIRECTIONS, G.size_out))


def gaps(ours, theirs):
    """How far each of the numbers differs from the others', relative to the largest entry."""
    found = {}
    for what, a in ours.items():
        # A Hessian action that is nothing but rounding (an affine map) is compared beside the adjoint.
        beside = 1e-4 * np.abs(theirs["adjoint"]).max() if what == "Hessian" else 0.0
        size = max(np.abs(theirs[what]).max(), beside, 1e-12)
        found[what] = float(np.abs(a - theirs[what]).max() / size)
    return found


def independent_gaps(G, seed):
    """Adjoint and Hessian action beside difference quotients of values and of adjoints, and beside those of a block."""
    point, D, W = point_of(G, seed)
    d, w = D[-1], W[-1]

    def gradient(m):
        with G.linearize(m) as lin:
            return lin.vjp(w)

    def slope(f, step):
        wide, narrow = ((f(point + h * d) - f(point - h * d)) / (2.0 * h) for h in (step, step / 2))
        return (4.0 * narrow - wide) / 3.0

    with G.linearize(point) as lin:
        alone = {"tangent": lin.jvp(d), "adjoint": lin.vjp(w), "Hessian": lin.hvp(w, d)}
        block = {"tangent": lin.jvp(D)[-1], "adjoint": lin.vjp(W)[-1], "Hessian": lin.hvp(W, D)[-1]}
    g, H = alone["adjoint"], alone["Hessian"]
    # A map that is zero has derivatives of zero.
    terms = max(np.abs(w * alone["tangent"]).sum() + np.abs(g * d).sum(), 1e-300)
    size = max(np.abs(H).max(), np.abs(g).max(), 1e-300)

    def quotient(gap):
        """The gap of the first step that is small enough, as what is strongly curved needs it."""
        found = []
        for step in STEPS:
            found.append(gap(step))
            if found[-1] < QUOTIENT:
                break
        return float(min(found))

    quotients = {
        "gradient beside a quotient": quotient(lambda step: abs(slope(lambda m: w @ G(m), step) - g @ d) / terms),
        "Hessian beside a quotient": quotient(lambda step: np.abs(slope(gradient, step) - H).max() / size),
    }
    return quotients, {f"{what} of a block beside one": gap for what, gap in gaps(block, alone).items()}


def looked_at(G, seed):
    """The figures of a map on one rank, by name, and what is wrong in words: nothing, where all is well."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            report = check_map(G, seed=seed)
        except CheckFailed as error:
            report = error.report
    quotients, blocks = independent_gaps(G, seed)
    wrong = [f"check_map: {words}" for words in report.failures]
    for gaps_found, bound in ((quotients, QUOTIENT), (blocks, SAME)):
        wrong += [
            f"{what}: {gap:.1e}, expected below {bound:.0e}" for what, gap in gaps_found.items() if not gap < bound
        ]
    figures = {
        "adjoint gap": report.adjoint_gap,
        "Hessian symmetry gap": report.hessian_gap,
        "first Taylor order": report.first_order,
        "second Taylor order": report.second_order,
    }
    return figures | quotients | blocks, wrong
