"""Physical gradients: ten updates of a point by its gradient, by Newton's method, and by the inverse of the physics.

First the book's example, y = (x0, x1²) and L = |y|² from x = (3, 3), with its rates; then the same three on a PDE:
the source m of -Δu = m on a square, L = ½ |u - u*|² at all nodes, 289 numbers. There the gradient's rate is the
largest that descends, Newton's method is Gauss–Newton's, and the inverse is that of the equation, which
``relax.train.poisson_inverse`` knows.

Run: python3 examples/book/physical_gradients.py, or mpirun -n 2 python3 examples/book/physical_gradients.py
"""

from __future__ import annotations

from chapter import Chapter, opened, table  # first: it sets the number of threads

from typing import Any

import relax
import numpy as np
import torch
from relax.jobs.view import style
from relax.train import poisson_inverse
from torch import Tensor

UPDATES = 10


def squares(x: Tensor) -> Tensor:
    return torch.stack([x[..., 0], x[..., 1] ** 2], dim=-1)


class Root:
    """The inverse of ``squares`` near a point: exact, on the branch of the point."""

    def at(self, x: Tensor) -> Any:
        return lambda residual: torch.stack(
            [residual[..., 0], (squares(x) + residual)[..., 1].sqrt() * x[..., 1].sign() - x[..., 1]], dim=-1
        )


def paths() -> dict[str, Tensor]:
    """Where the three methods go in the book's example: (updates + 1, 2) each."""

    def loss(x: Tensor) -> Tensor:
        return (squares(x) ** 2).sum()

    def gradient(x: Tensor) -> Tensor:
        return 0.01 * torch.func.grad(loss)(x)

    def newton(x: Tensor) -> Tensor:
        return 0.3 * torch.linalg.solve(torch.func.hessian(loss)(x), torch.func.grad(loss)(x))

    def physical(x: Tensor) -> Tensor:
        here = x[None].clone().requires_grad_()
        # The Newton step of |y|² in y leads to zero; the book goes 0.3 of it.
        relax.physical_gradient(here, squares(x[None]), torch.zeros(1, 2), Root(), step=0.3).backward()
        return here.grad[0]

    found = {}
    for name, step in (("gradient descent", gradient), ("Newton", newton), ("physical gradient", physical)):
        path = [torch.tensor([3.0, 3.0])]
        for _ in range(UPDATES):
            path.append(path[-1] - step(path[-1]))
        found[name] = torch.stack(path)
    return found


def on_a_pde() -> list[list[str]]:
    """Relative errors of u and of m after ten updates from zero."""
    problem = relax.pdes.poisson.source(relax.meshes.unit_square(16))
    field = relax.FieldValues(problem.state.function_space)
    G = relax.ReducedMap(problem, field)
    x, y = field.coordinates[:, 0], field.coordinates[:, 1]
    truth = np.sin(np.pi * x) * np.sin(np.pi * y) + 0.5 * np.sin(5 * np.pi * x) * np.sin(3 * np.pi * y)
    target = G(truth)
    inverse = poisson_inverse(G)
    with G.linearize(truth) as lin:
        J = lin.matrix()
    rate = 1.0 / np.linalg.norm(J, 2) ** 2

    def physical(m: np.ndarray) -> np.ndarray:
        here = torch.from_numpy(m[None].copy()).requires_grad_()
        relax.physical_gradient(here, torch.from_numpy(G(m)[None]), torch.from_numpy(target[None]), inverse).backward()
        return here.grad[0].numpy()

    steps = {
        "gradient descent": lambda m: rate * J.T @ (G(m) - target),
        "Gauss–Newton, damped": lambda m: np.linalg.solve(J.T @ J + 1e-8 * np.eye(len(m)), J.T @ (G(m) - target)),
        "physical gradient": physical,
    }
    rows = []
    for name, step in steps.items():
        m = np.zeros(G.size_in)
        for _ in range(UPDATES):
            m = m - step(m)
        errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in ((G(m), target), (m, truth))]
        rows.append([name, *(f"{e:.1e}" for e in errors)])
    return rows


def main() -> None:
    chapter = opened(__doc__ or "")
    found = paths()
    rows = [
        [name, "({:.3f}, {:.3f})".format(*path[-1].tolist()), f"{path[-1].norm():.2f}"] for name, path in found.items()
    ]
    table(["y = (x0, x1²)", f"x after {UPDATES} updates", "distance to 0"], rows)
    table(["-Δu = m", "error of u", "error of m"], on_a_pde())
    draw(chapter, found)
    assert float(rows[2][2]) < 0.2 * float(rows[0][2])


def draw(chapter: Chapter, found: dict[str, Tensor]) -> None:
    def fill(axis: Any) -> None:
        for (name, path), colour in zip(found.items(), style.LINES, strict=False):
            axis.plot(path[:, 0], path[:, 1], "o-", ms=3, color=colour, label=name)
        axis.plot([0], [0], "+", color=style.INK, ms=10)
        axis.set(xlabel="x0", ylabel="x1", title="Ten updates")

    chapter.draw(fill, size=(4.6, 4.0))


if __name__ == "__main__":
    main()
