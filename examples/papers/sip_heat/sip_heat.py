"""From a temperature to the one before: physical gradients against the adjoint, the heat equation on a disc.

Run: python3 examples/papers/sip_heat/sip_heat.py, or mpirun -n 2 python3 ...; see README.md.

On the unit disc, insulated (1 151 nodes), dimensionless,

    u_t = Lap u,   du/dn = 0 on the boundary,   u(0) = 4 to 10 rectangles, half sides up to 0.3, strength up to 1.

A network takes u at t = 0.02 (five steps of backward Euler) at all nodes and gives u(0) at all nodes. The inverse is
the damped spectral one of the study, with the eigenfunctions of the finite elements in place of Fourier modes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)
import sip  # noqa: E402

import numpy as np  # noqa: E402

import relax  # noqa: E402
from relax.pdes import heat  # noqa: E402
from relax.train.inverses.heat import heat_inverse  # noqa: E402

MESH = Path(__file__).resolve().parents[3] / "meshes" / "disk.msh"
TIME, STEPS, MODES = 0.02, 5, 200


def study() -> sip.Study:
    """The equation on each team. Collective."""
    teams = relax.Teams(harness.COMM, 1)
    mesh = relax.meshes.read(MESH, teams.space)
    problem = heat.evolution(mesh, dt=TIME / STEPS, num_steps=STEPS, theta=1.0, dirichlet={})
    seen = relax.FieldValues(problem.state.function_space)
    G = relax.ReducedMap(problem, seen)
    nodes = seen.coordinates[:, :2]

    def draw(random: np.random.Generator, samples: int) -> np.ndarray:
        u = np.zeros((samples, len(nodes)))
        for row in u:
            count = random.integers(4, 11)
            centres = random.uniform(-0.8, 0.8, (count, 2))
            sides, strengths = random.uniform(0.0, 0.3, (count, 2)), random.uniform(size=count)
            inside = (np.abs(nodes[None] - centres[:, None]) <= sides[:, None]).all(axis=2)
            row += strengths @ inside
        return u

    return sip.Study("SIP heat", teams, G, heat_inverse(G, modes=MODES), draw)


if __name__ == "__main__":
    relax.init(sys.argv)
    sip.main(study, __doc__ or "")
