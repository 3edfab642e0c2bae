"""Loops of a controller and physics, and autograd through them unrolled."""

from __future__ import annotations

import torch
from contract import close, everyone_has
from mpi4py import MPI

from relax import meshes, pdes
from relax.train import one_step

COMM = MPI.COMM_WORLD
FLOWS = ("full", "physics", "stop")
SAME = 1e-12
T = 5


def mlp(n, k, width=7):
    torch.manual_seed(3)
    layers = torch.nn.Linear(n, width), torch.nn.Tanh(), torch.nn.Linear(width, k)
    return torch.nn.Sequential(*layers).double()


class Remembers(torch.nn.Module):
    """A controller with a memory of one kind or another."""

    def __init__(self, n, k, kind="gru"):
        super().__init__()
        torch.manual_seed(4)
        self.cell = (torch.nn.GRUCell if kind == "gru" else torch.nn.LSTMCell)(n, 6).double()
        self.out = torch.nn.Linear(6, k).double()

    def forward(self, s, h=None):
        h = self.cell(s, h)
        return self.out(h[0] if isinstance(h, tuple) else h), h


def cart_pole(s, c):
    """x, v, θ, w of a cart with one pole."""
    x, v, angle, w = s.unbind(-1)
    sine, cosine = angle.sin(), angle.cos()
    push = (c[..., 0] + 0.05 * w**2 * sine) / 1.1
    turn = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    pulled = push - 0.05 * turn * cosine / 1.1
    v, w = v + 0.05 * pulled, w + 0.05 * turn
    return torch.stack([x + 0.05 * v, v, angle + 0.05 * w, w], -1)


def linear(s, c):
    matrix = 0.3 * torch.sin(torch.arange(16.0, dtype=s.dtype)).reshape(4, 4) + torch.eye(4, dtype=s.dtype)
    return s @ matrix + c @ torch.ones(2, 4, dtype=s.dtype)


def burgers():
    evolution = pdes.burgers.evolution(
        meshes.interval(8), initial=0.0, viscosity=0.05, dt=0.05, num_steps=2, controls="force_per_step", supg=False
    )
    return one_step(evolution, control=evolution.per_step[0])


def dipole(n=6):
    evolution = pdes.schrodinger.dipole(meshes.interval(n), dt=0.05, num_steps=2, degree=1)
    return one_step(evolution, control=evolution.per_step[0])


def starts(n, batch=3):
    torch.manual_seed(5)
    return torch.randn(batch, n, dtype=torch.float64)


CASES = {
    "linear": (lambda: linear, 4, 2),
    "cart-pole": (lambda: cart_pole, 4, 1),
    "burgers": (burgers, 9, 9),
    "dipole": (dipole, 14, 1),
}


def squares(s):
    return (s**2).mean(0).sum()


def unrolled(step, net, s, flow, losses, observe=lambda s: s):
    """J and its gradient by autograd through all steps, with what a flow leaves out detached."""
    h, total = None, 0.0
    for t in range(T):
        seen = observe(s if flow == "full" else s.detach())
        answer = net(seen) if h is None else net(seen, h)
        c, h = answer if isinstance(answer, tuple) else (answer, None)
        if flow == "stop":
            s = s.detach()
            if h is not None:
                h = tuple(x.detach() for x in h) if isinstance(h, tuple) else h.detach()
        s = step(s, c)
        total = total + losses(t + 1, s, c)
    return total.item(), torch.autograd.grad(total, list(net.parameters()))


def equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        close(a.numpy(), b.numpy(), SAME)
        everyone_has(a.numpy())
