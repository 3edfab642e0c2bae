"""Job files: TOML into pydantic models, and messages that name the mistake and the nearest right spelling.

Nothing here knows a mesh or a solver; :mod:`relax.case` turns a :class:`Job` into those.
"""

from relax.jobs.toml.files import JobFile, parse, project_root, read
from relax.jobs.toml.messages import nearest
from relax.jobs.toml.relaxed import DescentSection, MisfitSection
from relax.jobs.toml.sections import DataSection, Job, MeshSection, SolverSection, StartSection, StorageSection

__all__ = [
    "DataSection",
    "DescentSection",
    "Job",
    "JobFile",
    "MeshSection",
    "MisfitSection",
    "SolverSection",
    "StartSection",
    "StorageSection",
    "nearest",
    "parse",
    "project_root",
    "read",
]
