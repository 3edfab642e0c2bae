"""EigenMap of two forms: controls in either form, bounds, and what is refused in words."""

from __future__ import annotations

import basix.ufl
import numpy as np
import pytest
import torch
import ufl
from contract import COMM, LAYOUTS, close, everyone_has, raised_everywhere
from dolfinx import fem
from mpi4py import MPI
from torch.autograd import gradcheck
from ufl import div, ds, dx, exp, grad, inner

from relax import EigenMap, LearnedCoefficient, SolutionLayer, check_map, clamp, clamp_boundary, control_values, meshes
from relax.errors import BadInput, BadProblem, SolveFailed
from relax.pdes.schrodinger import eigenstates

ALONE = MPI.COMM_SELF
# Condition numbers below 1e6, gaps that are a tenth of the eigenvalues or more.
RANKS = 1e-9


class String:
    """-((1 + t²) u')' = λ e^r u in (0, 1), u(0) = 0, and a mass M² at the other end; t, r and M are controls."""

    def __init__(self, comm, cells=8, controls="trM", end=True):
        self.mesh = meshes.interval(cells, (0.0, 1.0), comm=comm)
        V, Q = (fem.functionspace(self.mesh, ("Lagrange", degree)) for degree in (2, 1))
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        known = {"t": fem.Function(Q), "r": fem.Function(Q), "M": fem.Constant(self.mesh, 0.0)}
        self.t, self.r, self.M = known.values()
        a = (1 + self.t**2) * inner(grad(u), grad(v)) * dx
        b = exp(self.r) * u * v * dx
        self.forms = a, b + self.M**2 * u * v * meshes.ds(self.mesh, "right") if end else b
        self.bcs = [clamp(V, "left")]
        self.controls = [known[c] for c in controls]
        self.values = [{"t": lambda x: 0.5 + np.sin(3 * x[0]), "r": lambda x: x[0] ** 2, "M": 0.8}[c] for c in controls]

    def map(self, k=3, **options):
        return EigenMap(self.forms, k, controls=self.controls, bcs=self.bcs, **options)


# -- derivatives -------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("states", [False, True], ids=["values", "states"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("controls", ["t", "r", "trM"], ids=["in a", "in b", "in both"])
def test_derivatives_are_derivatives(controls, layout, states):
    """Taylor orders 2 and 3, adjoint gap, Hessian symmetry; and a slope by central differences."""
    string = String(COMM, controls=controls)
    with string.map(2, states=states, layout=layout) as G:
        m = control_values(G, *string.values)
        report = check_map(G, m)
        assert report.failures == [] and report.adjoint_gap < 1e-12
        d, w = 0.1 * np.cos(m), np.cos(np.arange(G.size_out))
        slope = (G(m + 1e-3 * d) - G(m - 1e-3 * d)) / 2e-3
        with G.linearize(m) as lin:
            close(lin.jvp(d), slope, 1e-5)
            assert G.dot(lin.vjp(w), d) == pytest.approx(w @ slope, rel=1e-4)


@pytest.mark.ranks(2, 3)
def test_same_numbers_as_on_one_rank():
    """Values and every product, also of several directions, of the lowest pairs and of some from the interior."""
    for options in ({}, {"bounds": (3.0, 100.0)}):
        ours, theirs = String(COMM), String(ALONE)
        with ours.map(2, states=True, **options) as G, theirs.map(2, states=True, **options) as H:
            m = control_values(G, *ours.values)
            close(control_values(H, *theirs.values), m, RANKS)
            d = np.random.default_rng(1).standard_normal((2, G.size_in))
            w = np.random.default_rng(2).standard_normal((2, G.size_out))
            with G.linearize(m) as lin, H.linearize(m) as alone:
                everyone_has(lin.value)
                for a, b in (
                    (lin.value, alone.value),
                    (lin.jvp(d), [alone.jvp(x) for x in d]),
                    (lin.vjp(w), [alone.vjp(x) for x in w]),
                    (lin.hvp(w, d), [alone.hvp(*x) for x in zip(w, d, strict=True)]),
                ):
                    close(a, b, RANKS)


@pytest.mark.ranks(1, 2)
def test_states_are_of_norm_one_in_b_and_stay_so():
    """b(u, u) = 1 at each control: (2 B u) · du = -uᵀ dB u, by a density that grows everywhere at one rate."""
    string = String(COMM, controls="r", end=False)
    with string.map(2, states=True) as G:
        m = control_values(G, *string.values)
        size = G.size_out // 2 - 1
        with G.linearize(m) as lin:
            density = 2.0
            scaled = G(m + np.log(density))
            close(scaled[:2], lin.value[:2] / density, 1e-10)
            close(scaled[2:], lin.value[2:] / np.sqrt(density), 1e-9)
            # e^(r + ε): λ e^-ε and u e^(-ε / 2).
            along = lin.jvp(np.ones(G.size_in))
            close(along[:2], -lin.value[:2], 1e-10)
            close(along[2:], -0.5 * lin.value[2:], 1e-9)
            seed = np.zeros(G.size_out)
            seed[2 : 2 + size] = 1.0
            second = lin.hvp(seed, np.ones(G.size_in))
            assert second.sum() == pytest.approx(0.25 * lin.value[2 : 2 + size].sum(), rel=1e-8)


