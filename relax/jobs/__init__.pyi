from relax.jobs.run import run_job as run_job
from relax.jobs.session import Outcome as Outcome
from relax.jobs.toml.files import read as read
