"""The .sbatch files with commands that pretend to be Slurm's and relax: signals, requeues, arrays, launchers."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
import scripts

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "mpi_jobs").glob("*.sbatch"))
POISSON, SCALING = "poisson_inverse.sbatch", "poisson_scaling.sbatch"
TRAINING = "train_half_inverse.sbatch"

# As srun and mpirun: passes its words on, and signals, being replaced by them.
LAUNCHER = """#!/bin/sh
words=$*
echo "${0##*/} ${words%%sh -c*}..." >>"$CALLS"
while [ "${1#-}" != "$1" ]; do shift 2; done
exec "$@"
"""
SCONTROL = """#!/bin/sh
echo "scontrol $*" >>"$CALLS"
exit "${REFUSED:-0}"
"""
# Takes a step, and then ends with $STATUS, or waits for the signal when that is empty.
RELAX = """#!/bin/bash
echo "relax $*" >>"$CALLS"
while [ "$1" != --output ]; do shift; done
trap 'sleep 0.1; echo "relax ends" >>"$CALLS"; exit 75' USR1
mkdir -p "$2/unfinished/checkpoint"
[ -n "$IDLE" ] || mktemp -d -p "$2/unfinished/checkpoint" >/dev/null
seconds='{"build": 1, "invert": 1, "write": 1}'
[ "$STATUS" != 0 ] || echo '{"versions": {"ranks": 1}, "seconds": '"$seconds"', "steps": 1}' >"$2/summary.json"
[ -z "$STATUS" ] || exit "$STATUS"
echo listening
for ((i = 0; i < 600; i++)); do sleep 0.1; done
"""
# What trains is a script, and ends alike.
PYTHON = """#!/bin/bash
case $1 in mpi_jobs/train_*) exec relax "$@" ;; esac
exec /usr/bin/python3 "$@"
"""


class Cluster:
    """A folder of commands, what was called, and where the results go."""

    def __init__(self, folder: Path) -> None:
        self.out, self._calls, self._bin = folder / "out", folder / "calls", folder / "bin"
        self._bin.mkdir()
        for name in ("srun", "mpirun"):
            self.has(name, LAUNCHER)
        for name, text in (("scontrol", SCONTROL), ("relax", RELAX), ("python3", PYTHON)):
            self.has(name, text)

    def has(self, name: str, text: str) -> None:
        (self._bin / name).write_text(text)
        (self._bin / name).chmod(0o755)

    def lacks(self, name: str) -> None:
        (self._bin / name).unlink()

    def start(self, script: str, *words: str, **variables: str) -> subprocess.Popen[str]:
        self._calls.write_text("")
        own = {"STATUS": "", "IDLE": "", "CALLS": str(self._calls), "OUT": str(self.out), "SLURM_JOB_ID": "7"}
        # Without the `relax` of this checkout.
        return subprocess.Popen(
            ["bash", ROOT / "mpi_jobs" / script, *words],
            env={"PATH": f"{self._bin}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(ROOT)} | own | variables,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip

    def submit(self, script: str, *words: str, **variables: str) -> tuple[int, str, list[str]]:
        """The status of a job, its words, and what it called."""
        with self.start(script, *words, **variables) as process:
            _, errors = process.communicate(timeout=60)
        return process.returncode, errors, self.calls()

    def calls(self) -> list[str]:
        return self._calls.read_text().replace(str(self.out), "OUT").splitlines()


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_time_limit_signals_the_shell_which_passes_it_on_and_requeues(cluster: Cluster, script: str) -> None:
    text = (ROOT / "mpi_jobs" / script).read_text()
    assert "#SBATCH --signal=B:USR1@" in text and "#SBATCH --requeue\n" in text
    with cluster.start(script, SLURM_NTASKS="1") as process:
        assert process.stdout is not None and process.stdout.readline() == "listening\n"
        process.send_signal(signal.SIGUSR1)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and "job 7 is requeued" in errors
    # Not before the step has ended.
    assert cluster.calls()[-2:] == ["relax ends", "scontrol requeue 7"]


def test_a_requeued_job_goes_on_and_other_statuses_are_passed_on(cluster: Cluster) -> None:
    first = "relax run mpi_jobs/poisson_inverse.toml --output OUT"
    status, _, calls = cluster.submit(POISSON, "--set", "data.seed=4", "--", "-log_view", STATUS="75")
    assert (status, calls) == (75, ["srun ...", f"{first} --set data.seed=4 -- -log_view", "scontrol requeue 7"])
    for wanted in ("0", "3"):
        status, errors, calls = cluster.submit(POISSON, STATUS=wanted, SLURM_RESTART_COUNT="1")
        assert (status, errors, calls) == (int(wanted), "", ["srun ...", f"{first} --resume"])


def test_a_script_is_started_again_as_it_was(cluster: Cluster) -> None:
    for restarts, idle, requeues in (("0", "", True), ("1", "", True), ("2", "1", False)):
        status, _, calls = cluster.submit(
            TRAINING, "--seed", "%a", STATUS="75", IDLE=idle, SLURM_RESTART_COUNT=restarts, SLURM_ARRAY_TASK_ID="3"
        )
        assert (status, "scontrol requeue 7" in calls) == (75, requeues)
        assert calls[:2] == ["srun ...", "relax mpi_jobs/train_half_inverse.py --output OUT/3 --seed 3"]


def test_a_requeue_that_leads_nowhere_ends(cluster: Cluster) -> None:
    for count, idle, requeues in (("0", "1", True), ("1", "", True), ("2", "1", False)):
        status, errors, calls = cluster.submit(POISSON, STATUS="75", IDLE=idle, SLURM_RESTART_COUNT=count)
        assert status == 75 and ("scontrol requeue 7" in calls) == requeues
    assert f"nothing was done: submitted with a longer --time and OUT={cluster.out}" in errors
    status, errors, _ = cluster.submit(POISSON, STATUS="75", REFUSED="1")
    assert status == 75 and f"could not be requeued: submitted again with OUT={cluster.out}" in errors
    status, errors, calls = cluster.submit(POISSON, STATUS="75", SLURM_JOB_ID="")
    assert status == 75 and "started again with OUT=" in errors and len(calls) == 2


def test_a_signal_that_comes_before_relax_listens_is_a_stop(cluster: Cluster) -> None:
    cluster.has("relax", "#!/bin/sh\nkill -USR1 $$\n")
    status, _, calls = cluster.submit(POISSON)
    assert status == 75 and calls[-1] == "scontrol requeue 7"


def test_a_signal_between_two_runs_stops_the_next(cluster: Cluster) -> None:
    cluster.has("relax", RELAX.replace("trap ", "trap '' USR1; kill -USR1 $PPID #"))
    status, _, calls = cluster.submit(SCALING, STATUS="0", SLURM_NTASKS="2")
    assert status == 75 and len(calls) == 3 and calls[-1] == "scontrol requeue 7"
    assert (cluster.out / "warm-up" / "summary.json").exists()


def test_the_tasks_of_an_array_have_folders_and_values_of_their_own(cluster: Cluster) -> None:
    task = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}
    status, _, calls = cluster.submit(POISSON, "--set", "data.seed=%a", STATUS="75", **task)
    wanted = "relax run mpi_jobs/poisson_inverse.toml --output OUT/3 --set data.seed=3"
    assert (status, calls[1:]) == (75, [wanted, "scontrol requeue 5_3"])


def test_launchers(cluster: Cluster) -> None:
    """The number of ranks stands behind the launcher's name, before what the ranks are in."""
    cluster.has("enter", '#!/bin/sh\nexec "$@"\n')
    status, _, calls = cluster.submit(POISSON, STATUS="0", LAUNCH="mpirun -n 4")
    assert status == 0 and calls[0] == "mpirun -n 4 ..."
    for launch, tasks, prefix in (
        ("srun enter", "2", "srun -n {} enter ..."),
        ("mpirun -n 2", "9", "mpirun -n {} ..."),
    ):
        out = str(cluster.out / launch)
        status, _, calls = cluster.submit(SCALING, STATUS="0", LAUNCH=launch, SLURM_NTASKS=tasks, OUT=out)
        assert status == 0 and calls[::2] == [prefix.format(ranks) for ranks in (2, 1, 2)]
        # What is finished stays after a requeue.
        status, _, calls = cluster.submit(SCALING, STATUS="0", LAUNCH=launch, SLURM_NTASKS=tasks, OUT=out)
        assert (status, calls) == (0, [])
    status, errors, calls = cluster.submit(SCALING, LAUNCH="mpirun --quiet -n 2")
    assert (status, calls) == (2, []) and "expected -n N right behind mpirun" in errors


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_missing_is_said(cluster: Cluster, script: str) -> None:
    """The checkout has a folder named relax, which no launcher is asked to execute."""
    cluster.lacks("relax")
    status, errors, calls = cluster.submit(script)
    assert status == 127 and "there is no command relax here: put it on the PATH" in errors and len(calls) == 1
    cluster.lacks("srun")
    status, errors, calls = cluster.submit(script)
    assert (status, calls) == (2, []) and "no command srun" in errors


@pytest.mark.parametrize("words", [("--output", "x"), ("--output=x",), ("--resume",), ("--overwrite",)])
def test_the_folder_is_named_by_out_alone(cluster: Cluster, words: tuple[str, ...]) -> None:
    status, errors, calls = cluster.submit(POISSON, *words, STATUS="0")
    assert (status, calls) == (2, []) and f"{words[0]}: OUT=folder names the folder" in errors


@pytest.mark.slurm
@pytest.mark.timeout(1200)
def test_a_slurm_of_its_own_runs_them_all() -> None:
    subprocess.run([ROOT / "mpi_jobs" / "test_slurm.sh"], env=scripts.own_environment(), check=True)
