"""What a mutant is."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault in one line of ``relax/``.

    Attributes:
        old: a fragment that stands there once: in all of ``relax/``, or in ``file`` where it is named.
        new: what stands there instead.
        tests: arguments of pytest; a file by its name alone, wherever it is below ``tests/``.
        why: what is wrong then.
        ranks: how many it takes to see it.
        file: the name of its file.
        below: a fragment of the line before, where ``old`` would not be there once without.
    """

    old: str
    new: str
    tests: str
    why: str
    ranks: int = 1
    file: str = ""
    below: str = ""
