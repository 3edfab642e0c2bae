"""A sheet of resistors as a device: knobs, inputs and nudging go in, readings with noise come out. One rank."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse
import scipy.special
import ufl
from dolfinx import fem
from relax.errors import SolveFailed
from sheet import CONTACT, Sheet

Array = npt.NDArray[np.float64]


class Device:
    """It rests where E + beta C + |theta - u|²/(2 eps) is least in s and theta, found from where it was last.

    In each cell theta is known from s: exp(theta) W + (theta - u)/eps = 0, so theta = u - w(eps exp(u) W) with
    Lambert's function w. Newton's method in s is left; where that bends downwards it is made to bend up.

    Args:
        sheet: of which the pieces are taken.
        rate: eps.
        noise: the standard deviation of each reading.
        seed: of the noise.
    """

    def __init__(self, sheet: Sheet, rate: float, noise: float, seed: int) -> None:
        self.rate, self.noise, self.random = rate, noise, np.random.default_rng(seed)
        V, Q = sheet.state.function_space, sheet.theta.function_space
        s, v, q = ufl.TrialFunction(V), ufl.TestFunction(V), ufl.TestFunction(Q)
        self.areas = sheet.areas
        of_cells = scipy.sparse.diags(1.0 / self.areas)
        self.grad = [of_cells @ fem.assemble_matrix(fem.form(s.dx(i) * q * ufl.dx)).to_scipy() for i in (0, 1)]
        self.contacts = fem.assemble_matrix(fem.form(CONTACT * s * v * ufl.ds)).to_scipy().toarray()
        self.inputs = np.array([fem.assemble_vector(fem.form(CONTACT * m * v * ufl.ds)).array for m in sheet.modes])
        self.output = np.array(sheet.sees.adjoint(sheet.state, np.ones(1)))
        self.state = np.zeros(len(self.output))

    def settle(self, u: Array, theta: Array, x: Array, y: Array, beta: float) -> tuple[Array, Array]:
        """Readings of theta and s."""
        s, load = self.state, x @ self.inputs + beta * y[0] * self.output
        H0 = self.contacts + beta * np.outer(self.output, self.output)
        for _ in range(200):
            value, now, slope, bends = self._at(s, u, H0, load)
            step = _downhill(sum(a.T @ scipy.sparse.diags(h) @ b for a, b, h in bends).toarray() + H0, slope)
            if np.linalg.norm(step) <= 1e-11 * np.linalg.norm(s):
                break
            length, falls = 1.0, 1e-4 * float(slope @ step)
            # What overflows is no number, which is not below either.
            while not self._at(s - length * step, u, H0, load)[0] <= value - length * falls + 1e-13 * abs(value):
                length *= 0.5
                if length < 1e-8:
                    raise SolveFailed("the device runs away; take less nudging, or a smaller rate")
            s = s - length * step
        self.state = s
        return self._read(now), self._read(s)

    def _at(self, s: Array, u: Array, H0: Array, load: Array) -> tuple[float, Array, Array, list[tuple]]:
        """The value, theta, the slope in s, and what it bends by in each cell."""
        gx, gy = (D @ s for D in self.grad)
        q = gx**2 + gy**2 + 0.1
        W = q**1.5 / 3.0
        theta = u - scipy.special.lambertw(self.rate * np.exp(u) * W).real
        c = np.exp(theta)
        value = self.areas @ (c * W + (theta - u) ** 2 / (2.0 * self.rate)) + 0.5 * s @ H0 @ s - load @ s
        flow = self.areas * c * np.sqrt(q)
        slope = sum(D.T @ (flow * g) for D, g in zip(self.grad, (gx, gy), strict=True)) + H0 @ s - load
        turn = flow / q - self.areas * q * self.rate * c**2 / (1.0 + self.rate * c * W)
        X, Y = self.grad
        mixed = turn * gx * gy
        bends = [(X, X, flow + turn * gx**2), (Y, Y, flow + turn * gy**2), (X, Y, mixed), (Y, X, mixed)]
        return float(value), theta, slope, bends

    def _read(self, values: Array) -> Array:
        return values + self.noise * self.random.standard_normal(len(values))


def _downhill(H: Array, slope: Array) -> Array:
    """Newton's step, of a matrix that is shifted until it is positive definite."""
    shift = 0.0
    while True:
        try:
            return scipy.linalg.cho_solve(scipy.linalg.cho_factor(H + shift * np.eye(len(H))), slope)
        except scipy.linalg.LinAlgError:
            shift = max(4.0 * shift, 1e-2)
