"""Faults of PETSc's side: options, linear solvers, factors."""

from __future__ import annotations

from faults.mutant import Mutant

TRANSPOSED = "test_linear.py -k 'follows or leaves or transposes_wrongly'"

MUTANTS = [
    Mutant(
        "if not _OF_AN_OBJECT.search(name)}",
        "}",
        "test_options.py -k own",
        "the names of DOLFINx's solvers count as options that differ between ranks",
        ranks=2,
    ),
    Mutant(
        "if self.ksp.getPC().getFailedReason():",
        "if False:",
        "test_linear.py -k not_factored",
        "a block is solved without a factor",
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
    Mutant("    if late:", "    if False:", "test_start.py -k too_late", "-log_view after PETSc has started"),
    Mutant("database.delValue(name)", "pass", "test_options.py", "options stay in the database"),
    Mutant(
        "for k, v in chosen.items() if prefix + k not in users}",
        "for k, v in chosen.items()}",
        "test_options.py",
        "a call stands above the command line",
    ),
]
