"""EigenMap: Hellmann and Feynman, bordered derivatives, clusters, torch, on any ranks and in both layouts."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
import ufl
from contract import COMM, LAYOUTS, close, everyone_has, raised_everywhere, same
from dolfinx import fem, la, mesh
from mpi4py import MPI
from torch.autograd import gradcheck, gradgradcheck

from relax import EigenMap, FieldValues, IdentityPrior, SolutionLayer, check_map, control_values, gauss_newton, meshes
from relax.base.fem.layout import SpaceLayout
from relax.errors import BadInput, BadProblem
from relax.pdes.schrodinger import eigenstates

ALONE = MPI.COMM_SELF
# Direct solvers with condition numbers below 1e5, and gaps that are a tenth of the energies or more.
RANKS = 1e-9


def well(x):
    """No symmetry, so no energies that are equal."""
    return 20 * np.sin(4 * x[0] + 0.3) + 9 * x[0] + 5 * x[1]


def interval(comm):
    return meshes.interval(8, (0.0, 1.0), comm=comm)


def oblong(comm):
    return mesh.create_rectangle(comm, ((0.0, 0.0), (1.0, 1.3)), (3, 3))


def squares(comm):
    return mesh.create_unit_square(comm, 4, 4, mesh.CellType.quadrilateral)


DOMAINS = {"interval": interval, "oblong": oblong}


class Point:
    """A map, a control, directions and seeds that do not depend on the number of ranks."""

    def __init__(self, G):
        self.G = G
        self.whole = SpaceLayout(G.potential.function_space)
        control_values(G, 0.0)
        V = fem.Function(G.potential.function_space)
        V.interpolate(well)
        self.m = self.whole.gather(V.x.array[: self.whole.num_owned])
        self.d = np.random.default_rng(1).standard_normal((4, self.whole.size)) * 5
        self.w = np.random.default_rng(2).standard_normal((4, G.size_out))

    def cut(self, vectors):
        """In the layout of the map."""
        if self.G.layout.kind == "replicated":
            return vectors
        return np.ascontiguousarray(self.whole.spread(vectors)[..., : self.whole.num_owned])

    def whole_of(self, vectors):
        return vectors if self.G.layout.kind == "replicated" else self.whole.gather(vectors)


# -- against something else --------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("states", [False, True], ids=["energies", "states"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS.keys())
def test_derivatives_are_derivatives(domain, layout, states):
    """Taylor orders 2 and 3, adjoint gap, Hessian symmetry; and a slope by central differences."""
    with EigenMap(domain(COMM), 2, states=states, layout=layout) as G:
        p = Point(G)
        m, d = p.cut(p.m), p.cut(0.1 * p.d[0])
        assert check_map(G, m).failures == []
        slope = (G(m + 1e-3 * d) - G(m - 1e-3 * d)) / 2e-3
        with G.linearize(m) as lin:
            close(lin.jvp(d), slope, 1e-6)
            assert G.dot(lin.vjp(p.w[0]), d) == pytest.approx(p.w[0] @ slope, rel=1e-5)


@pytest.mark.parametrize("space", [("Lagrange", 1), ("Lagrange", 2), ("DG", 0)], ids=["P1", "P2", "DG0"])
def test_gradient_of_an_energy_is_the_density_against_the_basis(space):
    """dE_i / dV_j = (phi_j, psi_i²), with the states of ``eigenstates``."""
    domain = oblong(COMM)
    Q = fem.functionspace(domain, space)
    with EigenMap(domain, 3, potential_space=Q) as G:
        m = control_values(G, well)
        V = fem.Function(Q)
        V.interpolate(well)
        found = eigenstates(domain, V, 3)
        close(G(m), found.energies, 1e-12)
        B = SpaceLayout(Q)
        with G.linearize(m) as lin:
            J = lin.matrix()
            for i, psi in enumerate(found.states):
                b = fem.assemble_vector(fem.form(ufl.TestFunction(Q) * psi**2 * ufl.dx))
                b.scatter_reverse(la.InsertMode.add)
                close(J[i], B.gather(b.array[: B.num_owned]), 1e-10)
                # The potential 1 adds 1 to every energy.
                assert J[i].sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.ranks(1, 2)
def test_values_are_those_of_eigenstates():
    domain = oblong(COMM)
    with EigenMap(domain, 2, degree=1, states=True) as G:
        m = control_values(G, well)
        found = eigenstates(domain, well, 2, degree=1)
        B = FieldValues(found.space)
        expected = np.concatenate([found.energies, *(B.value(psi) for psi in found.states)])
        close(G(m), expected, RANKS)
        close(B.value(G.problem.state), expected[2 : 2 + B.size], RANKS)
        close(G.present_control(), m, 1e-15)
        everyone_has(G(m))


def test_second_derivative_is_that_of_perturbation_theory():
    """E_i'' = 2 sum_n <n|dV|i>² / (E_i - E_n) and dpsi_i = sum_n <n|dV|i> / (E_i - E_n) psi_n over all other states."""
    domain = meshes.interval(5, (0.0, 1.0), comm=COMM)
    with EigenMap(domain, 3, states=True) as G:
        p = Point(G)
        V = fem.Function(G.potential.function_space)
        V.interpolate(well)
        basis = eigenstates(domain, V, 9)
        dV = fem.Function(G.potential.function_space)
        dV.x.array[:] = p.whole.spread(p.d[0])
        B = FieldValues(basis.space)
        with G.linearize(p.m) as lin:
            tangent = lin.jvp(p.d[0])
            for i in range(3):
                elements = [
                    COMM.allreduce(fem.assemble_scalar(fem.form(psi * dV * basis.states[i] * ufl.dx)))
                    for psi in basis.states
                ]
                others = [n for n in range(9) if n != i]
                mixed = {n: elements[n] / (basis.energies[i] - basis.energies[n]) for n in others}
                close(tangent[i], elements[i], 1e-9)
                start = 3 + i * B.size
                close(tangent[start : start + B.size], sum(mixed[n] * B.value(basis.states[n]) for n in others), 1e-8)
                seed = np.eye(G.size_out)[i]
                assert p.d[0] @ lin.hvp(seed, p.d[0]) == pytest.approx(
                    2 * sum(elements[n] * mixed[n] for n in others), rel=1e-8
                )


# -- the protocol of a reduced map -------------------------------------------------------------------------------------


@pytest.mark.ranks(2, 3)
@pytest.mark.parametrize("states", [False, True], ids=["energies", "states"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_numbers_as_on_one_rank(layout, states):
    """Values, and products with directions and seeds in every shape; on an interval of 8 cells and on 3."""
    for make in (oblong, lambda comm: meshes.interval(3, (0.0, 1.0), comm=comm)):
        with EigenMap(make(COMM), 2, states=states, layout=layout) as G, EigenMap(make(ALONE), 2, states=states) as H:
            p, q = Point(G), Point(H)
            close(p.m, q.m)
            with G.linearize(p.cut(p.m)) as lin, H.linearize(q.m) as alone:
                everyone_has(lin.value)
                close(lin.value, alone.value, RANKS)
                close(lin.jvp(p.cut(p.d)), [alone.jvp(d) for d in q.d], RANKS)
                close(p.whole_of(lin.vjp(p.w)), [alone.vjp(w) for w in q.w], RANKS)
                each = [alone.hvp(w, d) for w, d in zip(q.w, q.d, strict=True)]
                close(p.whole_of(lin.hvp(p.w, p.cut(p.d))), each, RANKS)
                close(p.whole_of(lin.hvp(p.w[0], p.cut(p.d))), [alone.hvp(q.w[0], d) for d in q.d], RANKS)
                close(p.whole_of(lin.hvp(p.w, p.cut(p.d[0]))), [alone.hvp(w, q.d[0]) for w in q.w], RANKS)
                close(p.whole_of(lin.matrix()), alone.jvp(np.eye(H.size_in)).T, RANKS)
                assert lin.jvp(p.cut(p.d[:0])).shape == (0, G.size_out) and lin.vjp(p.w[:0]).shape == (0, G.size_in)


def test_points_do_not_touch_each_other():
    with EigenMap(oblong(COMM), 2, states=True) as G:
        p = Point(G)
        M = [p.m, p.m + p.d[0], p.m - p.d[1]]
        alone = []
        for m in M:
            with G.linearize(m) as lin:
                alone.append((lin.value, lin.vjp(p.w[0]), lin.jvp(p.d[2]), lin.hvp(p.w[0], p.d[2])))
        points = G.linearize_each(np.array(M))
        close(G(np.array(M).reshape(3, 1, -1))[:, 0], [point.value for point in points], 1e-12)
        for i in (2, 0, 1, 2):
            same(points[i].hvp(p.w[0], p.d[2]), alone[i][3])
            same(points[i].vjp(p.w[0]), alone[i][1])
            same(points[i].jvp(p.d[2]), alone[i][2])
            same(points[i].value, alone[i][0])


def test_counts():
    """First derivatives of energies take no solve; a Hessian action of one takes one."""
    with EigenMap(interval(COMM), 2) as G:
        p = Point(G)
        with G.linearize(p.m) as lin:
            lin.jvp(p.d), lin.vjp(p.w)
            assert G.counts == {"forward": 1, "tangent": 0, "adjoint": 0}
            lin.hvp([1.0, 0.0], p.d[0])
            assert G.counts == {"forward": 1, "tangent": 1, "adjoint": 0}


@pytest.mark.ranks(1, 2)
def test_closed_maps_and_points_say_so():
    G = EigenMap(interval(COMM), 1, states=True)
    m = control_values(G, well)
    lin, kept = G.linearize(m), G.linearize(m)
    lin.close()
    assert "closed" in str(raised_everywhere(BadInput, lambda: lin.jvp(m)))
    kept.jvp(m)
    G.close()
    G.close()
    for action in (lambda: G(m), lambda: G.linearize(m), lambda: kept.jvp(m), lambda: kept.vjp(kept.value)):
        assert "closed" in str(raised_everywhere(BadInput, action))


@pytest.mark.ranks(1, 2)
def test_wrong_input_is_refused_on_every_rank():
    domain, other = interval(COMM), interval(COMM)
    vectors = fem.functionspace(domain, ("Lagrange", 1, (2,)))
    for kind, action, words in (
        (BadInput, lambda: EigenMap(domain, 0), "at least 1"),
        (BadInput, lambda: EigenMap(domain, 2, layout="else"), "layout"),
        (BadInput, lambda: EigenMap(domain, 2, options={"ksp_type": "cg"}), "eps_"),
        (BadProblem, lambda: EigenMap(domain, 2, potential_space=vectors), "scalars"),
        (BadProblem, lambda: EigenMap(domain, 2, potential_space=fem.functionspace(other, ("DG", 0))), "same mesh"),
    ):
        assert words in str(raised_everywhere(kind, action))
    with EigenMap(domain, 2) as G:
        m = control_values(G, well)
        nan = m.copy()
        nan[0 if COMM.rank == 0 else slice(0)] = np.nan
        with G.linearize(m) as lin:
            for action, words in (
                (lambda: G(nan), "NaN"),
                (lambda: G(m[1:]), "expected shape"),
                (lambda: G.linearize(m[None]), "one control"),
                (lambda: lin.vjp(np.ones(3)), "expected shape"),
                (lambda: lin.hvp(np.ones((2, 2)), np.stack([m, m, m])), "leading axes"),
            ):
                assert words in str(raised_everywhere(BadInput, action))
    with EigenMap(domain, 16) as G:
        assert "at most 15" in str(raised_everywhere(BadInput, lambda: G(m)))


def test_bordered_systems_take_options():
    with EigenMap(oblong(COMM), 2, states=True, options={"lin_pc_type": "lu", "eps_tol": 1e-12}) as G:
        p = Point(G)
        with G.linearize(p.m) as lin, EigenMap(oblong(COMM), 2, states=True) as H, H.linearize(p.m) as expected:
            close(lin.vjp(p.w), expected.vjp(p.w), 1e-9)
            factor = G._system.bordered.find(lin._derivatives()._point.state_keys[0])
            assert factor.solver.ksp.getPC().getType() == "lu"


# -- clusters ----------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_a_cluster_has_the_derivative_of_its_sum():
    """E_2 = E_3 in a square: their sum by central differences; each of them says what to do."""
    with EigenMap(squares(COMM), 3, states=True) as G:
        p = Point(G)
        zero, d = np.zeros(G.size_in), p.d[0]
        equal = np.zeros(G.size_out)
        equal[:3] = [0.5, 2.0, 2.0]
        slope = equal @ (G(1e-4 * d) - G(-1e-4 * d)) / 2e-4
        with G.linearize(zero) as lin:
            assert lin.value[1] == pytest.approx(lin.value[2], rel=1e-12)
            assert lin.vjp(equal) @ d == pytest.approx(slope, rel=1e-6)
            first = np.eye(G.size_out)[0]
            assert np.isfinite(lin.hvp(first, d)).all()
            state, lone = np.zeros(G.size_out), np.zeros(G.size_out)
            state[3 : 3 + G._system.state_layout.size] = 1.0  # of psi_1, which is alone
            lone[3 + G._system.state_layout.size] = 1.0  # of psi_2
            assert np.isfinite(lin.vjp(state)).all()
            for action, words in (
                (lambda: lin.vjp(np.eye(G.size_out)[1]), "weigh them equally"),
                (lambda: lin.vjp(np.stack([equal, lone])), "rotation"),
                (lambda: lin.jvp(d), "take vjp"),
                (lambda: lin.hvp(equal, d), "take vjp"),
                (lambda: lin.matrix(), "E_2 = "),
            ):
                message = str(raised_everywhere(BadInput, action))
                assert words in message and "one cluster of 2" in message and "E_3 = " in message


@pytest.mark.ranks(1, 2)
def test_a_cluster_that_is_cut_says_how_far_it_goes():
    with EigenMap(squares(COMM), 2) as G:
        zero = np.zeros(G.size_in)
        with G.linearize(zero) as lin:
            assert np.isfinite(lin.vjp([1.0, 0.0])).all()
            for action in (lambda: lin.vjp([0.0, 1.0]), lambda: lin.jvp(zero), lambda: lin.hvp([1.0, 1.0], zero)):
                assert "raise k to 3" in str(raised_everywhere(BadInput, action))


# -- who uses it -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("states", [False, True], ids=["energies", "states"])
def test_torch(states):
    # Central differences of 1e-4 are exact to its square times the third derivative, and to rounding, 1e-12 over it.
    differences = {"eps": 1e-4, "atol": 1e-6, "rtol": 1e-5}
    torch.manual_seed(0)
    with EigenMap(meshes.interval(3, (0.0, 1.0), comm=COMM), 2, states=states) as G:
        layer = SolutionLayer(G)
        m = torch.from_numpy(control_values(G, well))
        batch = torch.stack([m, 0.5 * m])
        close(layer(batch), [G(row) for row in batch.numpy()], 1e-12)
        assert gradcheck(layer, (m.clone().requires_grad_(),), check_forward_ad=True, **differences)
        assert gradgradcheck(layer, (m.clone().requires_grad_(),), check_fwd_over_rev=True, **differences)
        with G.linearize(m.numpy()) as lin:
            close(torch.func.jacrev(layer)(m), lin.matrix(), 1e-9)


def test_a_potential_for_given_energies():
    """Gauss and Newton: the potential nearest to zero that has these energies."""
    with EigenMap(interval(COMM), 3) as G:
        target = G(control_values(G, well))
        prior = IdentityPrior(G, std=30.0)
        result = gauss_newton(G, target, noise=1e-4, prior=prior)
        np.testing.assert_allclose(G(result.value), target, atol=1e-3)
        assert np.abs(G(np.zeros(G.size_in)) - target).min() > 1.0


def test_memory_does_not_grow():
    """Less than 2 kB a point: its states are 10 kB, a matrix 80 kB. The C library deals in pieces of 128 kB."""
    with EigenMap(meshes.unit_square(8, comm=COMM), 2, states=True) as G:
        w = np.ones(G.size_out)
        rng = np.random.default_rng(0)

        def points(number):
            for _ in range(number):
                with G.linearize(G.layout.checked(10 * rng.uniform(size=G.size_in), "control")) as lin:
                    lin.vjp(w)

        points(20)
        before = resident()
        points(50)
        assert COMM.allreduce(resident() - before, op=MPI.MAX) < 50 * 2048 + 2 * 128 * 1024


def resident():
    """Resident memory of this process in bytes."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096