def test_points_and_coefficients_do_not_touch_each_other():
    """What is no control is live: the next call sees it, an older point does not; also a density, behind its matrix."""
    string = String(COMM, controls="t")
    string.M.value = 0.5
    with string.map(2, states=True) as G:
        m = control_values(G, *string.values)
        w, d = np.ones(G.size_out), np.cos(m)
        before = G.linearize(m)
        expected = before.vjp(w), before.hvp(w, d)
        string.M.value, string.r.x.array[:] = 1.5, 1.0
        after = G.linearize(m)
        assert not np.allclose(after.value, before.value)
        close(before.vjp(w), expected[0], 1e-12)
        assert string.M.value == 1.5
        close(after.value, G(m), 1e-12)
        close(before.hvp(w, d), expected[1], 1e-12)
        string.M.value, string.r.x.array[:] = 0.5, 0.0
        close(G(m), before.value, 1e-12)


@pytest.mark.ranks(1, 2)
def test_a_string_with_a_mass_at_its_end():
    """u = sin(k x), λ = k², k tan k = 1 / M²; and dλ/dM by the implicit function."""
    string = String(COMM, cells=32, controls="M")
    with string.map(3) as G, G.linearize([0.8]) as lin:
        mass = 0.64
        k = np.sqrt(lin.value)
        # Cells of 1/32 and degree 2: λ is off by (h k)⁴ / 720 of itself, below 1e-5 up to k = 7.
        for i, guess in enumerate((0.95, 3.55, 6.5)):
            for _ in range(50):
                guess -= (mass * guess * np.tan(guess) - 1) / (mass * (np.tan(guess) + guess / np.cos(guess) ** 2))
            assert k[i] == pytest.approx(guess, rel=1e-5)
            slope = -guess * np.tan(guess) / (mass * (np.tan(guess) + guess / np.cos(guess) ** 2))
            assert lin.matrix()[i, 0] == pytest.approx(2 * guess * slope * 2 * 0.8, rel=1e-4)


# -- bounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_bounds_take_a_part_of_the_spectrum():
    """Any window, also one centred on an eigenvalue, and one of Schrödinger's equation."""
    string = String(COMM)
    with string.map(7) as G:
        m = control_values(G, *string.values)
        every = G(m)
    for first, last in ((0, 2), (2, 5), (3, 3), (1, 6)):
        low, high = every[first] - 0.7, every[last] + 0.7
        with string.map(last - first + 1, bounds=(low, high)) as G:
            close(G(m), every[first : last + 1], 1e-9)
    box = meshes.interval(20, (0.0, 1.0), comm=COMM)
    with EigenMap(box, 3, bounds=(15.0, 100.0)) as G:
        m = control_values(G, lambda x: 3.0 * x[0])
        close(G(m), eigenstates(box, lambda x: 3.0 * x[0], 4).energies[1:], 1e-9)
        assert check_map(G, m).failures == []


@pytest.mark.ranks(1, 2)
def test_other_than_k_eigenvalues_between_bounds_are_told():
    string = String(COMM)
    with string.map(4) as G:
        m = control_values(G, *string.values)
        every = G(m)
    for k, bounds, words in (
        (2, (10.0, 200.0), ("expected k = 2", "there are 3 (1 are below them)")),
        (4, (10.0, 200.0), ("expected k = 4", "there are 3")),
        (1, (3.0, 4.0), ("there are 0",)),
        (2, (10.0, every[2]), ("lies at the bound", "move the bound")),
        (1, (every[1] * (1 + 1e-9), every[2] + 1.0), ("lies at the bound",)),
    ):
        with string.map(k, bounds=bounds) as G:
            message = str(raised_everywhere(SolveFailed, lambda: G(m)))
            assert all(w in message for w in words)
    # Nothing is counted where the shifted operator has no factor: what is found says so.
    options = {"st_ksp_type": "gmres", "st_ksp_rtol": 1e-13, "st_pc_type": "jacobi", "eps_tol": 1e-11}
    with string.map(3, bounds=(10.0, 200.0), options=options) as G:
        close(G(m), every[1:], 1e-7)
    with string.map(2, bounds=(10.0, 200.0), options=options) as G:
        assert "3 or more" in str(raised_everywhere(SolveFailed, lambda: G(m)))


# -- who uses it -------------------------------------------------------------------------------------------------------


def test_torch():
    """A layer, with its derivatives of both orders, of controls in both forms."""
    string = String(COMM, cells=3)
    with string.map(2) as G:
        layer, m = SolutionLayer(G), torch.from_numpy(control_values(G, *string.values))
        assert gradcheck(layer, (m.requires_grad_(),), eps=1e-5, atol=1e-6, rtol=1e-5)
        target = layer(m).detach() * 1.1
        H = torch.autograd.functional.hvp(lambda m: ((layer(m) - target) ** 2).sum(), m, torch.ones_like(m))[1]
        with G.linearize(m.detach().numpy()) as lin:
            J, w = lin.matrix(), 2 * (lin.value - target.numpy())
            close(H, 2 * J.T @ (J @ np.ones(G.size_in)) + lin.hvp(w, np.ones(G.size_in)), 1e-9)


