"""What a half-inverse step does with the noise of its Jacobian: the tolerance of the solver against ``rcond``.

Run: ``environment/enter python3 benchmarks/half_inverse_noise.py``. A network gives the log-conductivity of a Poisson
problem, y is the solution at 20 points, for 16 samples, the inputs of which have two parameters. The Jacobian comes
once from adjoints by a direct solver and once by CG with hypre, stopped at a relative residual. The table is
|d - d_direct| / |d_direct| of the step d.
"""

from __future__ import annotations

from timing import seconds  # isort: skip  # noqa: F401  (sets the number of threads)

import relax
import numpy as np
import torch

BATCH, POINTS = 16, 20
TOLERANCES = (1e-4, 1e-6, 1e-8, 1e-10)
CUTS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def layer(options: object) -> relax.SolutionLayer:
    """-div(exp(m) grad u) = 10 on the unit square, seen at points."""
    problem = relax.pdes.poisson.diffusion(relax.meshes.unit_square(24), source=10.0)
    points = np.random.default_rng(1).uniform(0.1, 0.9, (POINTS, 2))
    G = relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, points), options=options)
    return relax.SolutionLayer(G)


def step(physics: relax.SolutionLayer, rcond: float) -> tuple[np.ndarray, int]:
    """d, and how many singular values are in it."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(POINTS, 20), torch.nn.Tanh(), torch.nn.Linear(20, physics.size_in)
    ).double()
    # Samples of a family with two parameters: their rows are nearly dependent.
    x = 0.3 * torch.randn(BATCH, 2, dtype=torch.float64) @ torch.randn(2, POINTS, dtype=torch.float64)
    before = torch.nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    optimizer = relax.HalfInverse(net.parameters(), lr=1.0, rcond=rcond, method="svd")

    def closure() -> tuple[torch.Tensor, torch.Tensor]:
        y = physics(net(x))
        return y, ((y - 1.0) ** 2).sum() / BATCH

    optimizer.step(closure)
    after = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    assert optimizer.report is not None
    return (before - after).numpy(), optimizer.report.kept


def main() -> None:
    """The table."""
    exact = layer(relax.DIRECT)
    steps = {cut: step(exact, cut) for cut in CUTS}
    print(f"\nerror of a half-inverse step, {BATCH * POINTS} rows; columns: tolerance of the adjoint solver")
    print("  rcond    kept " + "".join(f"{t:>10.0e}" for t in TOLERANCES))
    layers = [layer({**relax.AMG_CG, "ksp_rtol": t}) for t in TOLERANCES]
    for cut in CUTS:
        d, kept = steps[cut]
        errors = [np.linalg.norm(step(noisy, cut)[0] - d) / np.linalg.norm(d) for noisy in layers]
        print(f"  {cut:.0e}  {kept:5d} " + "".join(f"{e:10.1e}" for e in errors), flush=True)


if __name__ == "__main__":
    main()
