"""Running statistics of batch normalisation, estimated anew at the weights that are kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from relax.base import parallel
from relax.errors import BadInput


@torch.no_grad()
def refresh_batch_norm(
    model: torch.nn.Module,
    batches: Iterable[Any],
    *,
    device: torch.device | str | None = None,
    comm: MPI.Comm | None = None,
) -> int:
    """Estimate the running means and variances of ``model`` by a dry pass over ``batches``, with dropout off.

    Collective over ``comm``, when it is given. The inner loops of this package call the model at many points near the
    weights, and its running statistics are averages over all of them. This makes them averages over the batches, each
    weighted by its samples, at the weights themselves. ``torch.optim.swa_utils.update_bn`` does so with dropout on,
    and gives every batch the same weight.

    Only layers of batch normalisation are in training mode during the pass; afterwards every module is in the mode it
    was in. A model without such layers is left alone.

    Args:
        model: the model, with the weights that are kept.
        batches: inputs of shape (samples, ...), or tuples and lists that begin with them, as a ``DataLoader`` gives.
        device: where to move inputs.
        comm: ranks that each bring batches of their own for one model; statistics are of all of them.

    Returns:
        The number of samples seen, by all ranks.

    Raises:
        BadInput: when there are layers to refresh and no sample; on every rank of ``comm``.
    """
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    layers = [m for m in norms if m.running_mean is not None]
    if not layers:
        return 0
    alone = MPI.COMM_SELF if comm is None else comm
    modes = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in layers]
    buffers = [buffer for layer in layers for buffer in layer.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        with parallel.together(alone):
            seen = _dry_pass(model, layers, batches, device)
        total = parallel.total(alone, seen)
        if total == 0:
            raise BadInput("refresh_batch_norm: expected at least one batch with a sample in it, got none")
        _weigh_over_ranks(alone, layers, seen, total)
    except BaseException:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        raise
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return total


def _dry_pass(model: torch.nn.Module, layers: list[Any], batches: Iterable[Any], device: Any) -> int:
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.training = True
    seen = 0
    for batch in batches:
        x = batch[0] if isinstance(batch, tuple | list) else batch
        if len(x) == 0:
            continue
        seen += len(x)
        for layer in layers:
            # With this weight of the newest the running value is the mean over all samples so far.
            layer.momentum = len(x) / seen
        model(x if device is None else x.to(device))
    return seen


def _weigh_over_ranks(comm: MPI.Comm, layers: list[Any], seen: int, total: int) -> None:
    values = [value for layer in layers for value in (layer.running_mean, layer.running_var)]
    flat = np.concatenate([value.to("cpu", torch.float64).numpy() for value in values])
    means = torch.from_numpy(parallel.sum_over_ranks(comm, flat * (seen / total)))
    for value, part in zip(values, means.split([value.numel() for value in values]), strict=True):
        value.copy_(part)