@pytest.mark.ranks(1, 2)
def test_a_density_that_is_not_positive_is_a_failed_solve():
    """So a line search goes back from it; nothing of it stays."""
    domain = meshes.interval(6, (0.0, 1.0), comm=COMM)
    V = fem.functionspace(domain, ("Lagrange", 2))
    u, v, density = ufl.TrialFunction(V), ufl.TestFunction(V), fem.Function(V)
    forms = inner(grad(u), grad(v)) * dx, density * u * v * dx
    with EigenMap(forms, 2, controls=[density], bcs=[clamp_boundary(V)]) as G:
        good = control_values(G, 1.0)
        value = G(good)
        for bad, words in ((lambda x: x[0] - 0.5, "dimensions of the space"), (0.0, "11 of 11"), (-1.0, "11 of 11")):
            message = str(raised_everywhere(SolveFailed, lambda bad=bad: G(control_values(G, bad))))
            assert "b is not positive definite" in message and words in message
        close(G(good), value, 1e-12)


@pytest.mark.ranks(1, 2)
def test_wrong_input_is_refused_on_every_rank():
    domain = meshes.unit_square(3, comm=COMM)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v, c = ufl.TrialFunction(V), ufl.TestFunction(V), fem.Constant(domain, 1.0)
    a, b, bcs = c * inner(grad(u), grad(v)) * dx, u * v * dx, [clamp_boundary(V)]
    other = fem.functionspace(domain, ("Lagrange", 2))
    elsewhere = ufl.TrialFunction(other) * ufl.TestFunction(other) * dx
    parts = [basix.ufl.element("Lagrange", "triangle", 1, shape=(2,)), basix.ufl.element("Lagrange", "triangle", 1)]
    W = fem.functionspace(domain, basix.ufl.mixed_element(parts))
    (w, p), (z, q) = ufl.TrialFunctions(W), ufl.TestFunctions(W)
    stokes = (inner(grad(w), grad(z)) - p * div(z) - q * div(w)) * dx
    torch.manual_seed(1)
    law = LearnedCoefficient(torch.nn.Linear(1, 1).double(), [fem.Function(V)])
    for kind, action, words in (
        (BadInput, lambda: EigenMap(a, 1), "a pair (a, b)"),
        (BadInput, lambda: EigenMap((a,), 1), "a pair (a, b)"),
        (BadInput, lambda: EigenMap((a, u * v), 1), "did you multiply by dx?"),
        (BadProblem, lambda: EigenMap((a, v * dx), 1), "b: expected a bilinear form"),
        (BadProblem, lambda: EigenMap((a, elsewhere), 1), "of one space"),
        (
            BadProblem,
            lambda: EigenMap((a, law * u * v * dx), 1, controls=[law]),
            "only the residual of a Problem may hold",
        ),
        (BadProblem, lambda: EigenMap((a, b), 1, bcs=[clamp_boundary(V, 1.0)]), "zero where they are clamped"),
        (BadProblem, lambda: EigenMap((a, b), 1, controls=[fem.Constant(domain, 1.0)]), "controls[0]"),
        (BadInput, lambda: EigenMap((a, b), 0), "at least 1"),
        (BadInput, lambda: EigenMap((a, b), 5, bcs=bcs)([]), "at most 4"),
        (BadInput, lambda: EigenMap((a, b), 1, degree=2), "degree: of a mesh alone"),
        (BadInput, lambda: EigenMap(domain, 1, controls=[c]), "controls: of a pair of forms alone"),
        (BadInput, lambda: EigenMap((a, b), 1, bounds=(1.0, np.inf)), "two finite numbers"),
        (BadInput, lambda: EigenMap((a, b), 1, bounds=(2.0, 1.0)), "low below high"),
        (BadInput, lambda: EigenMap((a, b), 1, bounds=3.0), "two finite numbers"),
        (SolveFailed, lambda: EigenMap((a + u.dx(0) * v * dx, b), 1, bcs=bcs)([]), "a: expected a symmetric form"),
        (SolveFailed, lambda: EigenMap((a, u * v * ds), 1)([]), "dimensions of the space"),
        (SolveFailed, lambda: EigenMap((a, inner(grad(u), grad(v)) * dx), 1)([]), "fails in 1 of 16 dimensions"),
        (SolveFailed, lambda: EigenMap((stokes, inner(w, z) * dx), 1)([]), "a pressure or a multiplier has no mass"),
        (SolveFailed, lambda: EigenMap((a, b), 1, controls=[c], bcs=bcs)._system.solve(np.array([np.nan])), "NaN"),
    ):
        assert words in str(raised_everywhere(kind, action))
