"""The papers' experiments: their physics and the clock they share against independent witnesses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

PAPERS = Path(__file__).resolve().parents[2] / "examples" / "papers"
for folder in ("oscillators", "hig_poisson", "quantum_dipole"):
    sys.path.insert(0, str(PAPERS / folder))

torch = pytest.importorskip("torch")

import hig_poisson  # noqa: E402
import oscillators  # noqa: E402
import quantum_dipole  # noqa: E402
from oscillators import harness  # noqa: E402


class TestOscillators:
    def test_against_the_equations_as_they_stand(self):
        """Classical Runge-Kutta in x and v, one sample after the other."""
        random = np.random.default_rng(0)
        z0, u = random.random((3, 4)), random.standard_normal((3, oscillators.STEPS))

        def slope(z, force):
            x1, x2, v1, v2 = z
            return np.array([v1, v2, -x1 + (x2 - x1) ** 3, -x2 + (x1 - x2) ** 3 + 3 * force])

        h, expected = oscillators.DT, []
        for z, forces in zip(z0, u, strict=True):
            for f in forces:
                k1 = slope(z, f)
                k2 = slope(z + h / 2 * k1, f)
                k3 = slope(z + h / 2 * k2, f)
                k4 = slope(z + h * k3, f)
                z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            expected.append(z)
        # Rounding, grown by what the derivative grows by in 96 steps: less than 1e3.
        np.testing.assert_allclose(oscillators.Oscillators().run(u, z0)[0], expected, rtol=0, atol=1e-11)

    def test_all_cotangents_at_once_against_differences(self):
        random = np.random.default_rng(1)
        z0 = torch.from_numpy(random.random((5, 4)))
        u = torch.from_numpy(0.3 * random.standard_normal((5, oscillators.STEPS))).requires_grad_()
        run = oscillators.Oscillators()
        y = run(u, z0)
        units = torch.eye(4, dtype=torch.float64)[:, None, :].expand(4, 5, 4)
        (D,) = torch.func.vmap(lambda g: torch.autograd.grad(y, u, g, retain_graph=True))(units)
        du = torch.from_numpy(random.standard_normal(u.shape))
        eps = 1e-5
        with torch.no_grad():
            expected = (run(u + eps * du, z0) - run(u - eps * du, z0)) / (2 * eps)
        # Of order eps² times a third derivative.
        torch.testing.assert_close(torch.einsum("kbn,bn->bk", D, du), expected, rtol=1e-6, atol=1e-6)


class TestPoisson:
    def test_potentials(self):
        phi = hig_poisson.potentials(50, torch.Generator().manual_seed(0))
        assert float(phi.mean(dim=1).abs().max()) < 1e-14
        assert float((phi.std(dim=1, correction=0) - 1.0).abs().max()) < 1e-12
        # The spectrum falls like |q|^-2: amplitudes at wave numbers 1 and 2 along an axis are as 4 to 1.
        modes = torch.fft.fft2(phi.reshape(50, 8, 8)).abs()
        assert 2.5 < float(modes[:, 1, 0].mean() / modes[:, 2, 0].mean()) < 6.0

    def test_laplacian_of_eigenvectors(self):
        """sin products, with zeros in the cells outside: -4 (sin² + sin²)."""
        j = torch.arange(1, 9, dtype=torch.float64)
        a, b = torch.sin(torch.pi * 2 * j / 9), torch.sin(torch.pi * 3 * j / 9)
        value = -4.0 * (np.sin(np.pi * 2 / 18) ** 2 + np.sin(np.pi * 3 / 18) ** 2)
        phi = torch.outer(a, b).reshape(-1)
        torch.testing.assert_close(hig_poisson.laplacian() @ phi, value * phi)


class TestDipole:
    def test_without_a_field_the_ground_state_turns(self):
        """Crank-Nicolson multiplies it by (1 - i e/2)/(1 + i e/2) each step, e = dt times its energy."""
        dipole = quantum_dipole.Dipole()
        u = torch.zeros(2, quantum_dipole.STEPS, dtype=torch.float64)
        c = dipole.final(u).reshape(2, quantum_dipole.OUTPUTS, 2)
        h = 2.0 / 15
        cosine = np.cos(np.pi / 15)
        energy = (2 - 2 * cosine) / h**2 / ((4 + 2 * cosine) / 6)  # of -d²/dx² on linear elements
        e = quantum_dipole.DT * energy
        turn = ((1 - 0.5j * e) / (1 + 0.5j * e)) ** quantum_dipole.STEPS
        found = torch.view_as_complex(c.contiguous()).numpy() / turn
        expected = np.zeros((2, quantum_dipole.OUTPUTS))
        expected[:, 0] = 1.0
        # The sign of an eigenvector is free.
        np.testing.assert_allclose(found * np.sign(found[0, 0].real), expected, rtol=0, atol=1e-8)
        # It has no part in the targets.
        losses = quantum_dipole.losses(dipole.final(u), torch.eye(2, dtype=torch.float64))
        torch.testing.assert_close(losses, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-10)
        dipole.close()

    @pytest.mark.parametrize(("cells", "degree", "error"), [(15, 1, 1e-12), (30, 2, 1e-2)])
    def test_eigenstates_are_orthonormal(self, cells, degree, error):
        """Those of linear elements are; quadratic ones mix them, with the fourth power of the wave number."""
        mesh = quantum_dipole.relax.meshes.interval(cells, (0.0, 2.0), comm=MPI.COMM_SELF)
        phi, M = quantum_dipole._eigenstates(mesh, degree)
        assert np.abs(phi @ M @ phi.T - np.eye(quantum_dipole.OUTPUTS)).max() < error


class TestHarness:
    def test_stops_in_time_and_counts_only_steps(self):
        """A quadratic by gradient descent: the loss is that of the closed form after as many steps."""
        x = torch.tensor(1.0, dtype=torch.float64)

        def begin(seed, rate):
            x.fill_(1.0)

            def step(batch):
                deadline = harness.time.process_time() + 0.01
                while harness.time.process_time() < deadline:
                    pass
                x.mul_(1.0 - rate)

            return harness.Training(step, iter(lambda: None, 0), lambda: float(x**2))

        method = harness.Method("descent", begin, 0.1, (0.05, 0.1, 2.5))
        run = harness.train(method, seed=0, rate=0.1, budget=0.2)
        assert 5 <= run.steps <= 20 and run.times[-1] <= 0.21
        assert run.losses[0] == 1.0 and run.losses[-1] == pytest.approx(0.9 ** (2 * run.steps), rel=1e-12)
        assert run.loss_at(0.0) == 1.0 and run.loss_at(1e9) == run.losses[-1]
        assert run.times == sorted(run.times)
        # 2.5 diverges, and of the two others the larger one is faster.
        (best,) = harness.tuned([method], 0.1)
        assert best.rate == 0.1
        assert harness.table("t", [run], [0.1]).count("\n| descent |") == 1

    def test_a_run_that_breaks_down_is_told(self):
        def begin(seed, rate):
            def step(batch):
                raise harness.RelaxError("gone")

            return harness.Training(step, iter(lambda: None, 0), lambda: 1.0)

        run = harness.train(harness.Method("broken", begin, 1.0), seed=0, rate=1.0, budget=0.1)
        assert run.losses == [1.0, np.inf] and run.steps == 0

    def test_shares_cover_a_batch(self):
        parts = MPI.COMM_WORLD.allgather(harness.share(7))
        assert parts[0].start == 0 and parts[-1].stop == 7
        assert all(a.stop == b.start for a, b in zip(parts[:-1], parts[1:], strict=True))

    def test_gradients_of_shares_are_summed(self):
        net = harness.glorot((3, 5, 2), torch.nn.Tanh, seed=0)
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        (net(x) ** 2).sum().backward()
        expected = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        (net(x[harness.share(8)]) ** 2).sum().backward()
        harness.sum_gradients(list(net.parameters()))
        for p, whole in zip(net.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, whole)
