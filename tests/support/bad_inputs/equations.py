"""Meshes, tags, problems, evolutions, equations of ``relax.pdes``."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import fem

from bad_inputs.given import heat, single, viscous
from relax import (
    Continuation,
    Evolution,
    Problem,
    clamp,
    clamp_boundary,
    meshes,
    pdes,
    theta_evolution,
)


def mixed(g):
    """A residual on a MixedFunctionSpace, of two states side by side."""
    W = ufl.MixedFunctionSpace(g.V, g.V)
    (u, p), (v, q) = (fem.Function(g.V), fem.Function(g.V)), ufl.TestFunctions(W)
    m = fem.Function(g.V)
    return Problem(residual=(u * v + p * q - m * v) * ufl.dx, state=u, controls=[m])


def theta(g, **more):
    u, v, m = fem.Function(g.V), ufl.TestFunction(g.V), fem.Function(g.V)
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) - m * v) * ufl.dx
    return theta_evolution(F, u, **{"initial": 0.0, "dt": 0.1, "num_steps": 2, "controls": [m], **more})


def evolution(g, **more):
    return Evolution(**{"step": g.march.step, "previous": g.march.previous, "initial": 0.0, "num_steps": 2, **more})


def wave(g, **more):
    return pdes.schrodinger.dipole(g.line, **{"num_steps": 2, "dt": 0.1, **more})


MISTAKES = {
    # meshes
    "a mesh: too many cells": (lambda g: meshes.unit_square(3_000_000_000), "at most 1e+12 parts in all"),
    "a mesh: far too many": (lambda g: meshes.interval(10**20), "at most 1e+12 parts in all"),
    "a mesh: no cells": (
        lambda g: meshes.unit_square(0),
        "rectangle: expected a number of parts of at least 1 in each",
    ),
    "a mesh: half a cell": (
        lambda g: meshes.unit_square(2.5),
        "rectangle: expected a number of parts of at least 1 in each",
    ),
    "a mesh: text": (lambda g: meshes.unit_cube("4"), "box: expected a number of parts of at least 1 in each direct"),
    "a mesh: of stars": (
        lambda g: meshes.unit_square(2, cell="star"),
        "cell: expected one of 'triangle', 'quadrilateral'",
    ),
    "a mesh: upside down": (
        lambda g: meshes.interval(3, (1.0, 0.0)),
        "interval: expected each lower coordinate below the upper one",
    ),
    "a mesh: of no width": (
        lambda g: meshes.rectangle((0.0, 0.0), (0.0, 1.0), (2, 2)),
        "rectangle: expected each lower coordinate below the upper on",
    ),
    "a mesh: to NaN": (
        lambda g: meshes.rectangle((0.0, 0.0), (np.nan, 1.0), (2, 2)),
        "rectangle: expected each lower coordinate below the upper on",
    ),
    "a mesh: to infinity": (
        lambda g: meshes.interval(3, (0.0, np.inf)),
        "interval: expected each lower coordinate below the upper one",
    ),
    "a mesh: three corners": (
        lambda g: meshes.rectangle((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (2, 2)),
        "rectangle: expected 2 numbers each for both ends and n",
    ),
    "a mesh: one number": (
        lambda g: meshes.rectangle((0.0, 0.0), (1.0, 1.0), 3),
        "rectangle: expected 2 numbers each for both ends and n",
    ),
    "a mesh: too far": (
        lambda g: meshes.interval(3, (0.0, 1e200)),
        "interval: expected each lower coordinate below the upper one",
    ),
    "a mesh: no communicator": (
        lambda g: meshes.unit_square(2, comm=3),
        "comm: expected a communicator, such as MPI.COMM_WORLD",
    ),
    "a disk: h": (lambda g: meshes.disk(-0.1), "disk: expected 0 < h <= radius"),
    "a disk: radius": (lambda g: meshes.disk(0.1, radius=np.nan), "disk: expected 0 < h <= radius"),
    "a disk: centre": (
        lambda g: meshes.disk(0.5, centre=(0.0, 0.0, 0.0)),
        "disk: expected two finite coordinates as its centre",
    ),
    "a disk: endless": (lambda g: meshes.disk(1e-9), "disk: expected at most 1e+12 cells"),
    "a file: missing": (lambda g: meshes.read("nowhere.msh"), "nowhere.msh: there is no such file"),
    "a file: a number": (lambda g: meshes.read(3), "path: expected the path of a mesh file"),
    "a file: of another kind": (lambda g: meshes.read(g.file("a.vtk", "x")), "ending in .msh, .geo or .xdmf"),
    "a file: NUL": (lambda g: meshes.read("a\0b.msh"), "a\0b.msh: there is no such file (looked from"),
    "a file: a long name": (
        lambda g: meshes.read("a" * 6000 + ".msh"),
        "aaaa: there is no such file (looked from",
    ),
    "a file: no mesh": (lambda g: meshes.read(g.file("a.msh", "x")), "does not begin with $MeshFormat"),
    "a geometry: h": (
        lambda g: meshes.read(g.file("a.geo", "h = 1;"), h="x"),
        "h='x'; expected a positive number, and a .geo",
    ),
    "a geometry: a command": (lambda g: meshes.read(g.file("b.geo", 'SystemCall "ls";')), "SystemCall runs a program"),
    "a mesh: float32": (lambda g: pdes.poisson.diffusion(single()), "expected a mesh of float64"),
    "no mesh": (
        lambda g: pdes.poisson.diffusion("square"),
        "poisson: mesh: expected a mesh, such as relax.meshes.unit_sq",
    ),
    # tags and clamps
    "a tag: too large": (lambda g: clamp(g.V, 99_999_999_999_999), "the mesh has no facet tag 99999999999999; it has"),
    "a tag: misspelt": (lambda g: clamp(g.V, "lefft"), "the mesh has no facet tag 'lefft'; it has 1 ('left'), 2 ('ri"),
    "a tag: a half": (lambda g: clamp(g.V, 1.5), "tags: expected a name, a number, or a non-empty sequence of"),
    "a tag: none": (lambda g: clamp(g.V, []), "tags: expected a name, a number, or a non-empty sequence of"),
    "a tag: of cells": (
        lambda g: meshes.cells(g.mesh, "left"),
        "the mesh has no cell tags, so 'left' means nothing; read a f",
    ),
    "a tag: NaN": (lambda g: meshes.ds(g.mesh, np.nan), "tags: expected a name, a number, or a non-empty sequence of"),
    "tags: of no mesh": (lambda g: meshes.tags_of(g.V), "domain: expected a mesh of DOLFINx"),
    "a clamp: a marker of one number": (
        lambda g: clamp(g.V, lambda x: True),
        "clamp: expected a function that gives True or False for each",
    ),
    "a clamp: a marker of nothing": (
        lambda g: clamp(g.V, lambda x: x[0] > 9.0),
        "clamp: the function marks no facet of the boundary: all vert",
    ),
    "a clamp: a marker that fails": (
        lambda g: clamp(g.V, lambda x: x[5] > 9.0),
        "clamp: the function failed: IndexError: index 5 is out of bo",
    ),
    "a clamp: a derivative": (
        lambda g: clamp(g.V, "left", ufl.grad(fem.Function(g.V))[0]),
        "clamp: the value has a derivative in it, which differs",
    ),
    "a clamp: a Function that jumps": (
        lambda g: clamp(g.V, "left", 2.0 * fem.Function(fem.functionspace(g.mesh, ("DG", 0)))),
        "which differs between the cells that meet at a node; expected",
    ),
    "a clamp: the state": (
        lambda g: g.poisson(lambda u: g.u, state=g.u, bcs=[clamp(g.V, "left", 2.0 * g.u)]),
        "bcs: the state stands in the value that it is held at;",
    ),
    "a clamp: another space": (lambda g: clamp(g.V, "left", g.other), "clamp: the value is a Function in"),
    "a clamp: NaN": (
        lambda g: clamp(g.V, "left", np.nan),
        "expected a finite number, a function of x, a UFL expression,",
    ),
    "a clamp: a vector": (
        lambda g: clamp(g.V, "left", [1.0, 2.0]),
        "expected a finite number, a function of x, a UFL expression,",
    ),
    "a clamp: a Constant in a list": (
        lambda g: clamp(g.V, "left", [fem.Constant(g.mesh, 1.0)]),
        "expected numbers, got UFL among them; write ufl.as_vector([...]), or",
    ),
    "a clamp: text": (
        lambda g: clamp_boundary(g.V, "zero"),
        "expected a finite number, a function of x, a UFL expression,",
    ),
    "a clamp: no space": (
        lambda g: clamp_boundary(g.problem.state),
        "clamp: V: expected the space of a state, or a part of it",
    ),
    "a clamp: a mesh": (lambda g: clamp(g.mesh, "left"), "clamp: V: expected the space of a state, or a part of it"),
    # problems
    "a residual: None": (lambda g: g.poisson(residual=None), "residual: expected a UFL form, got NoneType"),
    "a residual: no dx": (lambda g: g.poisson(residual=g.u * g.v), "did you multiply by dx?"),
    "a residual: an equation": (lambda g: g.poisson(residual=g.u * g.v * ufl.dx == 0), "residual: expected a UFL form"),
    "a residual: a trial function": (
        lambda g: g.poisson(residual=ufl.TrialFunction(g.V) * g.v * ufl.dx),
        "residual: expected a form in one test function, got 2",
    ),
    "a residual: no test function": (lambda g: g.poisson(residual=g.u * ufl.dx), "got 0 arguments"),
    "a residual: without the state": (lambda g: g.poisson(residual=g.c * g.v * ufl.dx), "does not stand in the resid"),
    "a residual: another test space": (
        lambda g: g.poisson(residual=g.u * ufl.TestFunction(g.other.function_space) * ufl.dx, state=g.u),
        "its test function is of another space",
    ),
    "a coefficient: on another mesh": (
        lambda g: g.poisson(lambda u: g.elsewhere),
        "is on another mesh than its integral",
    ),
    "a control: on another mesh": (lambda g: g.poisson(controls=[g.elsewhere]), "stands neither in the residual nor"),
    "a constant: on another mesh": (
        lambda g: g.poisson(lambda u: fem.Constant(g.elsewhere.function_space.mesh, 1.0)),
        "is on another mesh than its integral",
    ),
    "a measure: of another mesh": (
        lambda g: g.poisson(
            residual=(g.u - g.c) * g.v * ufl.dx(g.elsewhere.function_space.mesh), state=g.u, controls=[g.c]
        ),
        "residual: expected integrals over the mesh of the state",
    ),
    "a mixed function space": (mixed, "residual: expected a state for each space of the MixedF"),
    "an external operator": (
        lambda g: g.poisson(lambda u: ufl.ExternalOperator(u, function_space=g.V)),
        "is an external operator, whose derivative DOLFINx does not know",
    ),
    "a constant: whole numbers": (
        lambda g: g.poisson(lambda u: fem.Constant(g.mesh, np.float32(1.0))),
        "write 1.0, not 1",
    ),
    "a state: UFL": (lambda g: g.poisson(state=2 * g.u), "state: expected a dolfinx.fem.Function"),
    "controls: one, bare": (lambda g: g.poisson(controls=g.u), "controls: expected a list of Functions and Constants"),
    "controls: text": (lambda g: g.poisson(controls="m"), "controls: expected a list of Functions and Con"),
    "controls: None": (lambda g: g.poisson(controls=None), "controls: expected a list of Functions and Constants"),
    "controls: a mesh": (lambda g: g.poisson(controls=[g.mesh]), "got Mesh; the coordinates of the mesh cannot be"),
    "controls: a geometry": (lambda g: g.poisson(controls=[g.mesh.geometry]), "A shape can be a control as a displace"),
    "controls: its nodes": (lambda g: g.poisson(controls=[g.mesh.geometry.x]), "A shape can be a control as a displac"),
    "controls: numbers": (lambda g: g.poisson(controls=[np.ones(3)]), "expected a Function or a Constant, got ndarray"),
    "controls: x": (
        lambda g: g.poisson(controls=[ufl.SpatialCoordinate(g.mesh)]),
        "got SpatialCoordinate; the coordinates of the mesh cannot be differentiated in",
    ),
    "controls: x of steps": (
        lambda g: theta(g, controls=[ufl.SpatialCoordinate(g.mesh)[0]]),
        "controls[0]: expected a Function or a Constant, got Indexed; the coordinates of the mesh",
    ),
    "controls: twice": (
        lambda g: g.poisson(residual=(g.u - g.c) * g.v * ufl.dx, state=g.u, controls=[g.c, g.c]),
        "controls[1] is the state or an earlier control again",
    ),
    "bcs: one, bare": (lambda g: g.poisson(bcs=clamp_boundary(g.V)), "bcs: expected a list of Dirichlet conditions"),
    "bcs: tags": (lambda g: g.poisson(bcs=["left"]), "bcs: expected Dirichlet conditions"),
    "bcs: another space": (
        lambda g: g.poisson(bcs=[clamp_boundary(g.other.function_space)]),
        "bcs: a condition is on another space than the state's",
    ),
    "a name with a space": (lambda g: g.poisson(name="a b"), "name: expected letters"),
    "a name: None": (lambda g: g.poisson(name=None), "name: expected letters, digits and underscores"),
    "a continuation: text": (lambda g: g.poisson(continuation="x"), "continuation: expected a relax.Continuation"),
    "a continuation: a number": (lambda g: Continuation(3.0, 1.0), "continuation: expected a scalar Constant"),
    "a continuation: of no use": (lambda g: g.poisson(continuation=Continuation(g.c, 1.0)), "continuation: expected"),
    "a continuation: NaN": (lambda g: Continuation(g.c, np.nan), "continuation: expected an easy value above 0"),
    # evolutions
    "steps: none": (lambda g: heat(g, num_steps=0), "num_steps: expected a whole number of at least 1"),
    "steps: a fraction": (
        lambda g: heat(g, num_steps=2.0),
        "num_steps: expected a whole number of at least 1, got 2.0",
    ),
    "dt: negative": (lambda g: heat(g, dt=-0.1), "dt: expected a finite length above 0"),
    "dt: NaN": (lambda g: heat(g, dt=np.nan), "dt: expected a finite length above 0"),
    "dt: None": (lambda g: theta(g, dt=None), "dt: expected a finite length above 0"),
    "theta: text": (
        lambda g: heat(g, theta="x"),
        "theta: expected a number above 0 and at most 1, 'midpoint'",
    ),
    "theta: 2": (lambda g: theta(g, theta=2.0), "theta: expected a number above 0 and at most 1, 'midpoint'"),
    "theta: NaN": (
        lambda g: theta(g, theta=np.nan),
        "theta: expected a number above 0 and at most 1, 'midpoint'",
    ),
    "an initial state: another space": (
        lambda g: theta(g, initial=g.other),
        "initial: a Function must be in the space of the step's state",
    ),
    "an initial state: NaN": (
        lambda g: theta(g, initial=np.nan),
        "expected a finite number, a function of x, a UFL expression,",
    ),
    "an initial state: text": (
        lambda g: theta(g, initial="x"),
        "expected a finite number, a function of x, a UFL expression,",
    ),
    "per step: not there": (
        lambda g: theta(g, per_step=[g.c]),
        "expected a control of the step other than",
    ),
    "start: NaN": (lambda g: theta(g, start=np.nan), "start: expected a finite time"),
    "a time: a number": (lambda g: theta(g, time=3.0), "time: expected the Constant that stands in the residual"),
    "a step: text": (lambda g: evolution(g, step="x"), "step: expected a relax.Problem"),
    "previous: the state": (
        lambda g: evolution(g, previous=g.march.state),
        "step: two of its states and previous ones are the same Function",
    ),
    "previous: a number": (
        lambda g: evolution(g, previous=3.0),
        "previous: expected a Function in the space of the step's sta",
    ),
    "an evolution: dt": (lambda g: evolution(g, dt=-1.0), "dt: expected a finite length above 0"),
    "an evolution: a substitution": (
        lambda g: evolution(g, substitution=3),
        "substitution: expected a relax.Substitution",
    ),
    # equations
    "degree: 0": (lambda g: pdes.poisson.diffusion(g.mesh, degree=0), "poisson: degree: expected a whole number of at"),
    "degree: -1": (lambda g: pdes.poisson.source(g.mesh, degree=-1), "poisson: degree"),
    "degree: 50": (lambda g: pdes.poisson.source(g.mesh, degree=50), "degree: expected a whole number from 1 to 12"),
    "degree: a fraction": (
        lambda g: heat(g, degree=1.5),
        "heat: degree: expected a whole number of at least 1, got 1.5",
    ),
    "degree: of a wave": (lambda g: wave(g, degree=0), "degree: expected"),
    "a source: text": (
        lambda g: pdes.poisson.diffusion(g.mesh, source="x"),
        "expected a finite number, a function of x, a UFL expression,",
    ),
    "a source: NaN": (
        lambda g: pdes.poisson.diffusion(g.mesh, source=np.nan),
        "expected a finite number, a function of x, a UFL expression,",
    ),
    "a source: a list": (
        lambda g: pdes.poisson.diffusion(g.mesh, source=[1.0, 2.0]),
        "expected a finite number, a function of x, a UFL expression,",
    ),
    "a source: on another mesh": (
        lambda g: pdes.poisson.diffusion(g.mesh, source=2.0 * g.elsewhere),
        "expected an expression on the same mesh as the space",
    ),
    "a source: that fails": (
        lambda g: pdes.poisson.diffusion(g.mesh, source=lambda x: x[7]),
        "a function of x failed: IndexError: index 7 is out of bounds",
    ),
    "dirichlet: a list": (
        lambda g: pdes.poisson.diffusion(g.mesh, dirichlet=["left"]),
        "poisson: dirichlet: expected a table of tag -> value, such a",
    ),
    "dirichlet: a tag": (
        lambda g: pdes.poisson.diffusion(g.mesh, dirichlet={"nowhere": 1.0}),
        "the mesh has no facet tag 'nowhere'; it has 1 ('left'), 2",
    ),
    "neumann: text": (
        lambda g: pdes.poisson.diffusion(g.mesh, neumann={"left": "x"}),
        "expected a finite number, a function of x, a UFL expression,",
    ),
    "controls: of heat": (
        lambda g: heat(g, controls="colour"),
        "heat: controls: expected names of controls, got 'colour';",
    ),
    "controls: of nothing": (
        lambda g: heat(g, controls=[]),
        "heat: controls: expected at least one of initial, source, so",
    ),
    "viscosity: negative": (
        lambda g: pdes.burgers.evolution(g.line, viscosity=-1.0, dt=0.1, num_steps=2),
        "burgers: expected a viscosity above 0 everywhere",
    ),
    "supg: a word": (
        lambda g: pdes.burgers.evolution(g.line, viscosity=1.0, dt=0.1, num_steps=2, supg="x"),
        "burgers: supg: expected True, False or 'auto', got 'x'",
    ),
    "beta: 0": (lambda g: viscous(g, beta=0.0), "hamilton_jacobi: beta: expected a finite number above 0, got"),
    "beta: infinite": (
        lambda g: viscous(g, beta=np.inf),
        "hamilton_jacobi: beta: expected a finite number above 0, got",
    ),
    "t: negative": (lambda g: viscous(g, t=-1.0), "hamilton_jacobi: t: expected a finite number above 0, got"),
    "a route: a word": (
        lambda g: viscous(g, route="scenic"),
        "hamilton_jacobi: route: expected 'direct', 'cole_hopf' or",
    ),
    "f: text": (lambda g: viscous(g, f="x"), "expected a finite number, a function of x, a UFL expression,"),
    "discount: 0": (
        lambda g: pdes.hamilton_jacobi.viscous(g.mesh, 1.0, beta=1.0, discount=0.0),
        "hamilton_jacobi_steady: with discount = 0 and no clamped",
    ),
    "eigenstates: none": (
        lambda g: pdes.schrodinger.eigenstates(g.line, 0.0, 0),
        "k: expected a number of states of at least 1",
    ),
    "eigenstates: a thousand": (
        lambda g: pdes.schrodinger.eigenstates(g.line, 0.0, 1000),
        "k: expected at most 39, the degrees of freedom that are not",
    ),
    "a potential: NaN": (
        lambda g: pdes.schrodinger.eigenstates(g.line, np.nan, 1),
        "expected a finite number, a function of x, a UFL expression,",
    ),
    "a wave: its direction": (lambda g: wave(g, direction=3), "direction: expected a coordinate from 0 to 0, got 3"),
    "a wave: its initial state": (
        lambda g: wave(g, initial=0),
        "initial: expected the number of an eigenstate, 1 for the gro",
    ),
    "an absorber: its width": (
        lambda g: pdes.schrodinger.absorbing_layer(g.line, width=-1.0, strength=1.0),
        "absorbing_layer: expected a width and a strength above 0,",
    ),
}
