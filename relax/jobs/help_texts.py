"""What the commands of ``relax`` say of themselves."""

RUN = """Run the job of a file and write its output folder.

A job names a mesh, an equation, where it is observed, the data, a prior, a method and a folder:

\b
    [mesh]
    file = "meshes/plate_with_holes.msh"  # or generator = "unit_square", n = 64
    [pde]
    name = "poisson.diffusion"            # or "my_module:my_function"
    source = 10.0                         # other keys are keywords of that function
    [observe]
    points = 60                           # or a CSV file with the columns x, y
    seed = 1
    [data]
    truth = "inclusions"                  # or file = "data.csv": x, y, value[, sigma]
    noise = 0.01                          # a fraction of the largest observation
    seed = 2
    [prior]
    length = 0.2
    std = 1.0
    [method]
    name = "gauss_newton"                 # max_steps = 50, atol = 1e-3
    [output]
    folder = "results/my_job"             # relative to the current folder

An equation in time is observed at [observe] steps. A job with a [target] instead of [data] drives one number per step
so that the last state is as wanted; mpi_jobs/README.md has all tables.

\b
    [pde]
    name = "schrodinger.dipole"           # other keys are num_steps, dt, initial, potential, degree
    num_steps = 100
    dt = 0.1
    [target]
    populations = [0, 1, 0]               # of the lowest eigenstates, after the last step; or state = 2
    [prior]
    std = 2.0
    [method]
    name = "lbfgs"

A job with a [landscape] relaxes a function of x; one with [data] and [misfit] recovers up to three numbers by relaxing
their misfit over a box. Neither has a [prior].

\b
    [pde]
    name = "hamilton_jacobi.viscous_evolution"
    beta = 2.0                            # t, num_steps, route = "cole_hopf", "direct" or "auto"
    [landscape]
    function = "rugged"                   # or "my_module:my_function" of x
    [descent]
    starts = 40

\b
    [data]
    truth = [0.85, 1.2]
    noise = 0.03
    [misfit]
    box = [[0.7, 1.7], [0.7, 1.7]]        # num = 24, beta = 20.0, starts = 5

Paths of the job start from its project folder: the nearest folder, from the job file's own upwards, with a
pyproject.toml or a .git; else the job file's own. A module of yours is looked for there, beside the job file, and in
the current folder.

\b
    relax run mpi_jobs/poisson_inverse.toml
    mpirun -n 4 relax run mpi_jobs/poisson_inverse.toml --output results/again
    relax run job.toml --overwrite -- -log_view -relax_poisson_diffusion_pc_type gamg
    relax run job.toml --dry-run
    relax run job.toml --set prior.length=0.3 --set pde.dirichlet.left=1.0 --output results/0.3

--set gives a key another value than the file, checked as the file's are: values of TOML, or a bare word for a string.
The output folder's job.toml has them. A Slurm array is swept by --set data.seed=$SLURM_ARRAY_TASK_ID.

SIGUSR1, which mpirun and srun pass on, stops a run after its present step, as --time-limit does; --resume goes on.

Exit status: 0 done, 1 failed, 2 wrong job or command line, 3 not converged (the results are written all the same),
75 stopped, to be resumed.
"""

CHECK = """Check the derivatives of an equation of your own: Taylor orders, adjoint identity, Hessian symmetry.

MODULE:FUNCTION is a function of a mesh, or of nothing, that returns a relax.Problem, a relax.Evolution or a
relax.ReducedMap; or the name of one that relax has, such as poisson.diffusion or heat.evolution.

\b
    relax check my_equations:cubic_reaction
    relax check examples.new_pde:cubic_reaction --n 16
    mpirun -n 2 relax check my_equations:plate --mesh meshes/plate_with_holes.msh

Exit status: 0 all derivatives are right, 1 one is not, 2 wrong command line.
"""

STATUS = """Say how far the run in an output folder is: step, misfit, gradient, time left, who works on it.

It reads, and may be called at any time, from any machine that sees the folder; DOLFINx and MPI are not needed. The time
left is an estimate, from the fall of the gradient in the later half of the steps, and is not said where there is none.

\b
    relax status results/poisson_inverse

Exit status: 0 there is a run, finished or not; 2 there is none.
"""

COMPARE = """Compare two finished runs: the keys in which their jobs differ, and their results side by side.

Versions and ranks are shown where they differ. DOLFINx and MPI are not needed.

\b
    relax compare results/0.3 results/0.5

Exit status: 0, or 2 where one of them is no finished run.
"""
