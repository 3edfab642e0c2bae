"""Job files: TOML into pydantic models, and messages that name the mistake and the nearest right spelling.

Nothing here knows a solver; the ``setting.py`` of a kind turns its job into objects.
"""

from relax.jobs.toml.files import JobFile, parse, project_root, read
from relax.jobs.toml.sections import DataSection, Job, MeasuredJob, SolverSection, StorageSection

__all__ = [
    "DataSection",
    "Job",
    "JobFile",
    "MeasuredJob",
    "SolverSection",
    "StorageSection",
    "parse",
    "project_root",
    "read",
]
