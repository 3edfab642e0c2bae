"""Command lines with a mistake in them, and shorthands that write their job files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from jobs import SMALL_JOB, changed
from mpi4py import MPI


class CommandLine(NamedTuple):
    """A command line that must end in words.

    Attributes:
        words: what must be said, once.
        files: that are there, by name.
        arguments: of ``relax``, in the folder of the files.
        status: that it must end with.
    """

    words: str
    files: dict[str, str | bytes]
    arguments: tuple[str, ...] = ("run", "job.toml", "--output", "out")
    status: int = 2

    def lay_out(self, folder: Path) -> None:
        """Put the files into a folder, on rank 0. Collective."""
        if MPI.COMM_WORLD.rank == 0:
            for name, content in self.files.items():
                (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        MPI.COMM_WORLD.Barrier()


def job(words, *substitutions, of=SMALL_JOB, **files):
    """A job with some of its text replaced, and files beside it: dots in their names are two underscores."""
    beside = {name.replace("__", "."): content for name, content in files.items()}
    return CommandLine(words, {"job.toml": changed(*substitutions, of=of), **beside})


def text(words, content):
    """A job file of this content."""
    return CommandLine(words, {"job.toml": content})


def line(words, *arguments, status=2, **files):
    """A command line, and files."""
    return CommandLine(words, {name.replace("__", "."): content for name, content in files.items()}, arguments, status)


def key(table, entry, words, of=SMALL_JOB):
    """A job with one more key in a table."""
    return job(words, (f"[{table}]\n", f"[{table}]\n{entry}\n"), of=of)


MEASURED = (
    ("points = 12\nseed = 1", 'points = "sensors.csv"'),
    ('truth = "inclusions"\nnoise = 0.02\nseed = 2', 'file = "sensors.csv"\nnoise = 0.1'),
)


def sensors(words, content):
    """A job with measured data of this content."""
    return job(words, *MEASURED, sensors__csv=content)


_modules = iter(range(1000))


def module(words, content):
    """A job with an equation of the user's own, in a module of a name of its own: Python keeps what it has imported."""
    name = f"module_of_a_mistake_{next(_modules)}"
    return job(words, ('"poisson.diffusion"\nsource = 10.0', f'"{name}:made"'), **{f"{name}__py": content})
