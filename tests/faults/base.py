"""Faults of what everything stands on: ranks, layouts, solvers, factors, options, points."""

from __future__ import annotations

from faults.mutant import Mutant

PARALLEL = "test_parallel.py -k 'one_error or reductions or copy'"
TRANSPOSED = "test_linear.py -k 'follows or leaves or transposes_wrongly'"
DIFFUSION = "test_contract.py::TestDiffusion"
CLAMPED_NUMBER = "test_contract.py::TestDirichletConstant"
STATES = "test_eigenstates.py -k 'same_as_dense or particle_in_a_box'"

MUTANTS = [
    Mutant(
        "if self.ksp.getPC().getFailedReason():",
        "if False:",
        "test_linear.py -k not_factored",
        "a block is solved without a factor",
    ),
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
        "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        "test_jit.py -k two_processes",
        "both compile",
    ),
    Mutant("or _is_held(lock)", "or False", "test_jit.py -k killed", "what lives is swept"),
    Mutant("and not is_abandoned(source):", "and False:", "test_jit.py -k alone", "a foreign compilation is cut off"),
    Mutant("raise _Missing(module) from damaged", "raise", "test_jit.py -k damaged", "a damaged module stays"),
    Mutant(
        "except of_ffcx.cffi.VerificationError as error:",
        "except ZeroDivisionError as error:",
        "test_jit.py -k fails",
        "a compiler that fails speaks for itself",
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
        "gathered[:, 5], gathered[:, 4],",
        "gathered[:, 5], 0.0 * gathered[:, 4],",
        "test_layout.py",
        "values of several cells at one point are in the order of the partition",
        ranks=2,
    ),
    Mutant(
        "_SAME_COORDINATE * extent)",
        "0.0 * extent)",
        "test_layout.py",
        "the last bits of a midpoint decide the order",
        ranks=3,
    ),
    Mutant(
        "c.value.size * (comm.rank == 0)",
        "c.value.size",
        CLAMPED_NUMBER,
        "every rank holds a constant that rank 0 owns",
        ranks=2,
    ),
    Mutant(
        "parts.append(parallel.from_rank_0(self._comm, mine))",
        "parts.append(mine)",
        CLAMPED_NUMBER,
        "a constant is zero on all ranks but the first",
        ranks=2,
    ),
    Mutant(
        "carrier.x.scatter_forward()",
        "pass",
        DIFFUSION,
        "a missing ghost update of controls",
        ranks=2,
        below="carrier.x.array[: b - a] = vector[a:b]",
    ),
    Mutant(
        "return parallel.dot(self._comm, a, b)",
        "return float(np.dot(a, b))",
        DIFFUSION,
        "a reduction left out: the inner product of owned vectors",
        ranks=2,
    ),
    Mutant(
        "return parallel.checked_on_all(self._comm, values, self.size, what)",
        "return parallel.checked(self._comm, values, self.size, what)",
        "test_layer.py::TestDiffusion -k rank_0s",
        "each rank solves at a control of its own",
        ranks=2,
    ),
    Mutant(
        "self._transposed_is_current = False",
        "pass",
        TRANSPOSED,
        "a stale transposed operator",
        below="self._seen.clear()",
    ),
    Mutant(
        "factor.setMumpsIcntl(9, 1)",
        "factor.setMumpsIcntl(9, 0)",
        TRANSPOSED,
        "a block of adjoints leaves the factor transposed",
    ),
    Mutant(
        '("lu", "superlu")}',
        '("lu", "superlu_dist")}',
        TRANSPOSED,
        "a package is trusted whose transposed solves are wrong",
    ),
    Mutant(
        "agreed = parallel.all_ranks_mask(self._comm, forgotten) if self._factors else 0",
        "agreed = forgotten",
        "test_parallel.py -k 'different_moments and direct'",
        "ranks decide alone which factor is free",
        ranks=2,
    ),
    Mutant(
        "factor.assign(None)",
        "pass",
        "test_reduced.py -k 'stale or longest'",
        "a stale factor: what Newton overwrites keeps its name",
    ),
    Mutant(
        "min(self._factors, key=lambda f: f.used)",
        "max(self._factors, key=lambda f: f.used)",
        "test_reduced.py -k 'stale or longest'",
        "the factor used last is given up first",
    ),
    Mutant(
        "for k, v in kept.items() if not k.startswith(bound)",
        "for k, v in kept.items() if k",
        "test_options.py",
        "options of another preconditioner stay",
    ),
    Mutant(
        "if name not in _read | _told | users.keys():",
        "if False:",
        "test_options.py -k read",
        "a misspelled option of a call is passed over",
    ),
    Mutant(
        "own = name.startswith(prefix) and name.removeprefix(prefix).startswith(_FAMILIES)",
        "own = name.startswith(prefix)",
        "test_options.py -k read",
        "options of derivatives are taken for misspelled ones",
    ),
    Mutant("_read.add(name)", "pass", "test_options.py -k read", "options that were read are said not to be"),
    Mutant(
        "kinds.check(bare, options[key], key)", "pass", "test_options.py -k kind", "words where PETSc wants a number"
    ),
    Mutant(
        "same_on_all_ranks(residual.comm, self.prefix, options)",
        "pass",
        "test_options.py -k differ",
        "ranks solve with different options",
        ranks=2,
    ),
    Mutant(
        'importlib.import_module("petsc4py").init([program, *arguments])',
        'importlib.import_module("petsc4py.PETSc")',
        "test_start.py -k command_line",
        "PETSc starts without its command line",
    ),
    Mutant("    if late:", "    if False:", "test_start.py -k too_late", "-log_view after PETSc has started"),
    Mutant(
        "if is_last and isinstance(error, SystemExit):",
        "if False:",
        "test_parallel.py -k leaves_alone",
        "a rank that raises SystemExit leaves the others waiting",
    ),
    Mutant("database.delValue(name)", "pass", "test_options.py", "options stay in the database"),
    Mutant(
        "for k, v in chosen.items() if prefix + k not in users}",
        "for k, v in chosen.items()}",
        "test_options.py",
        "a call stands above the command line",
    ),
    Mutant(
        'finished = path.with_suffix(".c.cached").exists() and not path.is_dir()',
        "finished = False",
        "test_cli.py -k swept",
        "good forms are swept away",
    ),
    Mutant("mine[original != first] = -1", "pass", "test_observe.py", "two ranks own a point between them", ranks=2),
    Mutant(
        "np.minimum.reduceat(numbers[cells], starts)",
        "np.maximum.reduceat(numbers[cells], starts)",
        "test_observe.py",
        "a wrong owner of a point between cells",
        ranks=2,
    ),
    Mutant("_SLACK = 1e-10", "_SLACK = 0.0", "test_observe.py", "points of the boundary are outside"),
    Mutant(
        "return int(negative)",
        "return default",
        "test_eigenstates.py -k passed_over",
        "a state that was passed over is not looked for",
    ),
    Mutant(
        "sums = parallel.sum_over_ranks(self.comm, np.concatenate([basis @ A_basis.T, basis @ M_basis.T]))",
        "sums = np.concatenate([basis @ A_basis.T, basis @ M_basis.T])",
        STATES,
        "a reduction left out of Rayleigh and Ritz",
        ranks=2,
    ),
    Mutant(
        "[form for form in forms if form is not None]",
        "[form for form in forms[::-1] if form is not None]",
        "test_compiling.py",
        "a form in another one's place",
    ),
    Mutant("None), sorted(tags))", "None), sorted(tags)[:1])", "test_compiling.py", "one tag of several is integrated"),
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
]
