"""One thread per rank for torch, which takes every core for each rank otherwise, whatever BLAS has been told."""

from __future__ import annotations

import os

import torch

from relax.parallel_start import launched_ranks


def one_per_rank() -> None:
    """Under a launcher of several ranks, unless ``OMP_NUM_THREADS`` says otherwise. Local."""
    if launched_ranks() > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(1)
