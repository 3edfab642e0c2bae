"""Half-inverse steps by numpy's singular values, and networks to take them on."""

from __future__ import annotations

import numpy as np
import torch

DTYPE = torch.float64


def jacobian(y, params):
    """Row by row: a sweep for every number of y."""
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    rows = [torch.autograd.grad(number, params, **options) for number in y.reshape(-1)]
    return torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows]).double().numpy()


def expected(J, g, *, power=0.5, rcond=1e-5, damping=0.0):
    """V S^-power Uᵀ g, as it stands in the paper."""
    U, s, Vt = np.linalg.svd(J, full_matrices=False)
    kept = s > rcond * s[0]
    U, s, Vt = U[:, kept], s[kept], Vt[kept]
    filtered = s * (s**2 + (damping * s[0]) ** 2) ** (-0.5 * (1.0 + power))
    return Vt.T @ (filtered * (U.T @ g))


def flat(params):
    """All weights as one vector."""
    return torch.cat([p.detach().reshape(-1).double() for p in params]).numpy()


def squares(target):
    """Half the sum of squares, as a function of the outputs."""
    return lambda y: 0.5 * ((y - target) ** 2).sum()


def step_of(optimizer, net, x, loss):
    """The change of the weights in one step, over -lr."""
    params = list(net.parameters())
    before = flat(params)

    def closure():
        y = net(x)
        return y, loss(y)

    optimizer.step(closure)
    return (before - flat(params)) / optimizer.param_groups[0]["lr"]


def by_hand(net, x, loss, **settings):
    """The same by numpy."""
    y = net(x)
    (g,) = torch.autograd.grad(loss(y), y, retain_graph=True)
    return expected(jacobian(y, list(net.parameters())), g.double().reshape(-1).numpy(), **settings)


def mlp(*widths, bias=True, activation=torch.nn.Tanh, seed=1):
    """Dense layers with activations between them."""
    torch.manual_seed(seed)
    layers = []
    for i, (n, q) in enumerate(zip(widths, widths[1:], strict=False)):
        layers += [activation()] if i else []
        layers.append(torch.nn.Linear(n, q, bias=bias, dtype=DTYPE))
    return torch.nn.Sequential(*layers)


def data(batch, n, o, seed=2):
    """Inputs and targets."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(batch, n, generator=random, dtype=DTYPE), torch.randn(batch, o, generator=random, dtype=DTYPE)


class Gain(torch.nn.Module):
    """A weight for each feature, and one for all."""

    def __init__(self, n):
        super().__init__()
        self.each = torch.nn.Parameter(torch.linspace(0.5, 1.5, n, dtype=DTYPE))
        self.all = torch.nn.Parameter(torch.tensor(1.3, dtype=DTYPE))

    def forward(self, x):
        return torch.tanh(x * self.each) * self.all


class Plain(torch.nn.Module):
    """x W + b with W (n, q), as written by hand."""

    def __init__(self, n, q):
        super().__init__()
        self.W = torch.nn.Parameter(torch.randn(n, q, dtype=DTYPE) / n)
        self.b = torch.nn.Parameter(torch.zeros(q, dtype=DTYPE))

    def forward(self, x):
        return x @ self.W + self.b


class Twice(torch.nn.Module):
    """One layer used two times."""

    def __init__(self, n):
        super().__init__()
        self.layer = torch.nn.Linear(n, n, dtype=DTYPE)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


def sequence(*layers):
    """Layers in double precision."""
    return torch.nn.Sequential(*layers).to(DTYPE)


def shaped(*shape):
    """48 numbers as an image, a signal, a volume."""
    return torch.nn.Unflatten(1, shape)


nn = torch.nn
# Of each: networks from 48 numbers to 3, and whether the graph shows how their parameters meet the samples.
NETWORKS = {
    "dense": (lambda: mlp(48, 7, 6, 3), True),
    "no bias": (lambda: mlp(48, 7, 6, 3, bias=False, activation=nn.ReLU), True),
    "fewer parameters than outputs": (lambda: sequence(nn.AvgPool1d(24), mlp(2, 3)), True),
    "by hand": (lambda: nn.Sequential(Plain(48, 5), nn.Tanh(), Plain(5, 3)), True),
    "used twice": (lambda: sequence(nn.Linear(48, 4), Twice(4), nn.Linear(4, 3)), True),
    "few positions": (
        lambda: sequence(shaped(2, 24), nn.Linear(24, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)),
        True,
    ),
    "many positions": (
        lambda: sequence(shaped(24, 2), nn.Linear(2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(72, 3)),
        True,
    ),
    "convolution": (
        lambda: sequence(
            shaped(3, 4, 4), nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
        ),
        True,
    ),
    "groups and holes": (
        lambda: sequence(
            shaped(4, 12),
            nn.Conv1d(4, 8, 3, groups=2, dilation=2),
            nn.Tanh(),
            nn.Conv1d(8, 8, 2, groups=8, bias=False),
            nn.Flatten(),
            nn.Linear(56, 3),
        ),
        True,
    ),
    "volumes": (
        lambda: sequence(shaped(1, 3, 4, 4), nn.Conv3d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(192, 3)),
        True,
    ),
    "transposed convolution": (
        lambda: sequence(shaped(4, 12), nn.ConvTranspose1d(4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(39, 3)),
        True,
    ),
    "layer normalisation": (lambda: sequence(nn.Linear(48, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)), True),
    "gains": (lambda: sequence(nn.Linear(48, 4), Gain(4), nn.Linear(4, 3)), True),
    "weight normalisation": (
        lambda: sequence(nn.utils.parametrizations.weight_norm(nn.Linear(48, 4)), nn.Tanh(), nn.Linear(4, 3)),
        True,
    ),
    "evaluated batch normalisation": (
        lambda: sequence(nn.Linear(48, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).eval(),
        True,
    ),
    "batch normalisation": (lambda: sequence(nn.Linear(48, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)), False),
    "recurrent": (lambda: sequence(Recurrent(6, 4), nn.Linear(4, 3)), True),
    "attention": (
        lambda: sequence(
            shaped(12, 4),
            nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True),
            nn.Flatten(),
            nn.Linear(48, 3),
        ),
        True,
    ),
    "the state of the last position but one": (lambda: sequence(Recurrent(6, 4, which=-2), nn.Linear(4, 3)), True),
}


class Recurrent(torch.nn.Module):
    """A state of a recurrent layer, inside which samples do not come first."""

    def __init__(self, n, q, which=-1):
        super().__init__()
        self.which = which
        self.layer = torch.nn.GRU(n, q, batch_first=True)

    def forward(self, x):
        return self.layer(x.reshape(len(x), -1, self.layer.input_size))[0][:, self.which]
