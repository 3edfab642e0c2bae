"""Faults of jobs: settings, folders, resumed runs."""

from __future__ import annotations

from faults.mutant import Mutant

RESUME = "test_output.py -k 'cut_short or resuming or replaced or foreign'"

MUTANTS = [
    Mutant(
        "np.random.default_rng(section.seed)",
        "np.random.default_rng(0)",
        "test_output.py -k 'every_file or data_file'",
        "the seed of the noise is not asked",
    ),
    Mutant(
        "float(section.noise or 0.0) * largest",
        "float(section.noise or 0.0)",
        "test_output.py -k 'every_file or data_file'",
        "noise in units of its own",
    ),
    Mutant(
        "low + (high - low) * random.random",
        "(high - low) * random.random",
        "test_job.py -k random_points",
        "random sensors beside the mesh",
    ),
    Mutant("+ before[-1][key] for key", "for key", RESUME, "a resumed run counts from zero"),
    Mutant(
        "_FREE = (",
        '_FREE = ("prior", ',
        RESUME,
        "a run is resumed under another prior",
    ),
    Mutant(
        "kept = {HISTORY, CONTROL, JOB} if resume else {JOB}",
        "kept = {CONTROL, JOB} if resume else {JOB}",
        RESUME,
        "a resumed run forgets its history",
    ),
    Mutant(
        "if not (overwrite or resume):",
        "if False:",
        RESUME,
        "a finished run is overwritten unasked",
    ),
    Mutant(
        "if isinstance(value, float) and not np.isfinite(value):",
        "if False:",
        "test_output.py -k no_number",
        "NaN in JSON",
    ),
    Mutant(
        "0.5), 0.17) - ball(",
        "0.5), 0.17) + ball(",
        "test_job.py -k box_of",
        "two stiff inclusions, none soft",
    ),
    Mutant(
        "truth((x[: len(low)] - low[:, None])",
        "truth(x[: len(low)]",
        "test_job.py -k box_of",
        "a truth that does not move with its box",
    ),
    Mutant(
        "math.ceil(last / (most - 1))", "last // (most - 1)", "test_series.py -k spread", "more frames than asked for"
    ),
    Mutant("wanted).sum() ** 2)", "wanted).sum())", "test_time_jobs.py -k fidelity", "a fidelity that is not squared"),
    Mutant(
        "np.moveaxis(rows.reshape(-1, components, table.num_rows), 1, 2)",
        "rows.reshape(-1, components, table.num_rows)",
        "test_time_jobs.py -k 'columns or components'",
        "components and points of a data file in turn",
    ),
    Mutant(
        '"L-BFGS", 500',
        '"L-BFGS", 50',
        "test_time_job_mistakes.py -k own_number",
        "L-BFGS has the steps of Gauss–Newton",
    ),
    Mutant(
        '.control.run:run", resumes=True',
        '.control.run:run"',
        "test_time_jobs.py -k resumed",
        "a control job starts anew",
    ),
    Mutant(
        '".landscape.run:run"',
        '".landscape.run:run", resumes=True',
        "test_landscape_job_mistakes.py",
        "a landscape is resumed",
    ),
    Mutant(
        "return own or named",
        "return named",
        "test_kinds.py test_job.py",
        "a table that several kinds know makes two jobs",
    ),
]
