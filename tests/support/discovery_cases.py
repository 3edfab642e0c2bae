"""Fields that are known, the libraries to find their equations in, and their data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from dolfinx import fem
from mpi4py import MPI
from ufl import grad, inner

import relax
from relax import discovery, meshes

#: u(x, t), x of shape (gdim, n).
Field = Callable[[np.ndarray, float | np.ndarray], np.ndarray]
PI = np.pi
HAMILTON_JACOBI = {"u_t": 1.0, "lap": -1.0, "|grad|^2": 1.0}


def library_on(V: fem.FunctionSpace, *, second: bool = True) -> dict[str, Any]:
    """Eight terms in one dimension; in more those that have a meaning there."""
    u, v = discovery.unknown(V), discovery.test(V)
    terms = {
        "u_t": u.dt * v,
        "lap": -inner(grad(u), grad(v)),
        "u_x": u.dx(0) * v,
        "u": u * v,
        "u^2": u**2 * v,
        "u u_x": -(u**2) / 2 * v.dx(0),
        "|grad|^2": inner(grad(u), grad(u)) * v,
    }
    return ({"u_tt": u.dt.dt * v} if second else {}) | terms


def states_of(V: fem.FunctionSpace, field: Field, times: np.ndarray) -> list[tuple[float, np.ndarray]]:
    u, values, states = fem.Function(V), relax.FieldValues(V), []
    for t in times:
        u.interpolate(lambda x, t=t: field(x[: V.mesh.geometry.dim], t))
        states.append((t, values.value(u)))
    return states


def scattered(field: Field, low: list[float], high: list[float], level: float, seed: int, num: int = 1000) -> Any:
    """Samples over a box of x and t with noise, a share of their spread: (points, times, values), and its deviation."""
    rng = np.random.default_rng(seed)
    at = rng.uniform(low, high, (num, len(low)))
    values = field(at[:, :-1].T, at[:, -1])
    noise = level * values.std()
    return (at[:, :-1], at[:, -1], values + noise * rng.standard_normal(num)), float(noise)


def error_of(found: Any, truth: dict[str, float]) -> float:
    """sqrt(1 - |cos|) of the angle between the equation found and the true one."""
    names = found.library.names
    c, true = (np.array([t.get(n, 0.0) for n in names]) for t in (found.by_name, truth))
    return float(np.sqrt(max(0.0, 1.0 - abs(c @ true) / np.linalg.norm(c) / np.linalg.norm(true))))


def viscous(x: np.ndarray, t: float | np.ndarray) -> np.ndarray:
    """u_t - Lap u + |grad u|^2 = 0."""
    return (x**2).sum(axis=0) / (1 + 4 * t) + 0.5 * len(x) * np.log(1 + 4 * t)


def viscous_in_plane(x: np.ndarray, t: float | np.ndarray) -> np.ndarray:
    """The same by Cole and Hopf, of no symmetry."""
    return -np.log(2 + np.exp(-2 * t) * np.cos(x[0] + x[1]) + 0.4 * np.exp(-4 * t) * np.sin(2 * x[0]))


def heat(x: np.ndarray, t: float | np.ndarray) -> np.ndarray:
    """u_t - 0.1 Lap u = 0."""
    y = x[1] if len(x) > 1 else 0.0 * x[0]
    k = 0.1 * PI**2
    plain = np.exp(-k * t) * np.sin(PI * x[0]) + 0.5 * np.exp(-4 * k * t) * np.cos(2 * PI * x[0])
    return plain + 0.7 * np.exp(-2 * k * t) * np.sin(PI * (x[0] - 0.3)) * np.sin(PI * y) + 0.3


def burgers(x: np.ndarray, t: float | np.ndarray) -> np.ndarray:
    """u_t - 0.1 u_xx + u u_x = 0, by Cole and Hopf."""
    a, b = np.exp(-0.1 * PI**2 * t), 0.4 * np.exp(-0.4 * PI**2 * t)
    phi = 2 + a * np.cos(PI * x[0]) + b * np.cos(2 * PI * x[0])
    return 0.2 * PI * (a * np.sin(PI * x[0]) + 2 * b * np.sin(2 * PI * x[0])) / phi


def wave(x: np.ndarray, t: float | np.ndarray) -> np.ndarray:
    """u_tt - 2.25 u_xx = 0."""
    return np.cos(1.5 * PI * t) * np.sin(PI * x[0]) + 0.5 * np.cos(3 * PI * t) * np.sin(2 * PI * x[0])


def line(cells: int = 48, ends: tuple[float, float] = (0.0, 1.0), comm: MPI.Comm = MPI.COMM_WORLD) -> fem.FunctionSpace:
    return fem.functionspace(meshes.interval(cells, ends, comm=comm), ("Lagrange", 2))
