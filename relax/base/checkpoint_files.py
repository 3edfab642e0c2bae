"""Checkpoints on disk: written whole or not at all, checked by their sums, the last two kept.

A checkpoint is a folder, ``checkpoint-000012`` for the twelfth that was written::

    state.npz         the states of the objects; ``state-1.npz``, ... where those of each rank are its own
    random.npz        the random states of all ranks
    fields.bp         the fields among the states, by the cells of the mesh's input
    manifest.json     the step, the names, sizes and SHA-256 of these files; written last

It is written under a temporary name, synced, and renamed.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mpi4py import MPI

from relax.base import parallel
from relax.base.files import PART, in_words, is_part, remove, sync, write_bytes, write_json
from relax.base.log import logger
from relax.base.packed import DAMAGED, Packed
from relax.errors import BadInput

_MANIFEST, _FIELDS, _STATE, _RANDOM = "manifest.json", "fields.bp", "state{}.npz", "random.npz"


@dataclass(frozen=True)
class Kept:
    """What a checkpoint holds.

    Attributes:
        folder: of this checkpoint.
        step: the step after which it was written.
        states: of each object, by its name.
        chances: the random states of this rank; None where another number of ranks has written it.
    """

    folder: Path
    step: int
    states: dict[str, Any]
    chances: Any


def write(path: Path, comm: MPI.Comm, step: int, states: dict[str, Any], chances: dict[str, Any] | None) -> None:
    """Write a checkpoint; of earlier ones the last stays. Collective.

    Args:
        path: the folder for them.
        comm: the ranks.
        step: the step that has ended.
        states: of objects; what is the same on all ranks is written once. Its fields live on ``comm``.
        chances: this rank's random states; None where none are kept.

    Raises:
        BadInput: on every rank, for a state that cannot be kept, with its place.
        SolveFailed: on every rank, when the disk does not take it; the one before is whole.
    """
    with parallel.together(comm):
        packed = Packed.of(states, "the state")
        chance = None if chances is None else Packed.of(chances, "the random states").as_bytes()
        for field in packed.fields:
            _check_ranks(field, comm)
    mine = packed.digest()
    is_own = parallel.any_rank(comm, parallel.of_rank_0(comm, mine) != mine)
    made = parallel.on_rank_0(comm, lambda: _made(path))
    sums: dict[str, Any] = {}

    def put(name: str, content: bytes) -> None:
        with in_words(path):
            write_bytes(made, name, content)
        sums[name] = [len(content), hashlib.sha256(content).hexdigest()]

    with parallel.together(comm):
        if is_own or comm.rank == 0:
            put(_STATE.format(f"-{comm.rank}" if is_own else ""), packed.as_bytes())
    if chances is not None:
        of_ranks = parallel.to_rank_0(comm, chance)
        with parallel.together(comm):
            if of_ranks is not None:
                put(_RANDOM, Packed.of(of_ranks, "the random states").as_bytes())
    if packed.fields:
        from relax.base.fem import stored_fields

        with parallel.together(comm), in_words(path):
            stored_fields.write(made / _FIELDS, packed.fields)
    told = parallel.to_rank_0(comm, sums)

    def publish() -> None:
        files = {name: mark for part in told or () for name, mark in part.items()}
        there = sorted(_numbers(path))
        with in_words(path):
            if packed.fields:
                for file in (made / _FIELDS).iterdir():
                    files[str(file.relative_to(made))] = [file.stat().st_size, _sum_of(file)]
                    sync(file)
                sync(made / _FIELDS)
            write_json(made, _MANIFEST, {"step": step, "ranks": comm.size, "own": is_own, "files": files})
            made.rename(_folder(path, there[-1] + 1 if there else 1))
            sync(path)
            for number in there[:-1]:
                remove(_folder(path, number))

    parallel.on_rank_0(comm, publish)


def _made(path: Path) -> Path:
    """A folder in the making."""
    with in_words(path):
        path.mkdir(parents=True, exist_ok=True)
        for left in filter(is_part, list(path.iterdir())):
            remove(left)
        made = Path(tempfile.mkdtemp(prefix=PART, dir=path))
        made.chmod(path.stat().st_mode & 0o7777)
        return made


def _folder(path: Path, number: int) -> Path:
    return path / f"checkpoint-{number:06d}"


def newest(path: Path, comm: MPI.Comm) -> Kept | None:
    """The last good checkpoint in a folder; None where there is none. What is damaged is named. Collective.

    Raises:
        BadInput: on every rank, when all there are are damaged, or each rank's state is its own and there are more or
            fewer ranks now.
    """
    chosen = parallel.on_rank_0(comm, lambda: _chosen(path))
    if chosen is None:
        return None
    folder, manifest, content = chosen
    if manifest["own"] and manifest["ranks"] != comm.size:
        raise BadInput(
            f"{folder}: the ranks had states of their own: expected {manifest['ranks']} ranks, as wrote it, got "
            f"{comm.size}"
        )
    chances = None
    with parallel.together(comm):
        try:
            if manifest["own"]:
                content = (folder / _STATE.format(f"-{comm.rank}")).read_bytes()
            packed = Packed.read(content)
            if manifest["ranks"] == comm.size and _RANDOM in manifest["files"]:
                of_ranks = Packed.read(folder / _RANDOM).state()
                chances = Packed.read(of_ranks[comm.rank]).state()
            for i in range(_count_fields(packed.tree)):
                from relax.base.fem.stored_fields import StoredField

                packed.fields.append(partial(StoredField, folder / _FIELDS, i))
            return Kept(folder, manifest["step"], packed.state(), chances)
        except BadInput:
            raise
        except DAMAGED as error:
            raise BadInput(f"{folder}: is damaged ({error or type(error).__name__})") from None


def _chosen(path: Path) -> tuple[Path, dict[str, Any], bytes] | None:
    """The last good checkpoint, its manifest and the state that the ranks share. On one rank."""
    if path.exists() and not path.is_dir():
        raise BadInput(f"{path}: expected a folder of checkpoints, and this is a file; choose another path")
    damaged = []
    for number in sorted(_numbers(path), reverse=True):
        folder = _folder(path, number)
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            for name, (size, checksum) in manifest["files"].items():
                there = folder / name
                if there.stat().st_size != size or _sum_of(there) != checksum:
                    raise ValueError(f"{name} is not what was written")
            shared = b"" if manifest["own"] else (folder / _STATE.format("")).read_bytes()
            if not isinstance(manifest["step"], int) or not isinstance(manifest["ranks"], int):
                raise ValueError("the manifest has no step")
        except (*DAMAGED, AttributeError) as error:
            damaged.append(f"{folder} is damaged ({error or type(error).__name__})")
            continue
        for words in damaged:
            logger.warning("%s; the one before it, of step %d, is used", words, manifest["step"])
        return folder, manifest, shared
    if damaged:
        raise BadInput(f"{'; '.join(damaged)}; there is no other one: remove them to start anew")
    return None


def number_of(folder: Path) -> int | None:
    """The number of a checkpoint, in the order in which they were written; None of something else. Local."""
    name = re.fullmatch(r"checkpoint-(\d{6,})", folder.name)
    return int(name[1]) if name else None


def _numbers(path: Path) -> list[int]:
    """Of the checkpoints in a folder. On one rank."""
    if not path.is_dir():
        return []
    return [number for entry in path.iterdir() if (number := number_of(entry)) is not None]


def _sum_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _count_fields(node: Any) -> int:
    """Of the tree of a state. Local."""
    if isinstance(node, dict):
        return 1 if "field" in node else sum(map(_count_fields, node.values()))
    return sum(map(_count_fields, node)) if isinstance(node, list) else 0


def _check_ranks(field: Any, comm: MPI.Comm) -> None:
    if MPI.Comm.Compare(field.function_space.mesh.comm, comm) not in (MPI.IDENT, MPI.CONGRUENT):
        raise BadInput(
            f"the field {field.name!r} lives on other ranks than its checkpoint: give Checkpoint the comm of its mesh"
        )
