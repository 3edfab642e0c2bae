"""What a Gmsh script may not do unasked: run programs. On one rank.

Gmsh reads whatever it does not know as a script, and beside each file ``a`` that it opens ``a.opt``, meshes included.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from relax.errors import BadInput

_RUNS = ("SystemCall", "System", "NonBlockingSystemCall", "OnelabRun")
_READS = ("Include", "Merge", "MergeWithBoundingBox")
# Endings by which Gmsh knows what is none of its scripts, in these capitals or in none.
_NO_SCRIPTS = (".step", ".stp", ".iges", ".igs", ".brep", ".stl")
# Gmsh's lexer knows neither escapes in strings nor nested comments.
_PIECE = re.compile(r"//[^\r\n]*|/\*.*?(?:\*/|\Z)|\"[^\"]*\"|'[^']*'|\w+|\S", re.DOTALL)
# It gives up on a longer string, and goes on behind that.
_LONGEST_STRING = 1000
_TRUST = "where you trust the file, say so: --trust-mesh, or meshes.read(..., trust=True)"


def check_script(name: str) -> None:
    """Refuse a mesh file that runs programs, by itself or by what it reads.

    Raises:
        BadInput: naming the file that holds the command, or that reads one whose name is not written out.
    """
    seen: set[str] = set()
    waiting = [os.path.abspath(name)]
    while waiting:
        file = waiting.pop()
        if file not in seen and os.path.isfile(file):
            where = f"{name}: it reads {file}" if seen else name
            seen.add(file)
            waiting.append(f"{file}.opt")
            waiting += [os.path.join(os.path.dirname(file), other) for other in _files_read_by(file, where)]


def _files_read_by(file: str, where: str) -> Iterator[str]:
    """The names in its Include and Merge commands; ``where`` opens messages."""
    content = Path(file).read_bytes()
    ending = os.path.splitext(file)[1]
    if content.startswith(b"$MeshFormat") or ending in (*_NO_SCRIPTS, *map(str.upper, _NO_SCRIPTS)):
        return
    pieces = [piece for piece in _PIECE.findall(content.decode("latin-1")) if not piece.startswith(("//", "/*"))]
    for piece, after in zip(pieces, (*pieces[1:], ""), strict=True):
        if piece in _RUNS:
            raise BadInput(f"{where}: {piece} runs a program on this machine; {_TRUST}")
        if piece in _READS:
            if after[:1] not in ("'", '"'):
                raise BadInput(
                    f"{where}: {piece} reads a file whose name is computed, here from {after!r}, so that nobody knows "
                    f"what it runs; write the name in quotes, or, {_TRUST}"
                )
            yield after[1:-1]
        if piece[0] in "\"'" and not 2 <= len(piece) <= _LONGEST_STRING:
            raise BadInput(
                f"{where}: expected strings of up to {_LONGEST_STRING} characters that end, got {piece:.40}; {_TRUST}"
            )
