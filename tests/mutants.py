"""``make mutants``: faults, one line each, that the suite must notice.

usage: mutants.py [--jobs N] [WORD ...]

Each mutant of ``faults/`` is put into a copy of this checkout, and the smallest part of the suite that should
notice runs there. It is caught when that part fails, or hangs; else it survives, and a test is missing. WORDs narrow
down the mutants: those stay that have one of them in their file, their tests or their reason.

Exit status: 0 all are caught, 1 some survive, 2 a mutant is stale, or tests fail without one.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import NamedTuple

from faults import MUTANTS
from faults.mutant import Mutant

ROOT = Path(__file__).resolve().parents[1]
# A mutant is given this many times the seconds of a run without it, and these besides: a form that it changes has to be
# compiled, and a rank that fails alone waits for the others before it ends the job.
_TIMES, _BESIDES = 4.0, 40.0
# What `timeout` gives for what it has ended, and for what it had to kill after this many seconds more.
_ENDED, _GRACE = (124, 137), 5.0


class Stale(Exception):
    """What a mutant names is not there, or not once."""


class Place(NamedTuple):
    """Where a mutant goes: a file, from the root, with a line of it and what is to stand there."""

    file: Path
    number: int
    line: str


class Run(NamedTuple):
    """How a part of the suite ended: its status, seconds, what it printed."""

    status: int
    seconds: float
    output: str


def place_of(mutant: Mutant, sources: dict[Path, list[str]]) -> Place:
    """The one line of the sources that the mutant is about."""
    found = []
    for file, lines in sources.items():
        if mutant.file not in ("", file.name):
            continue
        for i, line in enumerate(lines):
            times = line.count(mutant.old)
            if times and mutant.below in (lines[i - 1] if i else ""):
                found += [Place(file, i, line.replace(mutant.old, mutant.new))] * times
    if len(found) != 1:
        where = "".join(f"\n    {place.file}:{place.number + 1}" for place in found)
        raise Stale(f"{mutant.old!r} ({mutant.why}) stands {len(found)} times in relax/, expected once{where}")
    place = found[0]
    lines = sources[place.file]
    try:
        compile("\n".join([*lines[: place.number], place.line, *lines[place.number + 1 :]]), str(place.file), "exec")
    except SyntaxError as error:
        raise Stale(f"{mutant.new!r} ({mutant.why}) makes no Python: {error}") from None
    return place


def command_of(mutant: Mutant) -> tuple[str, ...]:
    """The command for a mutant's part of the suite."""
    words = []
    for word in shlex.split(mutant.tests):
        name, *parts = word.split("::")
        if name.endswith(".py"):
            found = list((ROOT / "tests").rglob(name))
            if len(found) != 1:
                raise Stale(f"{name} ({mutant.why}) is there {len(found)} times in tests/, expected once")
            name = str(found[0].relative_to(ROOT))
        words.append("::".join([name, *parts]))
    start = ("mpirun", "-n", str(mutant.ranks)) if mutant.ranks > 1 else ()
    return (*start, sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *words)


