"""The papers' closed loops: their physics against loops over points in numpy, and seeds trained at once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

PAPERS = Path(__file__).resolve().parents[2] / "examples" / "papers"
for folder in ("cart_poles", "quantum_closed_loop", "hamilton_jacobi_feedback", "guidance_by_repulsion"):
    sys.path.insert(0, str(PAPERS / folder))

torch = pytest.importorskip("torch")

import cart_poles  # noqa: E402
import guidance_by_repulsion as guidance  # noqa: E402
import hamilton_jacobi_feedback as feedback  # noqa: E402
import quantum_closed_loop as quantum  # noqa: E402
from cart_poles import closed_loops, harness  # noqa: E402

import relax  # noqa: E402


def test_cart_with_three_poles():
    random = np.random.default_rng(0)
    s, force = random.standard_normal(8), 0.7
    x, angles, v, turns = s[0], s[1:4], s[4], s[5:]
    g, m, M, length, dt = 9.8, 0.1, 1.1, 0.5, 0.01
    speeds, pulls = [], 0.0
    for angle, w in zip(angles, turns, strict=True):
        A = (force + m * length * w**2 * np.sin(angle)) / M
        faster = (g * np.sin(angle) - np.cos(angle) * A) / (length * (4 / 3 - m * np.cos(angle) ** 2 / M))
        pulls += w**2 * np.sin(angle) - faster * np.cos(angle)
        speeds.append(w + dt * faster)
    v += dt * (force + m * length * pulls) / M
    expected = [x + dt * v, *(angles + dt * np.array(speeds)), v, *speeds]
    found = cart_poles.cart(3)(torch.from_numpy(s)[None, None], torch.full((1, 1, 1), force, dtype=torch.float64))
    np.testing.assert_allclose(found[0, 0].numpy(), expected, rtol=0, atol=1e-14)


def test_guidance():
    random = np.random.default_rng(1)
    s, c = random.standard_normal(24), random.standard_normal(4)
    x, v = s.reshape(2, 6, 2)
    pushed = []
    for i in range(6):
        a = -(1.0 if i < 2 else 4.0) * v[i]
        for j in set(range(6)) - {i}:
            r = x[i] - x[j]
            d = 0.1 + np.hypot(*r)
            if i < 2 and j < 2:
                a = a + 0.2 * r / d**2
            elif i >= 2 and j < 2:
                a = a + 15.0 * r / d**2
            elif i >= 2:
                a = a + 0.2 * (0.5 / d - 1.0) / d * (x[j] - x[i])
        if i < 2:
            r = x[i] - x[2:].sum(axis=0)
            a = a + c[2 * i] * r + c[2 * i + 1] * np.array([-r[1], r[0]])
        pushed.append(a)
    dt = 4.0 / 60
    expected = np.concatenate([(x + dt * v).ravel(), (v + dt * np.array(pushed)).ravel()])
    found = guidance.step(torch.from_numpy(s).float()[None, None], torch.from_numpy(c).float()[None, None])
    np.testing.assert_allclose(found[0, 0].numpy(), expected, rtol=0, atol=1e-4)


def test_evaders_that_meet_have_derivatives():
    s = torch.rand(1, 1, 24, generator=torch.Generator().manual_seed(0))
    s[..., 10:12] = s[..., 8:10]
    s.requires_grad_()
    (gradient,) = torch.autograd.grad(guidance.step(s, torch.zeros(1, 1, 4)).sum(), s)
    assert bool(gradient.isfinite().all())


class TestQuantum:
    def test_the_published_way_has_nearly_the_same_gradient(self):
        """Finite differences instead of elements: the gap falls with the square of the width."""
        box = quantum.Box(65)
        one, net = box.control(3), box.networks([0])
        s = one.data([0])[0][:4]
        loop = relax.train.ClosedLoop(box, net, steps=20, losses=lambda s: box.infidelity(3)(s).mean())
        loop.backward(s, "full")
        ours = torch.cat([p.grad.flatten() for p in net.parameters()])
        net.zero_grad()
        box.unrolled(
            net, torch.view_as_complex(s[:, 0].unflatten(-1, (-1, 2)))[:, 1:-1].clone(), 3, sees=True, steps=20
        )
        theirs = torch.cat([p.grad.flatten() for p in net.parameters()])
        assert float((ours - theirs).norm() / ours.norm()) < 0.05

    def test_physics_keeps_costates(self):
        box = quantum.Box(9)
        net = box.networks([0])
        with torch.no_grad():
            net.weights[-1] *= 50.0
        grown = box.costates(3, net, box.control(3).data([0])[1][:3])
        assert abs(grown["physics"] - 1.0) < 1e-10 and grown["full"] > 1.001


def test_exact_law_costs_its_value():
    law, optimum = feedback.exact_law()
    losses = dict.fromkeys(range(1, feedback.STEPS), feedback.spent) | {feedback.STEPS: feedback.at_the_end}
    one = closed_loops.Experiment("", feedback.step, feedback.STEPS, losses, feedback.starts, feedback.networks)
    s = feedback.starts(4000, torch.Generator().manual_seed(0))[:, None]
    off = one.run(law, s)[0][:, 0].numpy() - optimum.value(s[:, 0, :1].numpy(), 1.0)
    assert abs(off.mean()) < 3.0 * off.std() / np.sqrt(len(off)) + 5e-3


class TestSeeds:
    def test_at_once_as_one_by_one(self):
        """Sums over seeds have the gradients of each; clipping is by seed."""
        one = cart_poles.swing_up(1)
        known = one.data([0, 1])[0][:8]
        losses = {5: lambda s: one.losses[100](s, None).mean(0).sum()}

        def trained(net, s):
            with torch.no_grad():
                net.weights[-1] += 0.1
            relax.train.ClosedLoop(one.step, net, steps=5, losses=losses).backward(s, "combined")
            net.clip(1e-4)
            return [p.grad for p in net.parameters()]

        both = trained(one.networks([0, 1]), known)
        for seed in range(2):
            alone = trained(one.networks([seed]), known[:, seed : seed + 1])
            assert sum(float(g.square().sum()) for g in alone) ** 0.5 == pytest.approx(1e-4, rel=0.02)
            for g, expected in zip(both, alone, strict=True):
                torch.testing.assert_close(g[seed : seed + 1], expected, rtol=1e-3, atol=1e-9)

    def test_ends_after_its_epochs(self):
        given = harness.Settings(1e9, 2, 0.0, False, Path())
        loss = {1: lambda s, c: (s**2).sum(-1)}
        one = closed_loops.Experiment(
            "", lambda s, c: s + c, 1, loss, lambda n, r: torch.rand(n, 2, generator=r), _linear
        )
        found = closed_loops.train(one, "full", given, None, 2)
        assert [run.steps for run in found.runs] == [64, 64]
        assert found.runs[0].counts == list(range(0, 65, 8)) and found.runs[0].losses[-1] < found.runs[0].losses[0]
        assert found.runs[0].loss_after(15) == found.runs[0].losses[1] and found.runs[0].losses != found.runs[1].losses


def _linear(seeds):
    return closed_loops.Controllers((2, 2), seeds).float()
