"""Faults of jobs: settings, folders, resumed runs."""

from __future__ import annotations

from faults.mutant import Mutant

RESUME = "test_output.py -k 'cut_short or resuming or replaced'"
FOLDER, CHECKPOINTS = "test_folder.py", "test_checkpoints.py"

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
    Mutant(
        "number - entry[kind] for kind, number",
        "number for kind, number",
        f"{CHECKPOINTS} -k takes_the_steps",
        "a resumed run counts from zero",
    ),
    Mutant(
        "if self._ear.has_heard():",
        "if False:",
        "test_stopping.py -k sigusr1_to_one",
        "SIGUSR1 goes unheard",
    ),
    Mutant(
        "now + _MARGIN * step > self._end",
        "now > self._end",
        "test_stopping.py -k slurm",
        "a step is begun for which there is no time",
    ),
    Mutant(
        "if table not in job.changeable and one != two:",
        "if table not in (*job.changeable, 'prior') and one != two:",
        RESUME,
        "a run is resumed under another prior",
    ),
    Mutant("if self._overwrite or self._resume:", "if True:", RESUME, "a finished run is overwritten unasked"),
    Mutant(
        'text = f"# {literal(source)}\\n\\n{written(tables)}"',
        "pass",
        "test_settings.py -k of_the_job",
        "the copy of a job is not the one that was run",
    ),
    Mutant(
        "half = history[len(history) // 2 - 1 :]",
        "half = history[:]",
        "test_status.py -k time_left",
        "the time left is told from a start that is past",
    ),
    Mutant(
        "return words if _may_live(words, age) else None",
        "return words",
        "test_status.py -k a_lock_tells",
        "a dead process is said to be at work",
    ),
    Mutant(
        "or (key in values) != (key in others):",
        "and (key in values) == (key in others):",
        "test_status.py -k two_runs",
        "keys that one job alone has are not told",
    ),
    Mutant(
        "self._look(dry=True)",
        "self._look()",
        "test_preview.py -k become_of",
        "a dry run puts the files of a run in place",
    ),
    Mutant(
        "if (holder := lock.holder(folder)) is not None:",
        "if False:",
        "test_preview.py -k is_held",
        "a dry run does not see who holds the folder",
    ),
    Mutant(
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        f"{FOLDER} -k 'second or killed'",
        "two runs share a lock",
        file="lock.py",
    ),
    Mutant(
        "if foreign and files is None and begun is None:",
        "if False:",
        f"{FOLDER} -k left_alone",
        "a folder of somebody passes for a run's",
    ),
    Mutant(
        "if name not in old and os.path.lexists(folder / name)]",
        "if False]",
        f"{FOLDER} -k in_the_way",
        "a file of somebody is replaced",
    ),
    Mutant(
        "*(name for name in old if name not in new), *moving",
        "*moving,",
        f"{FOLDER} -k 'only_what or exchange'",
        "files of an earlier run stay among the new ones",
    ),
    Mutant(
        "if (number_of(path) or 0) > (number_of(kept.folder) or 0)]",
        "if False]",
        f"{CHECKPOINTS} -k goes_on_from_the_good",
        "what is damaged stays before what is good",
    ),
    Mutant(
        'return _ticks(int(holder["process"])) == holder.get("ticks")',
        "return True",
        f"{FOLDER} -k no_locks",
        "a dead process keeps its lock for ever",
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
        "return own or named",
        "return named",
        "test_kinds.py test_job.py",
        "a table that several kinds know makes two jobs",
    ),
]
