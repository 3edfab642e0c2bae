"""A map with the interface of ReducedMap and no PDE in it, so that optimisers are tested against closed forms."""

from __future__ import annotations

import numpy as np

from relax.base import parallel
from relax.base.fem.layout import SpaceLayout, control_layout
from relax.errors import SolveFailed


class FakeMap:
    """y = W f(m), entry by entry f, W a given matrix in the replicated order.

    Args:
        V: the space of the control.
        W: (size_out, size), the same on every rank.
        layout: "replicated" or "owned".
        f: f and its first and second derivative.
        limit: linearize fails where an entry of m exceeds it.
    """

    LINEAR = (lambda m: m, np.ones_like, np.zeros_like)
    EXP = (np.exp, np.exp, np.exp)

    def __init__(self, V, W, *, layout="replicated", f=LINEAR, limit=np.inf):
        from dolfinx import fem

        self.comm = V.mesh.comm
        self.layout = control_layout(layout, self.comm, [fem.Function(V)])
        self.size_in, self.size_out = self.layout.size, len(W)
        numbering = SpaceLayout(V)
        self.W = numbering.spread(W)[:, : numbering.num_owned] if layout == "owned" else W
        self.f, self.limit = f, limit
        self.calls = {"linearize": 0, "jvp": 0, "vjp": 0, "hvp": 0, "matrix": 0}
        self.counts = {"forward": 0, "tangent": 0, "adjoint": 0}
        self.open = 0

    def dot(self, a, b):
        return self.layout.dot(a, b)

    def sum(self, values):
        return parallel.sum_over_ranks(self.comm, values) if self.layout.kind == "owned" else values

    def linearize(self, m):
        self.calls["linearize"] += 1
        if parallel.any_rank(self.comm, bool(np.any(m > self.limit))):
            raise SolveFailed("the fake solve failed")
        self.counts["forward"] += 1
        return _FakeLinearization(self, m)


class _FakeLinearization:
    def __init__(self, G, m):
        self.G, self.m = G, m
        self.value = G.sum(G.W @ G.f[0](m))
        G.open += 1

    def jvp(self, dm):
        self.G.calls["jvp"] += 1
        self.G.counts["tangent"] += 1
        return self.G.sum(self.G.W @ (self.G.f[1](self.m) * dm))

    def vjp(self, dy):
        self.G.calls["vjp"] += 1
        self.G.counts["adjoint"] += 1
        return (dy @ self.G.W) * self.G.f[1](self.m)

    def hvp(self, dy, dm):
        self.G.calls["hvp"] += 1
        self.G.counts["tangent"] += 1
        self.G.counts["adjoint"] += 1
        return (dy @ self.G.W) * self.G.f[2](self.m) * dm

    def matrix(self):
        self.G.calls["matrix"] += 1
        self.G.counts["adjoint"] += self.G.size_out
        return self.G.W * self.G.f[1](self.m)

    def close(self):
        self.G.open -= 1
