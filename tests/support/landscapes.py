"""What the tests of Hamilton–Jacobi equations share: closed forms, quadrature, runs, values on lattices and lines."""

import numpy as np
import ufl
from contract import COMM
from dolfinx import fem

from relax import FieldValues, ReducedMap, meshes
from relax.base import parallel

ROUTES = ["direct", "cole_hopf"]


class Cosine:
    """f = -(1/beta) log(1 + A prod cos(k_i x_i)), whose slope across the walls of the unit cube is zero.

    u(x, t) has A exp(-|k|² t / (2 beta)) in place of A.
    """

    def __init__(self, *k, beta=2.0, A=0.8):
        self.k, self.beta, self.A = k, beta, A

    def ufl(self, domain, t):
        x = ufl.SpatialCoordinate(domain)
        product = np.prod([ufl.cos(k * x[i]) for i, k in enumerate(self.k)])
        return -ufl.ln(1 + self._amplitude(t) * product) / self.beta

    def __call__(self, x, t=0.0):
        return -np.log(1 + self._amplitude(t) * np.prod([np.cos(k * x[i]) for i, k in enumerate(self.k)], axis=0)) / (
            self.beta
        )

    def _amplitude(self, t):
        return self.A * np.exp(-sum(k**2 for k in self.k) * t / (2 * self.beta))


def wells(x):
    """0.3 x² + 0.4 sin 3 x: several wells in a valley; its second derivative is at most 4.2."""
    return 0.3 * x[0] ** 2 + 0.4 * np.sin(3.0 * x[0])


def whole_line(f, x, t, beta):
    """-(1/beta) log E exp(-beta f(x + (t/beta)^½ Z)) by 200 Gauss–Hermite points, f a function of (1, n)."""
    z, w = np.polynomial.hermite_e.hermegauss(200)
    exponents = -beta * f((np.asarray(x)[:, None] + np.sqrt(t / beta) * z).reshape(1, -1)).reshape(len(x), -1)
    top = exponents.max(axis=1)
    return -(top + np.log(np.exp(exponents - top[:, None]) @ w / w.sum())) / beta


def hopf_lax(f, x, t, ends, num=100_001):
    """min over y in ``ends`` of f(y) + (x - y)²/(2 t), f a function of (1, n), by looking at ``num`` points."""
    y = np.linspace(*ends, num)
    values = f(y[None, :])
    return np.array([np.min(values + (p - y) ** 2 / (2 * t)) for p in x])


def final(evolution, f=None, **options):
    """u_N at the nodes, in the order of the coordinates that come with it: (n,), (n, gdim)."""
    field = FieldValues(evolution.state.function_space)
    with ReducedMap(evolution, field, **options) as G:
        return G(G.present_control() if f is None else f(field.coordinates.T)), field.coordinates


def on_line(evolution, f=None):
    """u_N on an interval, from left to right: (values, coordinates)."""
    values, x = final(evolution, f)
    order = np.argsort(x[:, 0])
    return values[order], x[order, 0]


def on_lattice(values, x, degree=1):
    """Nodal values on a structured mesh of the plane as a matrix, the first index along x."""
    order = np.lexsort((x[:, 1].round(9), x[:, 0].round(9)))
    n = len(np.unique(x[:, 0].round(9)))
    return values[order].reshape(n, -1)


def errors(evolution, exact):
    """(L2, H1 seminorm) of u_N - exact."""
    with ReducedMap(evolution, FieldValues(evolution.state.function_space)) as G:
        G(G.present_control())
    return differences(evolution.state, exact)


def differences(u, exact):
    """(L2, H1 seminorm) of u - exact, by points enough for what elements of such a degree leave."""
    V = u.function_space
    rule = ufl.dx(domain=V.mesh, metadata={"quadrature_degree": 2 * V.ufl_element().degree + 2})
    gaps = u - exact, ufl.grad(u - exact)
    return tuple(np.sqrt(integral(ufl.inner(gap, gap) * rule)) for gap in gaps)


def integral(form):
    """Over the whole domain."""
    return parallel.sum_over_ranks(COMM, np.array([fem.assemble_scalar(fem.form(form))]))[0]


def both(x):
    return 0.25 * (np.cos(2 * np.pi * x[0]) + np.cos(2 * np.pi * x[1]))


def sheared(n):
    """The lattice of triangles, pushed about inside: angles up to 150 degrees."""
    domain = meshes.unit_square(n)
    x = domain.geometry.x
    x[:, 0] += 0.2 * np.sin(np.pi * x[:, 0]) * np.sin(2 * np.pi * x[:, 1])
    return domain


PLANES = {
    "lattice": lambda: meshes.unit_square(20),
    "obtuse": lambda: sheared(20),
    "unstructured": lambda: meshes.disk(0.07, radius=0.7, centre=(0.5, 0.5)),
}
