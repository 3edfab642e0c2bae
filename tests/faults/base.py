"""Faults of what everything stands on: ranks, checkpoints, starts and ends of programs, checks."""

from __future__ import annotations

from faults.mutant import Mutant

PARALLEL = "test_parallel.py -k 'one_error or reductions or copy'"

MUTANTS = [
    Mutant(
        'if isinstance(value, str) or hasattr(value, "ufl_shape") or not isinstance(value, Iterable):',
        'if hasattr(value, "ufl_shape") or not isinstance(value, Iterable):',
        "test_bad_input.py -k mistakes",
        "a word is gone through as a list of letters",
        ranks=2,
    ),
    Mutant(
        "over = len(os.fsencode(self.work / FIELDS[2])) - LONGEST_PATH",
        "over = 0",
        "test_bad_input.py -k command_lines",
        "MPI is given a path that it ends the job for",
        ranks=2,
    ),
    Mutant(
        "if isinstance(error, BadInput | BadProblem | PointsOutsideMesh):",
        "if isinstance(error, BadInput):",
        "test_bad_input.py -k status",
        "a problem that does not fit together has the status of a failed solve",
    ),
    Mutant(
        "self._alone = [(PATIENCE, later), (_LAST_WORDS, alone)]",
        "self._alone = [(PATIENCE, later)]",
        "test_ending.py -k leaves_well",
        "a rank that has left well is waited for without end",
    ),
    Mutant(
        "self._alone = [(PATIENCE, later), (_LAST_WORDS, alone)]",
        "self._meet(OK, [(PATIENCE, later), (_LAST_WORDS, alone)])",
        "test_ending.py -k registered_for_the_end",
        "a rank that leaves well waits for another, which waits for it in what is registered for the end",
    ),
    Mutant(
        "if not self._is_over and os.getpid() == self._process and not MPI.Is_finalized():",
        "if not self._is_over and not MPI.Is_finalized():",
        "test_ending.py -k stand_for_its_parent",
        "a forked process that ends stands for its parent",
    ),
    Mutant(
        "atexit.register(last.end)",
        "pass",
        "test_ending.py -k leaves_well",
        "a rank that has left well ends the job although the others have come to their end",
    ),
    Mutant(
        "with parallel.together(self._comm):",
        "if True:",
        "base/test_checkpoint.py -k fails_on_one",
        "an object's state is begun where another's has failed",
        ranks=2,
        file="checkpoint.py",
        below="where another fails on one rank none is begun",
    ),
    Mutant(
        "for number in there[:-1]:",
        "for number in there:",
        "base/test_checkpoint.py -k 'due'",
        "one checkpoint only is kept",
    ),
    Mutant(
        "if there.stat().st_size != size or _sum_of(there) != checksum:",
        "if there.stat().st_size != size:",
        "test_checkpoints.py -k 'damaged_checkpoint and bit'",
        "a damaged checkpoint is gone on from",
    ),
    Mutant(
        "is_own = parallel.any_rank(comm, parallel.of_rank_0(comm, mine) != mine)",
        "is_own = False",
        "base/test_checkpoint.py -k 'each_ones'",
        "each rank goes on with rank 0's state",
        ranks=2,
    ),
    Mutant(
        "comm.Allreduce(MPI.IN_PLACE, first, op=MPI.MIN)",
        "comm.Allreduce(MPI.IN_PLACE, first, op=MPI.MAX)",
        PARALLEL,
        "an error of one rank stays there",
        ranks=2,
    ),
    Mutant("op=MPI.LOR", "op=MPI.LAND", PARALLEL, "any rank means every rank", ranks=2),
    Mutant(
        'copy = np.array(values, dtype=np.float64, order="C")',
        'copy = np.asarray(values, dtype=np.float64, order="C")',
        PARALLEL,
        "what was agreed on is the caller's own array",
    ),
    Mutant(
        "if first == _NO_ERROR and (least[1] != -least[2] or least[3] != -least[4]):",
        "if first == _NO_ERROR and least[1] != -least[2]:",
        "test_edges.py -k hand_over",
        "ranks that hand over batches of different sizes are not told",
        ranks=2,
    ),
    Mutant(
        "np.concatenate(comm.allgather(rows))",
        "np.concatenate(comm.allgather(rows)[::-1])",
        "test_teams.py",
        "rows of the last rank come first",
        ranks=2,
    ),
    Mutant(
        'importlib.import_module("petsc4py").init([program, *arguments])',
        'importlib.import_module("petsc4py.PETSc")',
        "test_start.py -k command_line",
        "PETSc starts without its command line",
    ),
    Mutant(
        "if is_last and isinstance(error, SystemExit):",
        "if False:",
        "test_ending.py -k leaves_alone",
        "a rank that raises SystemExit leaves the others waiting",
    ),
    Mutant(
        "1e-3 if is_single else 1e-6",
        "1e-3",
        "test_parallel.py -k others",
        "ranks in double precision may differ as in single",
        ranks=2,
    ),
    Mutant(
        "smooth=not is_exhausted)",
        "smooth=True)",
        "test_half_inverse.py -k smoothly",
        "a smooth filter where an edge is promised",
    ),
    Mutant(
        "ABOVE_0: Rule = (lambda v: 0.0 < v", "ABOVE_0: Rule = (lambda v: 0.0 <= v", "test_checks.py", "0 is above 0"
    ),
    Mutant("<= v < 1.0,", "<= v <= 1.0,", "test_checks.py", "1 is a fraction"),
    Mutant("or value < least:", "or value <= least:", "test_checks.py", "the least number is too small"),
    Mutant(
        'and "OMP_NUM_THREADS" not in os.environ:',
        "and os.environ:",
        "test_parallel.py -k threads",
        "the user's number of threads is not asked",
    ),
    Mutant(
        "sys.meta_path.insert(0, _WheelFirst())",
        "sys.meta_path.append(_WheelFirst())",
        "test_start.py",
        "the wheel is prepared after DOLFINx has been found",
    ),
    Mutant(
        'return "SIGUSR1" if self._ear.has_heard() else ""',
        'return ""',
        "test_sigusr1.py -k one_rank_hears",
        "a checkpoint does not care for SIGUSR1",
    ),
    Mutant(
        "if takes or old is signal.SIG_DFL:",
        "if True:",
        "test_sigusr1.py -k somebody",
        "SIGUSR1 is taken from a handler of the user's",
    ),
    Mutant("if _EARS:", "if True:", "test_sigusr1.py -k kills_again", "SIGUSR1 is swallowed where nothing is kept"),
    Mutant(
        "elif status == STOPPED:",
        "elif False:",
        "test_sigusr1.py -k whole_program",
        "a rank that was asked to stop ends those that are in a longer step",
    ),
]
