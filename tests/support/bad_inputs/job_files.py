"""Job files, table by table and key by key, and the files that they name."""

from __future__ import annotations

from jobs import CONTROL_JOB, HEAT_JOB, SMALL_JOB
from relaxation_jobs import LANDSCAPE_JOB, MISFIT_JOB

from bad_inputs.command_line import MEASURED, job, key, line, module, sensors, text

_SPLIT = """
import relax, ufl
from dolfinx import fem

def made(mesh, source=1.0):
    V = fem.functionspace(mesh, ("Lagrange", 1))
    a, b, old, v = fem.Function(V), fem.Function(V), fem.Function(V), ufl.TestFunction(V)
    first = relax.Problem(residual=(a - old) * v * ufl.dx, state=a)
    second = relax.Problem(residual=(b - a) * v * ufl.dx, state=b)
    return relax.Evolution(step=[first, second], previous=[None, old], initial=[None, 1.0], num_steps=1)
"""

MISTAKES = {
    # the file
    "a job: missing": line("there is no such job file", "run", "job.toml"),
    "a job: a folder": line(".: expected a readable TOML file: [Errno 21] Is a director", "run", "."),
    "a job: empty": text("the table that says what the job is about is missing: [dat", ""),
    "a job: no TOML": text("this is not TOML", "[mesh"),
    "a job: bytes": text("job.toml: expected a readable TOML file: 'utf-8' codec can", b"\xff\xfe\x00"),
    "a job: a PNG": text("job.toml: expected a readable TOML file: 'utf-8' codec can", b"\x89PNG\r\n\x1a\n\0\0"),
    "a job: nested": text("a few levels deep", "a = " + "[" * 5000 + "]" * 5000),
    "a job: a key twice": key("mesh", "n = 8", "this is not TOML"),
    "a job: a table twice": text("this is not TOML", SMALL_JOB + "[mesh]\n"),
    "a job: an unknown table": text(
        "[colour]: unknown table; did you mean 'solver'? (there is:", SMALL_JOB + "[colour]\nx = 1\n"
    ),
    "a job: two kinds": text(
        "[data], [target]: expected one of them: [data] makes an in", SMALL_JOB + "[target]\nstate = 1\n"
    ),
    "a job: without a mesh": job("[mesh]: this table is missing", ('[mesh]\ngenerator = "unit_square"\nn = 8\n', "")),
    "a job: a table that is a number": job(
        "[mesh]: expected a table", ('[mesh]\ngenerator = "unit_square"\nn = 8\n', "mesh = 3\n")
    ),
    "a job: a list of tables": job("[mesh]: expected a table", ("[mesh]", "[[mesh]]")),
    "a job: a long name": line("there is no such job file; looked in", "run", "a" * 2400 + ".toml"),
    # [mesh]
    "mesh: a generator": job(
        "[mesh] generator: unknown name 'unit_circle'; did you mean", ("unit_square", "unit_circle")
    ),
    "mesh: n = 0": job("[mesh] n: expected a number >= 1", ("n = 8", "n = 0")),
    "mesh: n = 3e9": job("rectangle: expected at most 1e+12 parts in all", ("n = 8", "n = 3000000000")),
    "mesh: n = 10^20": job("rectangle: expected at most 1e+12 parts in all", ("n = 8", f"n = {10**20}")),
    "mesh: n is text": job("[mesh] n: expected a number or a list of numbers", ("n = 8", 'n = "8"')),
    "mesh: n is a fraction": job("[mesh] n: expected a whole number", ("n = 8", "n = 8.5")),
    "mesh: n is true": job("[mesh] n: expected a number or a list of numbers", ("n = 8", "n = true")),
    "mesh: two numbers": job("[mesh]: n: generator = 'unit_square' takes 1 number(s)", ("n = 8", "n = [8, 8]")),
    "mesh: a key too many": key("mesh", "h = 0.1", "[mesh]: generator = 'unit_square' takes n"),
    "mesh: file and generator": key("mesh", 'file = "a.msh"', "expected one mesh"),
    "mesh: no such file": job(
        "nowhere.msh; paths start from the project",
        ('generator = "unit_square"\nn = 8', 'file = "nowhere.msh"'),
    ),
    "mesh: a file's name too long": job(
        "[mesh] file: there is no", ('generator = "unit_square"\nn = 8', f'file = "{"a" * 2400}.msh"')
    ),
    "mesh: NUL in the name": job(
        "[mesh] file: expected text without NUL characters, which n",
        ('generator = "unit_square"\nn = 8', 'file = "a\\u0000.msh"'),
    ),
    "mesh: a file of noise": job("$MeshFormat", ('generator = "unit_square"\nn = 8', 'file = "a.msh"'), a__msh="x"),
    "mesh: a geometry that runs": job(
        "--trust-mesh", ('generator = "unit_square"\nn = 8', 'file = "a.geo"'), a__geo='SystemCall "ls";'
    ),
    "mesh: upside down": job(
        "rectangle: expected each lower coordinate below the upper",
        ('"unit_square"\nn = 8', '"rectangle"\nn = [2, 2]\nlower = [1.0, 1.0]\nupper = [0.0, 0.0]'),
    ),
    "mesh: far away": job(
        "rectangle: expected each lower coordinate below the upper",
        ('"unit_square"\nn = 8', '"rectangle"\nn = [2, 2]\nlower = [0.0, 0.0]\nupper = [1e200, 1.0]'),
    ),
    # [pde]
    "pde: misspelt": job("did you mean", ("poisson.diffusion", "poisson.difusion")),
    "pde: a key": key("pde", "sauce = 1.0", "[pde] sauce: poisson.diffusion has no such keyword; did yo"),
    "pde: a word for a number": job(
        "[pde] source: expected a number, a list of numbers, or a t", ("source = 10.0", 'source = "ten"')
    ),
    "pde: NaN": job("[pde] source: expected a number, a word, a list of them, o", ("source = 10.0", "source = nan")),
    "pde: the mesh": key("pde", "mesh = 3", "`mesh` is not a keyword"),
    "pde: degree = 0": key("pde", "degree = 0", "degree"),
    "pde: degree = 50": key("pde", "degree = 50", "degree"),
    "pde: a tag": key("pde", "dirichlet = {left = 0.0, nowhere = 1.0}", "nowhere"),
    "pde: a number for a tag": key("pde", "dirichlet = {99999999999999 = 0.0}", "no facet tag 99999999999999"),
    "pde: no boundary": key("pde", "dirichlet = {}", "[pde]: poisson: expected a clamped part"),
    "pde: no module": job("there is no module 'nobody'", ("poisson.diffusion", "nobody:knows")),
    "pde: a module that fails": module("importing", "1 / 0\n"),
    "pde: a module that leaves": module("SystemExit: 0", "import sys\nsys.exit(0)\n"),
    "pde: a module without it": module("has no function 'made'", "def other(mesh): ...\n"),
    "pde: a function of nothing": module("takes no mesh", "def made(): ...\n"),
    "pde: a function that returns text": module("returned a str", "def made(mesh, source=1): return 'x'\n"),
    "pde: no syntax": module(":made: importing module_of_a_mistake_", "def made(:\n"),
    "pde: several states": module("returned an evolution of 2 states", _SPLIT),
    "pde: in time": job(
        "[pde]: heat.evolution needs dt, num_steps as well (it take",
        ('"poisson.diffusion"\nsource = 10.0', '"heat.evolution"'),
    ),
    "pde: dt": job("[pde]: dt: expected a finite length above 0", ("dt = 0.01", "dt = -0.01"), of=HEAT_JOB),
    "pde: theta": key("pde", "theta = 3.0", "theta", of=HEAT_JOB),
    "pde: num_steps": job(
        "[pde]: num_steps: expected a whole number of at least 1", ("num_steps = 4", "num_steps = 0"), of=HEAT_JOB
    ),
    # [observe] and [data]
    "observe: 2e9 points": job("[observe] points: expected a number <= 1e+07", ("points = 12", "points = 2000000000")),
    "observe: no points": job("[observe] points: expected a number >= 1", ("points = 12", "points = 0")),
    "observe: text": job("nowhere.csv: there is no such CSV file", ("points = 12", 'points = "nowhere.csv"')),
    "observe: a seed": job("[observe] seed: expected a number >= 0", ("seed = 1", "seed = -1")),
    "observe: steps of a stationary equation": key(
        "observe", "steps = [1]", "[observe] steps: poisson.diffusion is no equation in time;"
    ),
    "observe: steps beyond": job(
        "[observe] steps: expected steps from 0 to 4, or from the e", ("steps = [2, 4]", "steps = [2, 9]"), of=HEAT_JOB
    ),
    "observe: steps twice": job(
        "[observe] steps: step 2 is there twice; expected each step", ("steps = [2, 4]", "steps = [2, 2]"), of=HEAT_JOB
    ),
    "observe: no steps": job(
        "[observe] steps: expected the number of a step, a list of", ("steps = [2, 4]", "steps = []"), of=HEAT_JOB
    ),
    "data: a truth": job("[data] truth: expected one of inclusions, smooth, layers,", ('"inclusions"', '"elephants"')),
    "data: noise 0": job("[data] noise: expected a number >= 1e-12", ("noise = 0.02", "noise = 0.0")),
    "data: noise 1e-300": job("[data] noise", ("noise = 0.02", "noise = 1e-300")),
    "data: no noise": job("[data]: synthetic data need `noise`, a fraction of the lar", ("noise = 0.02\n", "")),
    "data: truth and file": key("data", 'file = "x.csv"', "expected one source of data"),
    "data: no such file": job("sensors.csv: there is no such CSV file", *MEASURED),
    "data: an empty file": sensors("sensors.csv: expected at least one row of num", ""),
    "data: a header alone": sensors("sensors.csv: expected at least one row of num", "x,y,value\n"),
    "data: text in a cell": sensors("sensors.csv, line 2, value: expected a finite", "x,y,value\n0.5,0.5,high\n"),
    "data: NaN in a cell": sensors("sensors.csv, line 2, value: expected a finite", "x,y,value\n0.5,0.5,nan\n"),
    "data: a cell missing": sensors("sensors.csv, line 2: expected 3 entries (x, y", "x,y,value\n0.5,0.5\n"),
    "data: a cell too many": sensors("sensors.csv, line 2: expected 3 entries (x, y", "x,y,value\n0.5,0.5,1.0,2.0\n"),
    "data: no values": sensors("sensors.csv needs the column(s) value", "x,y\n0.5,0.5\n"),
    "data: no y": sensors("sensors.csv: expected the columns x, y for a mesh in 2 dim", "x,value\n0.5,1.0\n"),
    "data: z in the plane": sensors(
        "sensors.csv: expected the columns x, y for a mesh in 2 dim", "x,y,z,value\n0.5,0.5,0.5,1.0\n"
    ),
    "data: a column twice": sensors(
        "sensors.csv: two columns have the same name:", "x,y,value,value\n0.5,0.5,1.0,1.0\n"
    ),
    "data: outside the mesh": sensors(
        "[observe] points: 1 of 1 points lie outside the mesh: 0: (", "x,y,value\n5.0,0.5,1.0\n"
    ),
    "data: sigma 0": sensors("sensors.csv has a column sigma already; remo", "x,y,value,sigma\n0.5,0.5,1.0,0.0\n"),
    "data: decimal commas": sensors("sensors.csv, line 2: expected 3 entries (x, y", "x,y,value\n0,5,0,5,1,0\n"),
    "data: a PNG": sensors("sensors.csv: expected a readable CSV file: 'u", b"\x89PNG\r\n\x1a\n\0\0"),
    "data: a folder": job("sensors.csv: there is no such CSV file", (MEASURED[0][0], 'points = "."'), MEASURED[1]),
    # [prior], [method], [solver], [output]
    "prior: missing": job("[prior]: this table is missing", ("[prior]\nlength = 0.5\nstd = 0.5\n", "")),
    "prior: length": job("[prior] length: expected a number > 0", ("length = 0.5", "length = -0.5")),
    "prior: no length": job("[prior] length: this key is missing: the correlation lengt", ("length = 0.5\n", "")),
    "prior: infinite": job("[prior] std: expected a finite number", ("std = 0.5", "std = inf")),
    "prior: a word": job("[prior] std: expected a number", ("std = 0.5", 'std = "wide"')),
    "method: misspelt": job("did you mean", ("gauss_newton", "gaus_newton")),
    "method: max_steps": key("method", "max_steps = 0", "max_steps"),
    "method: rtol": key("method", "rtol = 2.0", "rtol"),
    "method: a key": key("method", "colour = 3", "colour"),
    "solver: a preset": text(
        "[solver] options: unknown name 'fast' (there is: direct, d", SMALL_JOB + '[solver]\noptions = "fast"\n'
    ),
    "solver: a layout": text("layout", SMALL_JOB + '[solver]\nlayout = "spread"\n'),
    "solver: storage of a stationary equation": text(
        "[solver] storage: poisson_diffusion is no equation in time",
        SMALL_JOB + '[solver]\nstorage = {schedule = "disk"}\n',
    ),
    "solver: a schedule": text(
        "[solver] storage.schedule: unknown name 'tape' (there is:",
        HEAT_JOB + '[solver]\nstorage = {schedule = "tape"}\n',
    ),
    "solver: slots": text(
        "[solver] storage: schedule = 'revolve' takes slots", HEAT_JOB + '[solver]\nstorage = {schedule = "revolve"}\n'
    ),
    "output: missing": job("[output]: this table is missing", ('[output]\nfolder = "results/small"\n', "")),
    "output: a number": job("[output] folder: expected a string", ('folder = "results/small"', "folder = 3")),
    "output: empty": job(
        "[output] folder: expected a string that is not empty", ('folder = "results/small"', 'folder = ""')
    ),
    "output: frames": job("[output] frames: expected a number >= 1", ("frames = 3", "frames = 0"), of=HEAT_JOB),
    # the other kinds
    "target: none": job(
        "[target]: expected one target, either `state` or `populati", ("populations = [0, 1, 0]", ""), of=CONTROL_JOB
    ),
    "target: two": key("target", "state = 2", "expected one target", of=CONTROL_JOB),
    "target: more than 1": job("add up to 1", ("[0, 1, 0]", "[0, 1, 1]"), of=CONTROL_JOB),
    "target: a state too high": job(
        "[target]: the eigenstates: k: expected at most 15, the deg",
        ("populations = [0, 1, 0]", "state = 1000"),
        of=CONTROL_JOB,
    ),
    "target: tolerance": key("target", "tolerance = 0.0", "tolerance", of=CONTROL_JOB),
    "start: a shape": job(
        "[start] shape: unknown name 'saw' (there is: random, const", ('"sine"', '"saw"'), of=CONTROL_JOB
    ),
    "control: observed": text("remove this table", CONTROL_JOB + "[observe]\npoints = 3\n"),
    "control: a length": key("prior", "length = 1.0", "remove this key", of=CONTROL_JOB),
    "control: of Poisson": job(
        "[target]: poisson.diffusion is no equation in time; expect",
        ('"schrodinger.dipole"\nnum_steps = 50\ndt = 0.2', '"poisson.diffusion"'),
        of=CONTROL_JOB,
    ),
    "landscape: unknown": job(
        "[landscape] function: unknown landscape 'smooth' (there is", ('"rugged"', '"smooth"'), of=LANDSCAPE_JOB
    ),
    "landscape: beta": job("beta", ("beta = 2.0", "beta = -2.0"), of=LANDSCAPE_JOB),
    "landscape: a route": job("route", ('"cole_hopf"', '"scenic"'), of=LANDSCAPE_JOB),
    "landscape: starts": job(
        "[descent] starts: expected a number >= 1", ("starts = 6", "starts = 0"), of=LANDSCAPE_JOB
    ),
    "landscape: starts outside": job(
        "[descent] starts: expected points inside the mesh", ("starts = 6", "starts = [[9.0]]"), of=LANDSCAPE_JOB
    ),
    "landscape: times": job(
        "[descent] times: expected a number > 0", ("times = [0.05, 0.1,", "times = [-0.05, 0.1,"), of=LANDSCAPE_JOB
    ),
    "landscape: a prior": text(
        "[prior]: a landscape job has no use for this table; remove", LANDSCAPE_JOB + "[prior]\nstd = 1.0\n"
    ),
    "landscape: of Poisson": job(
        "[pde] beta: poisson.diffusion has no such keyword (there i",
        ("hamilton_jacobi.viscous_evolution", "poisson.diffusion"),
        of=LANDSCAPE_JOB,
    ),
    "misfit: a box": job("box", ("box = [0.1, 0.9]", "box = [0.9, 0.1]"), of=MISFIT_JOB),
    "misfit: a truth": job(
        "[data] truth: expected 1 number(s), one for each of the bo",
        ("truth = [0.8]", "truth = [0.8, 0.9]"),
        of=MISFIT_JOB,
    ),
    "misfit: num": job("num: expected one number of cells", ("num = 24", "num = 1"), of=MISFIT_JOB),
    "misfit: starts": job(
        "[misfit]: starts: expected points of 1 number(s) in the bo", ("starts = 3", "starts = [[9.0]]"), of=MISFIT_JOB
    ),
    "misfit: ranks": key(
        "misfit", "ranks_per_solve = 64", "[misfit] ranks_per_solve: expected a divisor of the 2 rank", of=MISFIT_JOB
    ),
    "misfit: a layout": text("remove this key", MISFIT_JOB + '[solver]\nlayout = "owned"\n'),
}
