"""The graphs of one step of a closed loop: their products for several cotangents, and steps that are done again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from relax.base.types import Array


@dataclass
class Recorded:
    """One step as two small graphs: ``seen``, ``held`` to ``c``, ``carried``; ``before``, ``given`` to ``after``."""

    seen: Tensor
    held: tuple[Tensor, ...]
    c: Tensor
    carried: tuple[Tensor, ...]
    before: Tensor
    given: Tensor
    after: Tensor


class SweptOnce(Exception):
    """A graph that is gone after one sweep: that of a compiled controller."""


class Products:
    """The adjoint products of the graph of each step, or of the controller in it, for several cotangents."""

    def __init__(self) -> None:
        # Found out at the first step, and the same at all.
        self._takes_blocks: bool | None = None

    def swept(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], seeds: Sequence[tuple[Tensor, ...]]
    ) -> list[tuple[Tensor, ...]]:
        """For each cotangent of the outputs those of the inputs: one block solve where the graph has a solve of relax.

        Raises:
            SweptOnce: where the graph serves one cotangent alone.
        """
        if self._takes_blocks is None:
            self._takes_blocks = any(solves(output) for output in outputs)
        if len(seeds) > 1 and self._takes_blocks:
            columns = tuple(torch.stack(column) for column in zip(*seeds, strict=True))
            try:
                together = torch.func.vmap(lambda *c: swept(outputs, inputs, c, retain=True))(*columns)
                return list(zip(*together, strict=True))
            except (RuntimeError, NotImplementedError):
                # A node without a rule for vmap: each flow by itself, which raises again what is an error.
                self._takes_blocks = False
        try:
            return [swept(outputs, inputs, c, retain=i + 1 < len(seeds)) for i, c in enumerate(seeds)]
        except RuntimeError as error:
            if "donated" in str(error):
                raise SweptOnce from error
            raise


def swept(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor], *, retain: bool
) -> tuple[Tensor, ...]:
    """One sweep; zero for what the outputs do not depend on."""
    pairs = [(value, c) for value, c in zip(outputs, cotangents, strict=True) if value.requires_grad]
    if not pairs:
        return tuple(torch.zeros_like(i) for i in inputs)
    values, seeds = zip(*pairs, strict=True)
    return torch.autograd.grad(
        values, tuple(inputs), seeds, retain_graph=retain, allow_unused=True, materialize_grads=True
    )


def solves(value: Tensor) -> bool:
    """Whether the graph behind a tensor has a solve of relax in it."""
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if type(node).__name__ == "SolveBackward":
            return True
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What is drawn within the block depends on the seed alone, and what is drawn after it does not."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def packed(tensors: Sequence[Tensor]) -> Array:
    return np.concatenate([t.double().cpu().numpy().ravel() for t in tensors])


@dataclass(frozen=True)
class TensorKind:
    """What a tensor is, but for its values."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


def kinds(tensors: Sequence[Tensor]) -> tuple[TensorKind, ...]:
    return tuple(TensorKind(t.shape, t.dtype, t.device) for t in tensors)


def unpacked(record: Array, like: Sequence[TensorKind]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The state and the memory in a record."""
    values = torch.from_numpy(record.copy()).split([kind.shape.numel() for kind in like])
    parts = [v.reshape(k.shape).to(device=k.device, dtype=k.dtype) for v, k in zip(values, like, strict=True)]
    return parts[0], tuple(parts[1:])
