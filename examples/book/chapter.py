"""What the chapters' scripts share: their command line, words on rank 0, a figure."""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import relax  # noqa: E402
import torch  # noqa: E402
from mpi4py import MPI  # noqa: E402
from relax.base import parallel  # noqa: E402
from relax.jobs.view import style  # noqa: E402

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

COMM = MPI.COMM_WORLD


@dataclass(frozen=True)
class Chapter:
    """A script's command line.

    Attributes:
        quick: a test that everything runs, not an experiment.
        output: the folder for the figure.
        seeds: how many data and initial weights to try.
    """

    quick: bool
    output: Path
    seeds: int

    def draw(self, fill: Callable[..., None], *, size: tuple[float, float], columns: int = 1) -> None:
        """Write a figure named after the script, whose axes ``fill(axis, ...)`` fills on rank 0. Collective.

        Args:
            fill: draws into as many axes as there are columns.
            size: of the figure, inches.
            columns: how many axes, side by side.
        """

        def figure(plt: Any) -> Any:
            made, axes = plt.subplots(1, columns, figsize=size, constrained_layout=True, squeeze=False, sharey=True)
            fill(*axes[0])
            for axis in axes[0]:
                style.bare(axis)
            if axes[0][0].get_legend_handles_labels()[0]:
                axes[0][0].legend(frameon=False)
            return made

        parallel.on_rank_0(COMM, lambda: self.output.mkdir(parents=True, exist_ok=True))
        style.draw(COMM, self.output / f"{Path(sys.argv[0]).stem}.png", figure)


def opened(description: str, *, seeds: int = 1) -> Chapter:
    """Read the command line; PETSc's options come after ``--``."""
    relax.init(sys.argv)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps and one seed: whether it runs")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder for the figure (results)")
    parser.add_argument("--seeds", type=int, default=seeds, help=f"data and initial weights to try ({seeds})")
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    given = parser.parse_args(own)
    return Chapter(given.quick, given.output, 1 if given.quick else given.seeds)


def say(text: str) -> None:
    """Print on rank 0. Local."""
    parallel.rank_0_prints(COMM, text)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown on rank 0. Local."""
    say("\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows]))
