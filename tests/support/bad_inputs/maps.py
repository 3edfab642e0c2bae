"""Maps, linearisations, observables, priors, inversions, checkpoints and teams."""

from __future__ import annotations

import numpy as np
import ufl

from bad_inputs.given import COMM
from relax import (
    AtSteps,
    BlockPrior,
    Checkpoint,
    EigenMap,
    FieldValues,
    Functional,
    IdentityPrior,
    Newton,
    PointValues,
    ReducedMap,
    SmoothnessPrior,
    Stack,
    Teams,
    TimeIntegral,
    check_map,
    control_values,
    gauss_newton,
    lbfgs,
    meshes,
)


def invert(g, *data, G=None, method=gauss_newton, **more):
    return method(G or g.G, *(data or (g.y,)), **{"noise": 1.0, "prior": g.prior, **more})


def smooth(g, **more):
    return SmoothnessPrior(**{"V": g.V, "length": 0.1, "std": 1.0, **more})


MISTAKES = {
    # maps
    "an observable: text": (lambda g: ReducedMap(g.problem, "x"), "observable: expected a relax.Observable, got 'x'"),
    "an observable: its class": (lambda g: ReducedMap(g.problem, FieldValues), "the class; make one"),
    "an observable: a list": (
        lambda g: ReducedMap(g.problem, [FieldValues(g.V)]),
        "observable: expected a relax.Observable",
    ),
    "an observable: of another state": (
        lambda g: ReducedMap(g.problem, FieldValues(g.other.function_space)),
        "FieldValues: expected the space of the state, Basix element",
    ),
    "an observable: of another mesh": (
        lambda g: ReducedMap(g.problem, FieldValues(g.elsewhere.function_space)),
        "FieldValues: expected the space of the state, Basix element",
    ),
    "an observable: in time": (
        lambda g: ReducedMap(g.problem, AtSteps(FieldValues(g.V), [1])),
        "the observable looks at steps in time, and this problem has",
    ),
    "a problem: text": (lambda g: ReducedMap("p", FieldValues(g.V)), "problem: expected a relax.Problem"),
    "a solver: text": (
        lambda g: ReducedMap(g.problem, FieldValues(g.V), solver="newton"),
        "solver: expected a relax.New",
    ),
    "options: a word": (
        lambda g: ReducedMap(g.problem, FieldValues(g.V), options="fast"),
        "options: expected a mapping of PETSc options or one of ['amg",
    ),
    "options: a number": (
        lambda g: ReducedMap(g.problem, FieldValues(g.V), options=3),
        "options: expected PETSc options, a table of them or the name",
    ),
    "a layout: a word": (
        lambda g: ReducedMap(g.problem, FieldValues(g.V), layout="spread"),
        "layout: expected 'replicated' or 'owned', got 'spread'",
    ),
    "storage: a word": (
        lambda g: ReducedMap(g.march, FieldValues(g.march.state.function_space), storage="disk"),
        "storage: expected a schedule of the package",
    ),
    "storage: of a stationary problem": (
        lambda g: ReducedMap(g.problem, FieldValues(g.V), storage=object()),
        "storage: a stationary problem has no trajectory to store;",
    ),
    "Newton: steps": (
        lambda g: Newton(max_steps=-1),
        "Newton: max_steps: expected a whole number of at least 1, got -1",
    ),
    "Newton: rtol": (lambda g: Newton(rtol=np.nan), "Newton: rtol: expected a number in [0, 1), got nan"),
    "Newton: atol": (lambda g: Newton(atol=-1.0), "Newton: atol: expected a finite number of at least 0, got"),
    "Newton: memory": (lambda g: Newton(factor_memory=-1), "Newton: factor_memory"),
    "energies: none": (lambda g: EigenMap(meshes.interval(6), 0), "k: expected a number of states of at least 1"),
    "energies: degree": (
        lambda g: EigenMap(meshes.interval(6), 1, degree=0),
        "degree: expected a whole number of at least 1, got 0",
    ),
    "energies: a space of another mesh": (
        lambda g: EigenMap(meshes.interval(6), 1, potential_space=g.V),
        "potential_space: expected a space of scalars on the same mes",
    ),
    "energies: no mesh": (lambda g: EigenMap(g.V, 1), "mesh: expected a mesh of DOLFINx"),
    "energies: a control": (lambda g: g.eigen(np.zeros(3)), "expected shape"),
    "energies: too many": (
        lambda g: EigenMap(meshes.interval(4), 100)(np.zeros(5)),
        "k: expected at most 7, the degrees of freedom that are not c",
    ),
    # controls
    "a control: too long": (lambda g: g.G(np.ones(g.G.size_in + 1)), "expected shape (..., "),
    "a control: a number": (lambda g: g.G(3.0), "expected shape (..., "),
    "a control: None": (lambda g: g.G(None), "control: expected shape (..., 16)"),
    "a control: text": (lambda g: g.G("one"), "control: expected an array of real numbers"),
    "a control: NaN": (lambda g: g.G(np.full(g.G.size_in, np.nan)), "entries are NaN or infinite"),
    "a control: complex": (lambda g: g.G(np.full(g.G.size_in, 1j)), "expected real numbers"),
    "a control: a Function": (lambda g: g.G(g.u), "`relax.control_values(G, f)`"),
    "a control: a list of Functions": (lambda g: g.G([g.u]), "expected numbers, got UFL's"),
    "a control: masked": (lambda g: g.G(np.ma.masked_less(np.zeros(g.G.size_in), 1)), "got a masked array"),
    "a control: ragged": (lambda g: g.G([[1.0], [1.0, 2.0]]), "control: expected an array of real numbers"),
    "a control: none": (lambda g: g.G(np.empty((0, 3))), "control: expected shape (..., 16)"),
    "a control: other on a rank": (lambda g: g.G(g.m + COMM.rank), "expected the same values on each"),
    "a control: longer on a rank": (lambda g: g.G(np.ones(g.G.size_in + COMM.rank)), "expected shape"),
    "a control: NaN on a rank": (lambda g: g.G(np.where(COMM.rank, np.nan, g.m)), "NaN"),
    "a map: closed": (lambda g: g.closed(g.m), "this map has been closed; make a new one for more solves"),
    "linearize: two": (lambda g: g.G.linearize(np.array([g.m, g.m])), "linearize: expected one control of shape (16,)"),
    "jvp: too short": (lambda g: g.lin.jvp(np.ones(2)), "direction: expected shape (..., 16), got"),
    "vjp: too long": (lambda g: g.lin.vjp(np.ones(g.G.size_out + 1)), "expected shape"),
    "vjp: NaN": (lambda g: g.lin.vjp(np.full(g.G.size_out, np.inf)), "NaN or infinite"),
    "hvp: one missing": (lambda g: g.lin.hvp(g.y, np.ones(3)), "expected shape"),
    "hvp: text": (lambda g: g.lin.hvp("dy", g.m), "observation: expected an array of real numbers"),
    "hvp: axes": (
        lambda g: g.lin.hvp(np.ones((2, g.G.size_out)), np.ones((3, g.G.size_in))),
        "hvp: leading axes of (2, 16) and (3, 16) do not fit together",
    ),
    "control values: none": (
        lambda g: control_values(g.G),
        "control_values: expected 1 or 1 functions, one per control",
    ),
    "control values: text": (
        lambda g: control_values(g.G, "x"),
        "expected a finite number, a function of x, a UFL expression,",
    ),
    "control values: of no map": (
        lambda g: control_values("G", 1.0),
        "control_values: G: expected a map, such as relax.ReducedMap",
    ),
    "control values: NaN": (
        lambda g: control_values(g.G, np.nan),
        "expected a finite number, a function of x, a UFL expression,",
    ),
    "control values: another mesh": (
        lambda g: control_values(g.G, 2.0 * g.elsewhere),
        "expected an expression on the same mesh as the space",
    ),
    "check_map: of no map": (lambda g: check_map(g.problem), "check_map: G: expected a map, such as relax.ReducedMap"),
    "check_map: a seed": (
        lambda g: check_map(g.G, seed=-1),
        "check_map: seed: expected a whole number of at least 0, got",
    ),
    "check_map: a control": (lambda g: check_map(g.G, np.ones(2)), "expected shape"),
    "a trajectory: of a stationary map": (
        lambda g: list(g.G.trajectory(g.m)),
        "trajectory: expected an Evolution and one control of shape (",
    ),
    "a trajectory: a control": (lambda g: list(g.H.trajectory(np.ones(2))), "expected shape"),
    # observables
    "Stack: a number": (lambda g: Stack([FieldValues(g.V), 3]), "Stack: observables[1]: expected a relax.Observable"),
    "Stack: empty": (lambda g: Stack([]), "Stack: expected at least one observable"),
    "Stack: bare": (lambda g: Stack(FieldValues(g.V)), "Stack: observables: expected a list of observables"),
    "points: a gradient": (lambda g: PointValues(ufl.grad(g.u), np.zeros((1, 2))), "V: expected the function"),
    "points: outside": (lambda g: PointValues(g.V, [[0.5, 0.5], [7.0, 0.5]]), "1 of 2 points lie outside the mesh: 1:"),
    "points: one, bare": (
        lambda g: PointValues(g.V, [0.5, 0.5]),
        "points: expected shape (num_points, 2) with num_points > 0,",
    ),
    "points: NaN": (lambda g: PointValues(g.V, [[np.nan, 0.5]]), "points: expected finite coordinates"),
    "points: none": (
        lambda g: PointValues(g.V, np.zeros((0, 2))),
        "points: expected shape (num_points, 2) with num_points > 0",
    ),
    "points: text": (lambda g: PointValues(g.V, "x"), "points: expected coordinates, an array of shape (num_points,"),
    "points: a count": (lambda g: PointValues(g.V, 7), "points: expected shape (num_points, 2) with num_points > 0"),
    "field values: a state": (lambda g: FieldValues(g.problem.state), "V: expected the function space"),
    "a functional: no dx": (lambda g: Functional(g.u), "Functional: expected a UFL form without test or trial functi"),
    "a functional: a test function": (
        lambda g: Functional(g.v * ufl.dx),
        "Functional: expected a UFL form without test or trial functi",
    ),
    "a functional: a number": (
        lambda g: Functional(3.0),
        "Functional: expected a UFL form without test or trial functi",
    ),
    "a functional: of another state": (
        lambda g: ReducedMap(g.problem, Functional(g.other * ufl.dx)),
        "Functional: the state 'u' does not stand in the form",
    ),
    "steps: beyond": (
        lambda g: ReducedMap(g.march, AtSteps(FieldValues(g.march.state.function_space), [9])),
        "AtSteps: expected steps from 0 to 2",
    ),
    "steps: a half": (
        lambda g: AtSteps(FieldValues(g.V), [0.5]),
        "AtSteps: expected a step number or a sequence of them",
    ),
    "steps: none": (lambda g: AtSteps(FieldValues(g.V), []), "AtSteps: expected a step number or a sequence of them"),
    "steps: text": (
        lambda g: AtSteps(FieldValues(g.V), "all"),
        "AtSteps: expected a step number or a sequence of them",
    ),
    "steps: of a number": (lambda g: AtSteps(3, [1]), "AtSteps: observable: expected a relax.Observable"),
    "an integral in time: text": (
        lambda g: TimeIntegral(Functional(g.u * ufl.dx), "x"),
        "TimeIntegral: expected a finite step length above 0, got 'x'",
    ),
    "an integral in time: NaN": (
        lambda g: TimeIntegral(Functional(g.u * ufl.dx), np.nan),
        "TimeIntegral: expected a finite step length above 0",
    ),
    "an integral in time: of a form": (
        lambda g: TimeIntegral(g.u * ufl.dx, 0.1),
        "TimeIntegral: observable: expected a relax.Observable",
    ),
    # priors
    "a prior: None": (lambda g: invert(g, prior=None), "prior: expected a prior, such as"),
    "a prior: a number": (lambda g: invert(g, method=lbfgs, prior=3.0), "prior: expected a prior, such as"),
    "a prior: its class": (lambda g: invert(g, prior=IdentityPrior), "prior: expected a prior"),
    "a prior: too short": (
        lambda g: invert(g, prior=IdentityPrior(3, std=1.0)),
        "prior: expected one for 16 values in layout='replicated', as",
    ),
    "a block: numbers": (lambda g: BlockPrior([g.prior, 2.0]), "priors[1]: expected a prior, such as"),
    "a block: empty": (lambda g: BlockPrior([]), "priors: expected at least one, all of the same layout"),
    "a block: bare": (lambda g: BlockPrior(g.prior), "priors: expected a list of priors"),
    "std: 0": (lambda g: IdentityPrior(g.G, std=0.0), "std: expected a finite number above 0, got 0.0"),
    "std: NaN": (lambda g: smooth(g, std=np.nan), "std: expected a finite number above 0, got nan"),
    "mean: too long": (lambda g: IdentityPrior(3, std=1.0, mean=np.ones(4)), "mean: expected shape (..., 3), got"),
    "mean: NaN": (lambda g: smooth(g, mean=np.nan), "expected a finite number, a function of x, a UFL expression,"),
    "mean: text": (
        lambda g: IdentityPrior(3, std=1.0, mean="x"),
        "mean: expected an array of real numbers, got ndarray (could",
    ),
    "controls: -1": (lambda g: IdentityPrior(-1, std=1.0), "controls: expected a whole number of at least 0"),
    "controls: text": (
        lambda g: IdentityPrior("G", std=1.0),
        "controls: expected a map, such as relax.ReducedMap, or a num",
    ),
    "a length: negative": (lambda g: smooth(g, length=-1.0), "length: expected a finite number above 0, got -1.0"),
    "a boundary: a word": (
        lambda g: smooth(g, boundary="periodic"),
        "boundary: expected 'robin' or 'neumann', got 'periodic'",
    ),
    "a space: None": (lambda g: smooth(g, V=None), "V: expected the function space of a control"),
    "a space: a mesh": (lambda g: smooth(g, V=g.mesh), "V: expected the function space of a control"),
    "a prior's layout": (lambda g: smooth(g, layout="x"), "layout: expected 'replicated' or 'owned', got 'x'"),
    "a prior: another layout": (
        lambda g: invert(g, prior=smooth(g, layout="owned")),
        "prior: expected one for 16 values in layout='replicated', as",
    ),
    # inversions
    "maps: two": (lambda g: invert(g, G=[g.G, g.G]), "G: expected a map, such as"),
    "a map: a problem": (lambda g: invert(g, G=g.problem), "G: expected a map, such as"),
    "data: too short": (lambda g: invert(g, np.zeros(2)), "data: expected shape (..., 16), got"),
    "data: NaN": (
        lambda g: invert(g, np.full(g.G.size_out, np.nan)),
        "data: 16 of 16 entries are NaN or infinite; expected finite",
    ),
    "data: two": (lambda g: invert(g, np.zeros((2, g.G.size_out))), "data: expected shape (16,)"),
    "data: None": (lambda g: invert(g, None), "data: expected shape (..., 16), got (); `control_values`"),
    "m0: too long": (lambda g: invert(g, g.y, np.ones(99)), "m0: expected shape (..., 16), got"),
    "m0: NaN": (
        lambda g: invert(g, g.y, np.full(g.G.size_in, np.nan)),
        "m0: 16 of 16 entries are NaN or infinite; expected finite",
    ),
    "noise: 0": (lambda g: invert(g, noise=0.0), "noise: expected positive standard deviations, got 0; it"),
    "noise: negative": (
        lambda g: invert(g, method=lbfgs, noise=-1.0),
        "noise: expected positive standard deviations, got -1; it",
    ),
    "noise: too short": (lambda g: invert(g, noise=np.ones(2)), "noise: expected shape (..., 16), got"),
    "noise: one zero": (
        lambda g: invert(g, noise=np.where(np.arange(g.G.size_out) == 1, 0.0, 1.0)),
        "noise: expected positive standard deviations, got 0; it",
    ),
    "noise: text": (lambda g: invert(g, noise="small"), "noise: expected an array of real numbers, got ndarray (could"),
    "noise: tiny": (lambda g: invert(g, noise=1e-300), "noise: expected standard deviations above 1"),
    "rtol: 2": (lambda g: invert(g, rtol=2.0), "rtol: expected a number in [0, 1)"),
    "atol: NaN": (lambda g: invert(g, atol=np.nan), "atol: expected a finite number of at least 0, got nan"),
    "steps: a fraction": (lambda g: invert(g, method=lbfgs, max_steps=1.5), "max_steps: expected"),
    "steps: negative": (lambda g: invert(g, max_steps=-1), "max_steps: expected"),
    "max_cg: 0": (lambda g: invert(g, max_cg=0), "max_cg: expected a whole number of at least 1, got 0"),
    "memory: -1": (
        lambda g: invert(g, method=lbfgs, memory=-1),
        "memory: expected a whole number of at least 0, got -1",
    ),
    "a Hessian: a word": (
        lambda g: invert(g, hessian="full"),
        "hessian: expected 'gauss_newton' or 'newton', got 'full'",
    ),
    "a Jacobian: a word": (
        lambda g: invert(g, jacobian="dense"),
        "jacobian: expected 'auto', 'matrix' or 'products', got",
    ),
    "a callback: a word": (
        lambda g: invert(g, callback="print"),
        "callback: expected a function of a history entry and a",
    ),
    "a checkpoint: a path": (
        lambda g: invert(g, checkpoint="file"),
        "checkpoint: expected a relax.Checkpoint, got 'file'",
    ),
    # checkpoints and teams
    "every: a word": (
        lambda g: Checkpoint(g.folder / "c", every="often"),
        'every: expected a time, as "30s", "10min", "2h", "1d" or a',
    ),
    "every: negative": (
        lambda g: Checkpoint(g.folder / "c", every=-1.0),
        'every: expected a time, as "30s", "10min", "2h", "1d" or a',
    ),
    "a checkpoint: no folder": (
        lambda g: Checkpoint("/nowhere/c", x=object()),
        "x: expected an object with state_dict and load_state_dict, a",
    ),
    "a checkpoint: no state": (
        lambda g: Checkpoint(g.folder / "c", x=object()),
        "x: expected an object with state_dict and load_state_dict, a",
    ),
    "a checkpoint: a step": (
        lambda g: Checkpoint(g.folder / "c").save(-1, now=True),
        "step: expected a whole number of at least 0, got -1",
    ),
    "a checkpoint: text": (
        lambda g: Checkpoint(g.file("noise", "x" * 200)).restore(),
        "/noise: expected a folder of checkpoints, and this is",
    ),
    "a checkpoint: a number": (lambda g: Checkpoint(3), "path: expected the path of a folder"),
    "teams: no ranks": (lambda g: Teams(COMM, 0), "ranks_per_solve"),
    "teams: too many": (lambda g: Teams(COMM, 99), "ranks_per_solve"),
    "teams: a half": (lambda g: Teams(COMM, 0.5), "ranks_per_solve"),
    "teams: no communicator": (lambda g: Teams(None, 1), "comm: expected a communicator, such as MPI.COMM_WORLD"),
}
