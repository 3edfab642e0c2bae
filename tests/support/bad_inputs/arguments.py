"""Commands, options and arguments."""

from __future__ import annotations

from jobs import SMALL_JOB
from relaxation_jobs import LANDSCAPE_JOB

from bad_inputs.command_line import line

MISTAKES = {
    "a command: misspelt": line("No such command", "rum"),
    "run: without a job": line("Missing argument", "run"),
    "run: an option": line(
        "No such option: --overwite Did you mean --overwrite?", "run", "job.toml", "--overwite", job__toml=SMALL_JOB
    ),
    "run: overwrite and resume": line(
        "expected one of them", "run", "job.toml", "--overwrite", "--resume", job__toml=SMALL_JOB
    ),
    "run: a time limit": line("--time-limit", "run", "job.toml", "--time-limit", "soon", job__toml=SMALL_JOB),
    "run: resume nothing": line(
        "out: nothing to resume: there is no such folder",
        "run",
        "job.toml",
        "--output",
        "out",
        "--resume",
        job__toml=SMALL_JOB,
    ),
    "run: resume a landscape": line(
        "nothing to resume", "run", "job.toml", "--output", "out", "--resume", job__toml=LANDSCAPE_JOB
    ),
    "run: into a file": line(
        "job.toml: expected a folder for the results, and this is a",
        "run",
        "job.toml",
        "--output",
        "job.toml",
        job__toml=SMALL_JOB,
    ),
    "run: into the job's folder": line(
        ".: holds job.toml, which this job reads; choose another wi",
        "run",
        "job.toml",
        "--output",
        ".",
        job__toml=SMALL_JOB,
    ),
    "run: into 300 letters": line(
        "than MPI can write to; take another with --output",
        "run",
        "job.toml",
        "--output",
        "a" * 300,
        job__toml=SMALL_JOB,
    ),
    "run: into 6000 letters": line(
        "than MPI can write to; take another with --output",
        "run",
        "job.toml",
        "--output",
        "a" * 6000,
        job__toml=SMALL_JOB,
    ),
    "run: into a path of 2400": line(
        "than MPI can write to; take another with --output",
        "run",
        "job.toml",
        "--output",
        "/".join(["a" * 200] * 12),
        job__toml=SMALL_JOB,
    ),
    "run: into a path of 6000": line(
        "than MPI can write to; take another with --output",
        "run",
        "job.toml",
        "--output",
        "/".join(["a" * 200] * 30),
        job__toml=SMALL_JOB,
    ),
    "run: into /proc": line(
        "/proc/relax: cannot write there (No such file or directory",
        "run",
        "job.toml",
        "--output",
        "/proc/relax",
        job__toml=SMALL_JOB,
    ),
    "run: into nothing": line(
        ".: holds job.toml, which this job reads; choose another wi",
        "run",
        "job.toml",
        "--output",
        "",
        job__toml=SMALL_JOB,
    ),
    "check: without a function": line("Missing argument", "check"),
    "check: unknown": line("unknown equation 'poisson.defusion'", "check", "poisson.defusion"),
    "check: no module": line("there is no module", "check", "nobody:knows"),
    "check: n": line("Invalid value for '--n': 0 is not in the range x>=1.", "check", "poisson.diffusion", "--n", "0"),
    "check: a seed": line(
        "Invalid value for '--seed': -1 is not in the range x>=0.", "check", "poisson.diffusion", "--seed", "-1"
    ),
    "check: a mesh": line("there is no such file", "check", "poisson.diffusion", "--mesh", "nowhere.msh"),
    "check: keywords": line("burgers.evolution needs viscosity as a keyword besides a m", "check", "burgers.evolution"),
    "check: a wrong derivative": line(
        "nothing:at.all: there is no module 'nothing'; looked in /t", "check", "nothing:at.all"
    ),
}
