"""What every map must do (observables: observable_contract.py, layers: layer_contract.py). A new PDE inherits it:

class TestCubicReaction(MapContract):
    make = staticmethod(cubic_reaction)
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pytest
from dolfinx import fem
from mpi4py import MPI

from relax import Evolution, FieldValues, ReducedMap, check_map, meshes
from relax.base.fem.layout import Replicated
from relax.engine.march import expanded
from relax.errors import BadInput

COMM = MPI.COMM_WORLD
LAYOUTS = ["replicated", "owned"]
# Direct solvers on small meshes: condition numbers below 1e4 times the rounding of 1e-16, and room for the other order
# in which several ranks, or a block of right-hand sides, are summed.
CLOSE = 1e-10
# The same factor, the same right-hand side; only sums over ranks may come in another order.
SAME = 1e-12


def close(a, b, tolerance=CLOSE):
    """Equal relative to the largest entry (an absolute difference where all are zero), on this rank."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    gap = largest(a - b) / max(largest(b), 1e-12)
    assert gap <= tolerance, f"relative difference {gap:.1e}, expected at most {tolerance:.0e}"


def same(a, b):
    """Bitwise on one rank, up to the order of sums over several."""
    if COMM.size == 1:
        np.testing.assert_array_equal(a, b)
    else:
        close(a, b, SAME)


def everyone_has(array):
    """The array is the same, to the bit, on every rank."""
    assert all(other == np.asarray(array).tobytes() for other in COMM.allgather(np.asarray(array).tobytes()))


def raised_everywhere(kind, action):
    """Every rank gets this error; no rank is left behind. Returns this rank's."""
    with pytest.raises(kind) as caught:
        action()
    COMM.Barrier()
    return caught.value


class Bench:
    """A problem made on a mesh, its maps, and controls and directions that do not depend on the number of ranks."""

    def __init__(self, contract, comm=COMM):
        self.problem = contract.make(contract.domain(comm))
        #: The controls as they lie in the control vector.
        self.controls_in_order = expanded(self.problem) if self.is_in_time else self.problem.controls
        self.whole = Replicated(comm, self.controls_in_order)
        self._observe = contract.observe
        # A map takes its first guess from the state's register when it is made: all of them take this one.
        self._guess = self.problem.state.x.array.copy()
        self.replicated = self.new_map()
        #: The controls that the problem was made with, in the replicated order.
        self.start = self.replicated.present_control()

    @property
    def is_in_time(self):
        return isinstance(self.problem, Evolution)

    @cached_property
    def owned(self):
        return self.new_map(layout="owned")

    def new_map(self, **options):
        """One more map of the problem."""
        self.problem.state.x.array[:] = self._guess
        return ReducedMap(self.problem, self._observe(self.problem), **options)

    def controls(self, k, seed=1):
        """Some controls near the start: (k, size_in)."""
        return self.start + 0.2 * np.random.default_rng(seed).uniform(-1.0, 1.0, (k, self.whole.size))

    def directions(self, *shape, seed=2):
        """Random directions: (*shape, size_in)."""
        return np.random.default_rng(seed).standard_normal((*shape, self.whole.size))

    def seeds(self, *shape, seed=3):
        """Random observations: (*shape, size_out)."""
        return np.random.default_rng(seed).standard_normal((*shape, self.replicated.size_out))

    def cut(self, vector):
        """This rank's part of a control vector: (size,) in the replicated order to (size,) in the owned one."""
        return self.owned.layout.join(self.whole.split(vector))

    def whole_of(self, owned):
        """The reverse. Collective."""
        parts = self.owned.layout.split(np.ascontiguousarray(owned))
        lengths = [_num_owned(c) for c in self.controls_in_order]
        return self.whole.join([p[:n] for p, n in zip(parts, lengths, strict=True)])

    def held_after(self, m):
        """What the controls hold after a run at ``m``: those with a value per step hold the last one."""
        found = [*self.whole.split(m)]
        last = {id(c): part for c, part in zip(self.controls_in_order, found, strict=True)}
        parts = [last[id(c)] for c in self.controls_in_order]
        lengths = [_num_owned(c) for c in self.controls_in_order]
        return self.whole.of_values([p[:n] for p, n in zip(parts, lengths, strict=True)])

    def is_live(self, parameter):
        """Whether a user may set it: the time of an evolution is set by its steps."""
        return not (self.is_in_time and parameter is self.problem.time)

    def close(self):
        self.replicated.close()
        if "owned" in self.__dict__:
            self.owned.close()


def _num_owned(control):
    if isinstance(control, fem.Function):
        dofmap = control.function_space.dofmap
        return dofmap.index_map.size_local * dofmap.index_map_bs
    return None


def values_of(register):
    """The array behind a Function or a Constant."""
    return register.x.array if isinstance(register, fem.Function) else register.value


