"""A run through a trajectory goes on from a checkpoint, with the same states to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

import relax
from relax.base.fem import stored_fields
from relax.errors import BadInput

COMM = MPI.COMM_WORLD


@pytest.mark.ranks(1, 2)
@pytest.mark.skipif(not stored_fields.is_possible(), reason="no package that keeps fields is installed")
@pytest.mark.parametrize("equation", ["burgers", "cole_hopf"])
def test_a_trajectory_goes_on(shared_tmp: Path, equation: str) -> None:
    """Also of an equation that is solved in another unknown."""
    domain = relax.meshes.interval(12)
    if equation == "burgers":
        evolution = relax.pdes.burgers.evolution(domain, viscosity=0.05, num_steps=6, dt=0.02)
    else:
        evolution = relax.pdes.hamilton_jacobi.viscous_evolution(
            domain, lambda x: np.cos(3 * x[0]), beta=2.0, t=0.3, num_steps=6, route="cole_hopf"
        )
    observable = relax.FieldValues(evolution.state.function_space)
    with relax.ReducedMap(evolution, observable, layout="owned") as G:
        m = G.present_control() + 0.3
        wanted = [evolution.state.x.array.copy() for _ in G.trajectory(m)]
        for n, _ in G.trajectory(m, checkpoint=relax.Checkpoint(shared_tmp, every=0)):
            if n == 4:
                break
        found = [
            (n, evolution.state.x.array.copy()) for n, _ in G.trajectory(m, checkpoint=relax.Checkpoint(shared_tmp))
        ]
        # The fourth was not handled to its end.
        assert [n for n, _ in found] == [3, 4, 5, 6]
        assert all((state == wanted[n]).all() for n, state in found)
        with pytest.raises(BadInput, match="is not that of the run"):
            list(G.trajectory(m + 1.0, checkpoint=relax.Checkpoint(shared_tmp)))
