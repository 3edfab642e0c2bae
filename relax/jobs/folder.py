"""The output folder of a run: who may write there, and how its files come into it.

A run writes into ``unfinished/`` of its folder. At the end, when all of it is on disk, its files take the place of an
earlier run's, which stay whole until then. ``run.json`` is the mark of relax: it says which files a run has written,
and nothing else is ever removed or replaced. One run at a time holds the folder (``lock.py``). ``contents.py`` has the
names of the files.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from mpi4py import MPI

from relax.base import parallel
from relax.base.files import LONGEST_PATH, PART, is_part, remove, sync, write_bytes, write_json, write_text
from relax.errors import BadInput
from relax.jobs import info, lock
from relax.jobs.contents import CHECKPOINT, FIELDS, JOB, RESULTS, RUN, UNFINISHED, files_of, marked
from relax.jobs.lock import LOCK, Lock, myself

_SPARE_BYTES = 16 * 2**20


class RunFolder:
    """The output folder of one run. Collective, as are all methods: rank 0 acts, all ranks learn what came of it.

    Args:
        comm: the ranks of the run.
        folder: the folder.
        inputs: files that the job reads.
        overwrite: replace an earlier run.
        resume: go on from an earlier run.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        folder: Path,
        inputs: Sequence[Path] = (),
        *,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self.folder = folder
        #: Where this run writes.
        self.work = folder / UNFINISHED
        self._comm = comm
        self._inputs = inputs
        self._overwrite = overwrite
        self._resume = resume
        self._lock: Lock | None = None
        self._mark = {"relax": info.relax_version(), **myself()}

    def inspect(self) -> None:
        """See that the run may use the folder, or may replace or resume an earlier run in it; nothing is changed yet.

        Raises:
            BadInput: when the folder is held by another run, holds an earlier one and neither is asked for, holds
                something else, or cannot be written.
        """
        parallel.on_rank_0(self._comm, self._inspect)

    def foresee(self) -> str:
        """What a run would find and make of it, in words; nothing is written, and the folder is not held.

        Raises:
            BadInput: as ``inspect`` does.
        """
        return parallel.on_rank_0(self._comm, self._foresee)

    def begin(self, job: str, fill: Callable[[Path], None]) -> None:
        """Make the folder to write in. For the moment when the job, whose text goes into it, is known to be good.

        Args:
            job: its text.
            fill: puts into it, on rank 0, what a resumed run goes on from: the folder is never there without.

        Raises:
            BadInput: when the folder cannot be written, or has become another run's meanwhile.
        """
        parallel.on_rank_0(self._comm, lambda: self._begin(job, fill))

    def finish(self, without: Collection[str] = ()) -> None:
        """Let what has been written take the place of an earlier run's.

        Args:
            without: names of what only the run itself had a use for.

        Raises:
            BadInput: when a file of somebody else is in the way; what was written is in ``work`` then.
        """
        parallel.on_rank_0(self._comm, lambda: self._finish(without))

    def close(self) -> None:
        """Let others have the folder. Not collective, so that a run can be left by an error at any place."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _inspect(self) -> None:
        folder = self.folder
        over = len(os.fsencode(self.work / FIELDS[2])) - LONGEST_PATH
        if over > 0:
            raise BadInput(
                f"{str(folder):.80}...: is the path of a folder, longer by {over} than MPI can write to; take another "
                "with --output, or a path that starts from a current folder nearby"
            )
        try:
            nearest = self._nearest()
            # Permissions alone do not tell: root may write anywhere, but not in what is no disk, such as /proc.
            with tempfile.TemporaryFile(dir=nearest):
                pass
            check_space(nearest, 0)
            if folder.exists():
                self._take()
                self._look()
        except OSError as error:
            raise self._cannot_write(error) from None

    def _nearest(self) -> Path:
        """The folder, or the one that it is to be made in."""
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise BadInput(
                f"{folder}: expected a folder for the results, and this is a file; choose another with --output"
            )
        if self._resume and not folder.exists():
            raise BadInput(f"{folder}: nothing to resume: there is no such folder")
        return next(path for path in (folder, *folder.absolute().parents) if path.exists())

    def _foresee(self) -> str:
        folder = self.folder
        try:
            nearest = self._nearest()
            if not os.access(nearest, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            check_space(nearest, 0)
            if not folder.exists():
                return "new"
            if (holder := lock.holder(folder)) is not None:
                raise BadInput(lock.refusal(folder, holder))
            self._look(dry=True)
            begun, files = marked(self.work), files_of(folder)
        except OSError as error:
            raise self._cannot_write(error) from None
        is_unfinished = begun is not None and "files" not in begun
        if self._resume:
            return f"holds {'an unfinished' if is_unfinished else 'a finished'} run, which would be gone on with"
        told = ["an unfinished run, which would be begun anew"] if is_unfinished else []
        if files is not None or begun is not None and not is_unfinished:
            told.append("a finished run, whose results would stay until the new ones take their place")
        return f"holds {' and '.join(told) or 'nothing'}"

    def _cannot_write(self, error: OSError) -> BadInput:
        return BadInput(f"{self.folder}: cannot write there ({error.strerror}); choose another with --output")

    def _take(self) -> None:
        if self._lock is None:
            self._lock = Lock(self.folder)

    def _look(self, *, dry: bool = False) -> None:
        """See what the folder holds; unless ``dry``, end what an earlier run was about to end."""
        folder, work = self.folder, self.work
        for path in self._inputs:
            if folder.resolve() in path.resolve().parents:
                raise BadInput(f"{folder}: holds {path.name}, which this job reads; choose another with --output")
        begun, files = marked(work), files_of(folder)
        if work.is_symlink() or (work.exists() and begun is None):
            raise BadInput(
                f"{work}: is not what an unfinished run leaves; move it away, or choose another with --output"
            )
        if begun is not None and "files" in begun:
            if not dry:
                self._exchange()
            files = [*(files_of(folder) or ()), *begun["files"]]
            begun = None
        here = {path.name for path in folder.iterdir() if path.name not in (LOCK, UNFINISHED, *(files or ()))}
        foreign = sorted(name for name in here if not is_part(folder / name))
        if foreign and files is None and begun is None:
            raise BadInput(
                f"{folder}: holds {foreign[0]} and no {RUN}, so it is not a folder of relax; choose another with "
                "--output"
            )
        if in_the_way := [name for name in foreign if name in RESULTS]:
            raise BadInput(
                f"{folder}: holds {in_the_way[0]}, which is not of the run there; move it away, or choose another with "
                "--output"
            )
        kept = begun is not None and (work / CHECKPOINT).exists()
        if self._resume and begun is None and not (files and CHECKPOINT in files):
            raise BadInput(f"{folder}: nothing to resume: there is no run that keeps its steps")
        if self._overwrite or self._resume:
            return
        if kept:
            raise BadInput(
                f"{folder}: holds an unfinished run; --resume goes on from its last step, --overwrite starts anew"
            )
        if files is not None:
            goes_on = ", --resume goes on from its last step" if CHECKPOINT in files else ""
            raise BadInput(
                f"{folder}: holds a finished run; --overwrite replaces it, --output writes to another folder{goes_on}"
            )

    def _begin(self, job: str, fill: Callable[[Path], None]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take()
            self._look()
            for left in filter(is_part, list(self.folder.iterdir())):
                remove(left)
            if self._resume and self.work.exists():
                write_json(self.work, RUN, self._mark)
                write_text(self.work, JOB, job)
                fill(self.work)
                return
            new = Path(tempfile.mkdtemp(prefix=PART, dir=self.folder))
            # With the bit by which files have the group of their folder.
            new.chmod(self.folder.stat().st_mode & 0o7777)
            write_json(new, RUN, self._mark)
            write_text(new, JOB, job)
            fill(new)
            if self.work.exists():
                remove(self.work)
            new.rename(self.work)
        except OSError as error:
            raise self._cannot_write(error) from None

    def _finish(self, without: Collection[str]) -> None:
        try:
            self._end(without)
        except OSError as error:
            raise self._cannot_write(error) from None

    def _end(self, without: Collection[str]) -> None:
        files = {path.name for path in self.work.iterdir() if not is_part(path)} - set(without)
        _sync_all(self.work)
        # From here on the run has ended: whoever comes next puts its files in place, should this process be killed.
        write_json(self.work, RUN, {**self._mark, "files": sorted({RUN, *files})})
        self._exchange()

    def _exchange(self) -> None:
        """Put the files of the run that has ended in place; begun and cut short, it is done again from the start."""
        folder, work = self.folder, self.work
        new, old = files_of(work) or [], files_of(folder) or []
        moving = [name for name in new if name != RUN and os.path.lexists(work / name)]
        if foreign := [name for name in moving if name not in old and os.path.lexists(folder / name)]:
            raise BadInput(
                f"{folder}: holds {foreign[0]}, which is not of the run there; the new results are in {work} and take "
                "their place when it is moved away and the job started again"
            )
        for name in (*(name for name in old if name not in new), *moving):
            if name not in moving or (folder / name).is_dir() or (work / name).is_dir():
                remove(folder / name)
            if name in moving:
                (work / name).replace(folder / name)
        # A copy: while the folder is there, so is its mark.
        write_bytes(folder, RUN, (work / RUN).read_bytes())
        remove(work)


def _sync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        sync(path)


def check_space(folder: Path, needed: int) -> None:
    """See that the disk has room for ``needed`` bytes. On one rank.

    Raises:
        BadInput: with what is needed and what is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise BadInput(
            f"{folder}: the disk is full: {(needed + _SPARE_BYTES) / 2**20:.0f} MB are needed, {free / 2**20:.0f} MB "
            "are free; make room or choose another folder with --output"
        )