class MapContract:
    """A PDE and its derivatives, alone, in batches, in any order, on any number of ranks, in both layouts.

    Attributes:
        make: a function of a mesh that returns the Problem or the Evolution.
        domain: a function of a communicator that returns the mesh.
        observe: a function of the problem that returns the observable.
    """

    make = None
    domain = staticmethod(lambda comm: meshes.unit_square(4, comm=comm))
    observe = staticmethod(lambda problem: FieldValues(problem.state.function_space))

    # -- derivatives ---------------------------------------------------------------------------------------------------

    @pytest.mark.ranks(1, 2)
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_derivatives_are_derivatives(self, bench, layout):
        """Taylor orders 2 and 3, adjoint gap, Hessian symmetry."""
        m = bench.controls(1)[0]
        report = check_map(bench.replicated, m) if layout == "replicated" else check_map(bench.owned, bench.cut(m))
        assert report.failures == []
        # An independent look at one number: the slope, by a central difference (its error is of order 1e-8 here).
        G = bench.replicated
        d, w = 0.1 * bench.directions(), bench.seeds()
        slope = w @ (G(m + 1e-3 * d) - G(m - 1e-3 * d)) / 2e-3
        with G.linearize(m) as lin:
            assert G.dot(lin.vjp(w), d) == pytest.approx(slope, rel=1e-4, abs=1e-6 * np.abs(w * G(m)).sum())

    @pytest.mark.ranks(1, 2)
    def test_layouts_agree(self, bench):
        m, d, w = bench.controls(1)[0], bench.directions(), bench.seeds()
        with bench.replicated.linearize(m) as lin, bench.owned.linearize(bench.cut(m)) as part:
            close(part.value, lin.value)
            close(part.jvp(bench.cut(d)), lin.jvp(d))
            close(bench.whole_of(part.vjp(w)), lin.vjp(w))
            close(bench.whole_of(part.hvp(w, bench.cut(d))), lin.hvp(w, d))
            assert bench.owned.dot(part.vjp(w), bench.cut(d)) == pytest.approx(
                bench.replicated.dot(lin.vjp(w), d), rel=1e-9
            )

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_many_directions_are_each_of_them(self, bench, layout):
        """Leading axes: more directions than it takes to change over to sparse matrices and block solves."""
        G = getattr(bench, layout)
        m, D, W = bench.controls(1)[0], bench.directions(2, 3), bench.seeds(2, 3)
        if layout == "owned":
            m, D = bench.cut(m), np.array([[bench.cut(d) for d in row] for row in D]).reshape(2, 3, -1)
        with G.linearize(m) as lin:
            close(lin.jvp(D), [[lin.jvp(d) for d in row] for row in D])
            close(lin.vjp(W), [[lin.vjp(w) for w in row] for row in W])
            close(
                lin.hvp(W, D),
                [[lin.hvp(w, d) for w, d in zip(ws, ds, strict=True)] for ws, ds in zip(W, D, strict=True)],
            )
            close(lin.hvp(W[0, 0], D), [[lin.hvp(W[0, 0], d) for d in row] for row in D])
            close(lin.hvp(W, D[0, 0]), [[lin.hvp(w, D[0, 0]) for w in row] for row in W])
            assert lin.jvp(D[:0]).shape == (0, 3, G.size_out) and lin.vjp(W[:0]).shape == (0, 3, G.size_in)

    def test_matrix(self, bench):
        G = bench.replicated
        with G.linearize(bench.controls(1)[0]) as lin:
            J = lin.matrix()
            assert J.shape == (G.size_out, G.size_in)
            close(lin.jvp(np.eye(G.size_in)).T, J)
            close(lin.vjp(np.eye(G.size_out)), J)
        with bench.owned.linearize(bench.cut(bench.controls(1)[0])) as lin:
            close(lin.matrix(), [bench.cut(row) for row in J])

    # -- the linearisation point is an object --------------------------------------------------------------------------

    def test_points_do_not_touch_each_other(self, bench):
        """Several points made, then asked in another order, give what each gives by itself."""
        G = bench.replicated
        M, d, w = bench.controls(3), bench.directions(), bench.seeds()
        alone = []
        for m in M:
            with G.linearize(m) as lin:
                alone.append((lin.value, lin.vjp(w), lin.jvp(d), lin.hvp(w, d)))
        points = [G.linearize(m) for m in M]
        G(M[0] * 1.1)
        for i in (2, 0, 1, 2):
            same(points[i].vjp(w), alone[i][1])
        for i in (1, 2, 0):
            same(points[i].hvp(w, d), alone[i][3])
            same(points[i].jvp(d), alone[i][2])
            same(points[i].value, alone[i][0])
        # So many that sparse matrices take over, which are kept from point to point.
        D, W = bench.directions(5), bench.seeds(5)
        for point in points:
            close(point.jvp(D), [point.jvp(d) for d in D])
            close(point.vjp(W), [point.vjp(w) for w in W])
            point.close()

    def test_a_closed_point_says_so(self, bench):
        G = bench.replicated
        lin = G.linearize(bench.start)
        lin.close()
        assert lin.value.shape == (G.size_out,)
        for product in (lambda: lin.jvp(bench.directions()), lambda: lin.vjp(bench.seeds()), lin.matrix):
            assert "closed" in str(raised_everywhere(BadInput, product))

    # -- values --------------------------------------------------------------------------------------------------------

    def test_values(self, bench):
        """Alone, in a batch, at a linearisation point; registers hold the point afterwards."""
        G = bench.replicated
        M = bench.controls(6)
        each = np.array([G(m) for m in M])
        assert each.shape == (6, G.size_out) and np.isfinite(each).all() and not np.allclose(each[0], each[1])
        everyone_has(each)
        close(G(M), each)
        close(G(M.reshape(2, 3, -1)), each.reshape(2, 3, -1))
        assert G(M[:0]).shape == (0, G.size_out)
        for lin, y in zip(G.linearize_each(M), each, strict=True):
            close(lin.value, y)
        if not G.observable.needs_steps:
            close(G.observable.value(bench.problem.state), each[-1])
        close(G.present_control(), bench.held_after(M[-1]))
        same(G(M[2]), each[2])

    @pytest.mark.ranks(2, 3)
    def test_same_numbers_as_on_one_rank(self, bench):
        """Each rank solves the whole problem for itself, on MPI.COMM_SELF."""
        G, m, d, w = bench.replicated, bench.controls(1)[0], bench.directions(), bench.seeds()
        alone = Bench(type(self), MPI.COMM_SELF)
        assert (alone.replicated.size_in, alone.replicated.size_out) == (G.size_in, G.size_out)
        close(alone.start, bench.start)
        with G.linearize(m) as lin, alone.replicated.linearize(m) as other:
            for ours, theirs in (
                (lin.value, other.value),
                (lin.vjp(w), other.vjp(w)),
                (lin.jvp(d), other.jvp(d)),
                (lin.hvp(w, d), other.hvp(w, d)),
            ):
                everyone_has(ours)
                close(ours, theirs)
        alone.close()

    def test_wrong_input_is_refused_on_every_rank(self, bench):
        G = bench.replicated
        m, w = bench.start, bench.seeds()
        nan = m.copy()
        nan[0 if COMM.rank == COMM.size - 1 else slice(0)] = np.nan
        shorter = m[: m.size - (COMM.rank == 0)]
        with G.linearize(m) as lin:
            for action, words in (
                (lambda: G(nan), "NaN"),
                (lambda: G(shorter), f"{G.size_in}"),
                (lambda: G(1.0), "expected shape"),
                (lambda: G(m + 1j), "real"),
                (lambda: G(["a"] * m.size), "real numbers"),
                (lambda: G.linearize(m[None, :]), "one control"),
                (lambda: lin.jvp(shorter), f"{G.size_in}"),
                (lambda: lin.jvp(nan), "NaN"),
                (lambda: lin.vjp(np.append(w, 1.0)), f"{G.size_out}"),
                (lambda: lin.vjp(np.inf * w), "NaN or infinite"),
                (lambda: lin.hvp(np.stack([w, w]), np.stack([m, m, m])), "leading axes"),
            ):
                assert words in str(raised_everywhere(BadInput, action))
            assert np.isfinite(G(m)).all()

    def test_parameters_are_live_and_the_users(self, bench):
        """What is neither state nor control may be changed: the next call sees it, an older point does not."""
        G, m, d, w = bench.replicated, bench.controls(1)[0], bench.directions(), bench.seeds()
        for parameter in filter(bench.is_live, G.residual.registers.parameters):
            kept = values_of(parameter).copy()
            before = G.linearize(m)
            expected = before.vjp(w), before.jvp(d), before.hvp(w, d)
            values_of(parameter)[...] = 1.3 * kept + 0.1
            changed = values_of(parameter).copy()
            same(before.vjp(w), expected[0])
            same(before.jvp(d), expected[1])
            same(before.hvp(w, d), expected[2])
            np.testing.assert_array_equal(values_of(parameter), changed)
            after = G.linearize(m)
            np.testing.assert_array_equal(values_of(parameter), changed)
            assert not np.allclose(after.value, before.value)
            with bench.new_map() as fresh, fresh.linearize(m) as lin:
                close(after.value, lin.value)
                close(after.vjp(w), lin.vjp(w))
                close(after.hvp(w, d), lin.hvp(w, d))
            same(before.hvp(w, d), expected[2])
            values_of(parameter)[...] = kept
            same(G(m), before.value)


class BlocksOnRanks(MapContract):
    """The contract, with batches and blocks of directions on two ranks: they go the same ways for all equations."""

    @pytest.mark.ranks(1, 2)
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_many_directions_are_each_of_them(self, bench, layout):
        super().test_many_directions_are_each_of_them(bench, layout)

    @pytest.mark.ranks(1, 2)
    def test_matrix(self, bench):
        super().test_matrix(bench)

    @pytest.mark.ranks(1, 2)
    def test_values(self, bench):
        super().test_values(bench)


def largest(array):
    return float(np.max(np.abs(array), initial=0.0))
