"""From a potential to its source: physical gradients against the adjoint, Poisson's equation on an unstructured mesh.

Run: python3 examples/papers/sip_poisson/sip_poisson.py, or mpirun -n 2 python3 ...; see README.md.

On an L-shaped domain with sides of length 2 and 1 (1 100 nodes), dimensionless,

    -Lap u = m,   u = 0 on the boundary,   m = 3 to 8 Gaussian blobs of deviation 0.1 to 0.25, standard normal height.

A network takes u at all nodes and gives m at all nodes. The inverse is exact: the stiffness matrix times the difference
of potentials, and a solve with the mass matrix.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)
import sip  # noqa: E402

import numpy as np  # noqa: E402

import relax  # noqa: E402
from relax.pdes import poisson  # noqa: E402
from relax.train.inverses.poisson import poisson_inverse  # noqa: E402

MESH = Path(__file__).resolve().parents[3] / "meshes" / "lshape.msh"


def study() -> sip.Study:
    """The equation on each team. Collective."""
    teams = relax.Teams(harness.COMM, 1)
    problem = poisson.source(relax.meshes.read(MESH, teams.space))
    seen = relax.FieldValues(problem.state.function_space)
    G = relax.ReducedMap(problem, seen)
    nodes = seen.coordinates[:, :2]
    # What the potential cannot tell, the source at clamped nodes, is zero.
    free = (G(np.ones(G.size_in)) != 0.0).astype(float)

    def draw(random: np.random.Generator, samples: int) -> np.ndarray:
        m = np.zeros((samples, len(nodes)))
        for row in m:
            count = random.integers(3, 9)
            centres = nodes[random.choice(len(nodes), count)]
            widths, heights = random.uniform(0.1, 0.25, count), random.standard_normal(count)
            squares = ((nodes[None] - centres[:, None]) ** 2).sum(axis=2)
            row += heights @ np.exp(-0.5 * squares / widths[:, None] ** 2)
        return m * free

    return sip.Study("SIP Poisson", teams, G, poisson_inverse(G), draw)


if __name__ == "__main__":
    relax.init(sys.argv)
    sip.main(study, __doc__ or "")
