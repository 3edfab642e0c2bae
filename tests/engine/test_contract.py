"""The contract, for every kind of problem."""

from __future__ import annotations

import problems
from contract import BlocksOnRanks, MapContract
from dolfinx import fem
from observable_contract import ObservableContract

from relax import meshes, pdes


class TestDiffusion(BlocksOnRanks):
    make = staticmethod(pdes.poisson.diffusion)


class TestDiffusionP2OnQuadrilaterals(MapContract):
    make = staticmethod(lambda mesh: pdes.poisson.diffusion(mesh, degree=2))
    domain = staticmethod(lambda comm: meshes.unit_square(3, cell="quadrilateral", comm=comm))


class TestDiffusionOnTetrahedra(MapContract):
    make = staticmethod(pdes.poisson.diffusion)
    domain = staticmethod(lambda comm: meshes.unit_cube(2, comm=comm))


class TestSource(BlocksOnRanks):
    make = staticmethod(pdes.poisson.source)


class TestSourceP2(MapContract):
    make = staticmethod(lambda mesh: pdes.poisson.source(mesh, degree=2))
    observe = staticmethod(problems.curved)


class TestCubicReaction(MapContract):
    make = staticmethod(problems.cubic_reaction)


class TestCubicReactionCurved(MapContract):
    make = staticmethod(lambda mesh: problems.cubic_reaction(mesh, degree=2))
    observe = staticmethod(problems.curved)


class TestPLaplace(MapContract):
    make = staticmethod(problems.p_laplace)


class TestAdvectionConstant(MapContract):
    make = staticmethod(problems.advection_constant)


class TestAdvectionField(BlocksOnRanks):
    make = staticmethod(problems.advection_field)
    observe = staticmethod(problems.field)


class TestReactionConstant(MapContract):
    make = staticmethod(problems.reaction_constant)


class TestNumberAndFields(BlocksOnRanks):
    make = staticmethod(problems.number_and_fields)
    observe = staticmethod(problems.field)


class TestDirichletField(MapContract):
    make = staticmethod(problems.dirichlet_field)


class TestDirichletConstant(MapContract):
    make = staticmethod(problems.dirichlet_constant)


class TestDirichletAndField(BlocksOnRanks):
    make = staticmethod(problems.dirichlet_and_field)
    observe = staticmethod(problems.curved)


class TestDirichletInTheFormToo(MapContract):
    make = staticmethod(problems.dirichlet_in_the_form_too)


class TestNeumann(MapContract):
    make = staticmethod(problems.neumann)


class TestElasticity(MapContract):
    make = staticmethod(problems.elasticity)


class TestElasticityOnTetrahedra(MapContract):
    make = staticmethod(problems.elasticity)
    domain = staticmethod(lambda comm: meshes.unit_cube(2, comm=comm))
    observe = staticmethod(problems.field)


class TestStokes(MapContract):
    make = staticmethod(problems.stokes)
    domain = staticmethod(lambda comm: meshes.unit_square(3, comm=comm))
    observe = staticmethod(problems.velocity_and_pressure)


class TestPiecewiseConstantControl(MapContract):
    make = staticmethod(lambda mesh: problems.reaction(mesh, fem.functionspace(mesh, ("DG", 0))))


class TestObservableWithoutSecond(MapContract):
    make = staticmethod(problems.cubic_reaction)
    observe = staticmethod(problems.SumOfQuartics)


class TestCurved(ObservableContract):
    problem = staticmethod(problems.cubic_reaction)
    make = staticmethod(problems.curved)


class TestVelocityAndPressure(ObservableContract):
    problem = staticmethod(problems.stokes)
    make = staticmethod(problems.velocity_and_pressure)


class TestPoints(ObservableContract):
    problem = staticmethod(problems.elasticity)
    make = staticmethod(problems.field)


class TestSumOfQuartics(ObservableContract):
    problem = staticmethod(problems.cubic_reaction)
    make = staticmethod(problems.SumOfQuartics)
