"""Mixtures of networks u(z) = Σ g_i(z) N_i(z) with their derivatives, which are carried along with the values.

What is carried is a tensor (6, n, m): the value of m functions at n points z = (x, y, t), then their derivatives by t,
x and y, then the second ones by x and by y.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Tensor = torch.Tensor

#: Which of the six are first derivatives; the last two of these are derived in once more.
VALUE, T, X, Y, XX, YY = range(6)


def composed(a: Tensor, value: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """f(a), of its value, f' and f'' there."""
    slopes = a[X : Y + 1]
    return torch.cat([value[None], first * a[T : Y + 1], first * a[XX:] + second * slopes**2])


def times(a: Tensor, b: Tensor) -> Tensor:
    """a b."""
    first = a[T : Y + 1] * b[:1] + a[:1] * b[T : Y + 1]
    second = a[XX:] * b[:1] + 2.0 * a[X : Y + 1] * b[X : Y + 1] + a[:1] * b[XX:]
    return torch.cat([a[:1] * b[:1], first, second])


def tanh(a: Tensor) -> Tensor:
    """tanh a."""
    value = torch.tanh(a[0])
    first = 1.0 - value**2
    return composed(a, value, first, -2.0 * value * first)


def at_points(z: Tensor) -> Tensor:
    """The coordinates (n, 3) themselves, (6, n, 3)."""
    carried = torch.zeros(6, *z.shape, dtype=z.dtype)
    carried[VALUE], carried[T, :, 2], carried[X, :, 0], carried[Y, :, 1] = z, 1.0, 1.0, 1.0
    return carried


class Stacked(torch.nn.Module):
    """Tanh networks of one shape, side by side: (6, n, 3) -> (6, n, networks, outputs). Glorot's weights, float64."""

    def __init__(self, networks: int, widths: Sequence[int], seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.weights, self.biases = torch.nn.ParameterList(), torch.nn.ParameterList()
        for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
            bound = (6.0 / (n_in + n_out)) ** 0.5
            W = bound * (2.0 * torch.rand(networks, n_in, n_out, generator=random, dtype=torch.float64) - 1.0)
            self.weights.append(torch.nn.Parameter(W))
            self.biases.append(torch.nn.Parameter(torch.zeros(networks, n_out, dtype=torch.float64)))

    def forward(self, a: Tensor) -> Tensor:
        # Within, networks come first: a product of matrices for each.
        a = a.expand(len(self.biases[0]), *a.shape).transpose(0, 1)
        for i, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            a = tanh(a) if i else a
            a = torch.bmm(a.transpose(0, 1).flatten(1, 2), W).unflatten(1, (6, -1)).transpose(0, 1)
            a = torch.cat([a[:1] + b[:, None], a[1:]])
        return a.transpose(1, 2)


class TopGate(torch.nn.Module):
    """Softmax over the k largest of linear functions of z, 0 for the others: (6, n, 3) -> (6, n, experts)."""

    def __init__(self, experts: int, k: int, seed: int) -> None:
        super().__init__()
        self.k = k
        self.linear = Stacked(experts, (3, 1), seed)

    def forward(self, a: Tensor) -> Tensor:
        logits = self.linear(a)[..., 0]
        largest, chosen = logits[VALUE].detach().topk(self.k, dim=-1)
        kept = torch.zeros_like(logits[VALUE]).scatter(-1, chosen, 1.0)
        shifted = torch.cat([logits[:1] - largest[:, :1], logits[1:]])
        powers = kept * torch.exp(torch.where(kept > 0.0, shifted[VALUE], torch.zeros_like(kept)))
        parts = composed(shifted, powers, powers, powers)
        whole = parts.sum(-1, keepdim=True)
        one_over = 1.0 / whole[VALUE]
        return times(parts, composed(whole, one_over, -(one_over**2), 2.0 * one_over**3))


class HatGate(torch.nn.Module):
    """A partition of unity: hat functions of the nodes of a coarse mesh of the square (low, high)²; nothing is learnt.

    The mesh is that of n by n squares, with the hat functions of its edges in either direction multiplied; each of
    these, h, is taken as 6 h⁵ − 15 h⁴ + 10 h³, which keeps the sum of one and gives two derivatives.
    """

    def __init__(self, n: int, low: float, high: float) -> None:
        super().__init__()
        self.nodes = torch.linspace(low, high, n + 1, dtype=torch.float64)

    def forward(self, a: Tensor) -> Tensor:
        spacing = self.nodes[1] - self.nodes[0]
        in_each = []
        for axis in (0, 1):
            offset = (a[VALUE, :, axis, None] - self.nodes) / spacing
            h = torch.clamp(1.0 - offset.abs(), min=0.0)
            slope = -torch.sign(offset) / spacing * (h > 0.0)
            hats = torch.zeros(6, *h.shape, dtype=h.dtype)
            hats[VALUE], hats[X + axis] = h, slope
            smooth = ((6.0 * h - 15.0) * h + 10.0) * h**3
            # One but for rounding.
            smooth = smooth / smooth.sum(-1, keepdim=True)
            in_each.append(composed(hats, smooth, 30.0 * (h * (1.0 - h)) ** 2, 60.0 * h * (1.0 - h) * (1.0 - 2.0 * h)))
        return times(in_each[0][..., :, None], in_each[1][..., None, :]).flatten(2)


class Experts(torch.nn.Module):
    """u(z) = Σ g_i(z) N_i(z): (n, 3) -> (6, n, outputs), and the gates' values (n, experts).

    Args:
        experts: how many networks N_i.
        widths: of each, from 3 coordinates to the outputs.
        gate: g, a module (6, n, 3) -> (6, n, experts) whose values sum to one; None for a single network.
        seed: of the first weights.
    """

    def __init__(self, experts: int, widths: Sequence[int], gate: torch.nn.Module | None, seed: int) -> None:
        super().__init__()
        self.gate, self.networks = gate, Stacked(experts, widths, seed)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        carried = at_points(z)
        outputs = self.networks(carried)
        if self.gate is None:
            return outputs.sum(2), torch.ones(len(z), 1, dtype=z.dtype)
        gates = self.gate(carried)
        return times(gates[..., None], outputs).sum(2), gates[VALUE]