def run(command: tuple[str, ...], folder: Path, most: float = 0.0) -> Run:
    """Run a part of the suite in a copy; end all of it after ``most`` seconds, if it is given."""
    # mpirun passes on a SIGTERM to its ranks, which may be in groups of their own.
    limit = ("timeout", f"--kill-after={_GRACE}", str(most)) if most else ()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="run-", ignore_cleanup_errors=True) as own:
        output = Path(own) / "output"
        with output.open("wb") as file:
            environment = os.environ | {"PYTHONPATH": str(folder), "TMPDIR": own}
            done = subprocess.run(
                (*limit, *command), cwd=folder, env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        return Run(done.returncode, time.monotonic() - start, output.read_text(errors="replace"))


class Copies:
    """Copies of the checkout, one for each job that runs at once, and what is known of runs without a mutant."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self._free: SimpleQueue[Path] = SimpleQueue()
        self._moment = int(time.time())
        self._clean: dict[tuple[str, ...], Run] = {}
        self._locks: defaultdict[tuple[str, ...], Lock] = defaultdict(Lock)
        listing = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
        for i in range(jobs):
            for name in filter(None, names):
                if (ROOT / name).is_file():
                    (folder / str(i) / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, folder / str(i) / name)
            self._free.put(folder / str(i))

    def judged(self, mutant: Mutant, place: Place, command: tuple[str, ...]) -> tuple[str, Run]:
        """What a run says, and the run: caught, hung, SURVIVED, or BROKEN where tests fail without the mutant."""
        copy = self._free.get()
        try:
            with self._locks[command]:
                if command not in self._clean:
                    self._clean[command] = run(command, copy)
            clean = self._clean[command]
            if clean.status != 0 or not re.search(r"\d+ passed", clean.output):
                return "BROKEN", clean
            with self._changed(copy / place.file, place):
                found = run(command, copy, _TIMES * clean.seconds + _BESIDES)
            return ("SURVIVED" if not found.status else "hung" if found.status in _ENDED else "caught"), found
        finally:
            self._free.put(copy)

    @property
    def parts(self) -> tuple[int, float]:
        """How many parts of the suite ran without a mutant, and their seconds."""
        return len(self._clean), sum(found.seconds for found in self._clean.values())

    @contextmanager
    def _changed(self, file: Path, place: Place) -> Iterator[None]:
        before = file.read_text(encoding="utf-8")
        lines = before.split("\n")
        lines[place.number] = place.line
        try:
            self._write(file, "\n".join(lines))
            yield
        finally:
            self._write(file, before)

    def _write(self, file: Path, text: str) -> None:
        """With a time of its own: by that and the size Python knows whether what it compiled is still good."""
        self._moment += 1
        file.write_text(text, encoding="utf-8")
        os.utime(file, (self._moment, self._moment))


def chosen(words: list[str]) -> list[tuple[Mutant, Place, tuple[str, ...]]]:
    """The mutants with one of the words, where each goes, and the command that should notice."""
    sources = {
        path.relative_to(ROOT): path.read_text(encoding="utf-8").split("\n")
        for path in sorted((ROOT / "relax").rglob("*.py"))
    }
    found, stale = [], []
    for mutant in MUTANTS:
        try:
            place, command = place_of(mutant, sources), command_of(mutant)
        except Stale as error:
            stale.append(str(error))
            continue
        text = f"{place.file} {mutant.tests} {mutant.why}"
        if not words or any(word in text for word in words):
            found.append((mutant, place, command))
    if stale:
        raise Stale("\n".join(stale))
    return found


def main() -> int:
    """Run the mutants; the exit status."""
    parser = argparse.ArgumentParser(description="Put faults of one line into a copy: which does no test notice?")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many run at once")
    parser.add_argument("words", nargs="*", metavar="WORD", help="only mutants with one of these words")
    wanted = parser.parse_args()
    try:
        mutants = chosen(wanted.words)
    except Stale as error:
        print(f"stale mutants, to be mended in tests/faults/:\n{error}", file=sys.stderr)
        return 2
    by_word = defaultdict[str, list[str]](list)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(wanted.jobs) as pool:
        copies = Copies(Path(folder), wanted.jobs)
        for (mutant, place, _), (word, found) in zip(
            mutants, pool.map(lambda one: copies.judged(*one), mutants), strict=True
        ):
            told = f"{place.file}:{place.number + 1} on {mutant.ranks}: {mutant.why}"
            print(f"{word:8} {found.seconds:6.1f} s  {told}", flush=True)
            by_word[word].append(f"{told}\n    {place.line.strip()}\n    {mutant.tests}")
            if word == "BROKEN":
                print(found.output, file=sys.stderr)
        parts, seconds = copies.parts
    counts = ", ".join(f"{len(some)} {word}" for word, some in sorted(by_word.items(), reverse=True))
    print(f"\n{len(mutants)} mutants: {counts}. {parts} parts of the suite took {seconds:.0f} s without any.")
    print("\n".join([*by_word["SURVIVED"], *by_word["BROKEN"]]))
    return 2 if by_word["BROKEN"] else 1 if by_word["SURVIVED"] else 0


if __name__ == "__main__":
    sys.exit(main())
