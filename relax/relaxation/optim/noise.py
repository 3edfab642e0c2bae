"""Standard normal noise for tensors on any device, from generators of its own, fast enough to draw at every step."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relax.base.checks import at_least
from relax.errors import BadInput

# On a CPU core torch draws a normal number in 4 ns, in double precision in 19; the table gives it in 0.7 and 1.1, a
# piece at a time that stays in the cache. A gradient of a network of a million weights and 128 samples takes 8 ns a
# weight, in double precision 15 (benchmarks/optimisers.py): with the table a noisy step takes 1.2 times as long as one
# of SGD, with torch's generator 1.5 times and 2.2 times. Tensors of this size and more use the table.
_LARGE = 1 << 13
_TABLE = 1 << 20
_PIECE = 1 << 17


class Noise:
    """Independent standard normal numbers, one stream per device.

    On a GPU, and for small tensors, they come from torch. A large tensor on a CPU gets |z| from a table of the 2^20
    quantiles of |N(0, 1)|, in a fixed random order, read from a place drawn anew for each piece of 2^17 numbers; and
    signs of fresh random bits. Each entry is a sequence of independent draws of a normal distribution resolved to
    2^-20, with variance exactly 1; entries are uncorrelated; those of one piece share the place in the table.

    Args:
        seed: of the streams; None draws one from torch's global generator, which ``torch.manual_seed`` sets.
        generator: used instead for the tensors of its device.
        exact: take nothing from the table.
    """

    def __init__(self, seed: int | None = None, generator: torch.Generator | None = None, exact: bool = False) -> None:
        if seed is not None and generator is not None:
            raise BadInput("expected a seed or a generator, got both")
        if generator is not None and not isinstance(generator, torch.Generator):
            raise BadInput(
                f"generator: expected a torch.Generator, got {type(generator).__name__}; seed= takes a number"
            )
        if seed is not None:
            at_least(seed, 0, "seed")
        self._given = generator
        self._exact = exact
        self._seed = 0 if generator is not None else fresh_seed() if seed is None else int(seed)
        self._streams: dict[str, torch.Generator] = {}
        if generator is not None:
            self._streams[str(torch.empty(0, device=generator.device).device)] = generator

    def add_(self, tensors: list[Tensor], scale: float) -> None:
        """tensors += scale N(0, I)."""
        for tensor in tensors:
            stream = self._stream(tensor.device)
            if self._exact or tensor.device.type != "cpu" or tensor.numel() < _LARGE:
                tensor.add_(torch.empty_like(tensor).normal_(generator=stream), alpha=scale)
            elif tensor.is_contiguous():
                _add_from_table_(tensor.view(-1), scale, stream)
            else:
                whole = torch.zeros(tensor.numel())
                _add_from_table_(whole, scale, stream)
                tensor.add_(whole.view(tensor.shape))

    def ready(self, devices: Iterable[torch.device]) -> None:
        """Raise ``BadInput`` when there can be no stream on one of the devices."""
        for device in devices:
            self._stream(device)

    def state(self) -> dict[str, Any]:
        """What continues the streams: numbers and byte tensors."""
        return {"seed": self._seed, "streams": {name: g.get_state() for name, g in self._streams.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue the streams of a saved state. A device that it does not know starts a stream from its seed."""
        self._seed = int(state["seed"])
        for name in list(self._streams):
            if name not in state["streams"] and self._streams[name] is not self._given:
                del self._streams[name]
        for name, saved in state["streams"].items():
            device = torch.device(name)
            if device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()):
                # torch.load(map_location=...) moves every tensor; a generator's state is always on the CPU.
                self._stream(device).set_state(saved.cpu())

    def _stream(self, device: torch.device) -> torch.Generator:
        name = str(device)
        if name not in self._streams:
            if self._given is not None:
                raise BadInput(
                    f"generator: expected one on {name}, where parameters are, got one on {self._given.device}; "
                    "seed= makes one for each device"
                )
            stream = torch.Generator(device=device)
            stream.manual_seed(derived_seed(self._seed, device.index or 0))
            self._streams[name] = stream
        return self._streams[name]


def fresh_seed() -> int:
    """A seed drawn from torch's global generator."""
    return int(torch.randint(1 << 62, ()))


def derived_seed(seed: int, index: int) -> int:
    """The seed of a device or a rank: ``seed`` itself for the first, unrelated numbers for the others."""
    if index == 0:
        return seed
    words = np.random.SeedSequence([abs(seed), int(seed < 0), index]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(2))


@functools.cache
def _table() -> Tensor:
    """Twice the quantiles of |N(0, 1)| at the midpoints of 2^20 cells, in random order, the first ones again behind."""
    midpoints = (torch.arange(_TABLE, dtype=torch.float64) + 0.5) / _TABLE
    quantiles = torch.special.ndtri(0.5 + 0.5 * midpoints)
    quantiles /= quantiles.square().mean().sqrt()
    order = torch.randperm(_TABLE, generator=torch.Generator().manual_seed(_TABLE))
    ring = (2.0 * quantiles[order]).to(torch.float32)
    return torch.cat([ring, ring[:_PIECE]])


def _add_from_table_(flat: Tensor, scale: float, stream: torch.Generator) -> None:
    table = _table()
    parts = flat.split(_PIECE)
    words = torch.empty(len(parts) + math.ceil(len(flat) / 64), dtype=torch.int64)
    words.random_(-(1 << 63), None, generator=stream)
    places, octets = (words[: len(parts)] % _TABLE).tolist(), words[len(parts) :].numpy().view(np.uint8)
    noise = torch.empty(_PIECE)
    for i, (part, place) in enumerate(zip(parts, places, strict=True)):
        length = len(part)
        bits = np.unpackbits(octets[i * _PIECE // 8 : (i + 1) * _PIECE // 8], count=length)
        signs, sizes = noise[:length].copy_(torch.from_numpy(bits)).sub_(0.5), table[place : place + length]
        if part.dtype == torch.float32:
            part.addcmul_(signs, sizes, value=scale)
        else:
            part.add_(signs.mul_(sizes), alpha=scale)
