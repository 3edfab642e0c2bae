# shellcheck shell=bash
# What the .sbatch files share. Each sources it, in the checkout, and calls run_job or run_script; or begin, launch and
# finish.
#
#   OUT=folder              for the results; each task of an array has a folder of its own in it
#   LAUNCH="mpirun -n 4"    what starts the ranks, in place of srun, and what they run in, as "srun environment/enter"
#
# README.md says how a job survives its time limit.

say() { printf 'relax: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

export OMP_NUM_THREADS=1
read -r -a launcher <<<"${LAUNCH:-srun}"
command -v "${launcher[0]}" >/dev/null || die "there is no command ${launcher[0]}, which is to start the ranks:" \
    "submit with sbatch, or name another launcher, such as LAUNCH=\"mpirun -n 4\""

# Slurm's signal before the time limit comes here (--signal=B:...): without the B it would reach steps of the job alone,
# which the ranks of mpirun are not. srun and mpirun pass on to their ranks what they get.
child='' asked='' heard=''
pass_on() {
    heard=1
    [ "$1" = TERM ] || asked=1
    [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null || true
}
trap 'pass_on USR1' USR1
trap 'pass_on TERM' TERM INT         # what runs in the background does not hear Ctrl-C

# begin NAME LANDMARK ARGUMENT...: sets `out`, the same after a requeue, and `arguments` for the program, in which %a is the
# number of the task in its array, as in the names of Slurm's logs. A new file whose path ends with LANDMARK is progress.
begin() {
    local each
    base=${OUT:-results/$1-${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-local}}}
    out=$base${SLURM_ARRAY_TASK_ID:+/$SLURM_ARRAY_TASK_ID}
    landmark=$2
    before=$(done_so_far)
    arguments=()
    for each in "${@:3}"; do
        arguments+=("${each//%a/${SLURM_ARRAY_TASK_ID-%a}}")
        case $each in
            --output | --output=* | --resume | --overwrite)
                die "$each: OUT=folder names the folder of the results; what is unfinished there is gone on with" ;;
        esac
    done
}

# Files that another step, or another finished run, adds to.
done_so_far() { [ ! -d "$out" ] || find "$out" -path "*/$landmark" | sort; }

# launch COMMAND...: has the launcher start it where there is a command `relax`, whose Python a script takes. Sets `status`.
# It is the ranks that look for the command: they may be in a container, and srun would try to execute the folder `relax` of
# the checkout. When one fails launchers end the others: those that say nothing wait for the one that speaks.
launch() {
    status=75
    [ -z "$asked" ] || return 0
    "${launcher[@]}" sh -c 'command -v relax >/dev/null && exec "$@"
        [ "${PMIX_RANK:-${PMI_RANK:-${SLURM_PROCID:-0}}}" = 0 ] || { sleep 2; exit 127; }
        echo "relax: there is no command relax here: put it on the PATH in the .sbatch file (module load, or activate a" \
            "virtual environment), or let LAUNCH end with environment/enter" >&2
        exit 127' sh "$@" &
    child=$!
    # The signal may have come before there was a process to pass it on to.
    [ -z "$asked" ] || kill -s USR1 "$child" 2>/dev/null || true
    heard=1
    while [ -n "$heard" ]; do        # a signal ends `wait`, too
        heard=''
        status=0
        wait "$child" || status=$?
    done
    child=''
    # SIGUSR1 came before Python had begun to listen for it.
    [ "$status" != $((128 + $(kill -l USR1))) ] || status=75
}

# finish: exits with `status`. When that is 75 it has Slurm begin the job again; but not for ever.
finish() {
    [ "$status" = 75 ] || exit "$status"
    local id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
    id=${id:-${SLURM_JOB_ID-}}
    if [ -z "$id" ]; then
        say "started again with OUT=$base, it goes on"
    elif [ "${SLURM_RESTART_COUNT:-0}" != 0 ] && [ "$before" = "$(done_so_far)" ]; then
        say "not requeued, for since the last time nothing was done: submitted with a longer --time and OUT=$base, it goes on"
    elif scontrol requeue "$id"; then
        say "job $id is requeued, and goes on in $out"
    else
        say "job $id could not be requeued: submitted again with OUT=$base, it goes on"
    fi
    exit 75
}

# run_job NAME ARGUMENT...: mpi_jobs/NAME.toml, from where it was left; exits.
run_job() {
    begin "$1" 'checkpoint/*' "${@:2}"
    local again=''
    [ ! -d "$out/unfinished" ] || again=--resume
    launch relax run "mpi_jobs/$1.toml" --output "$out" $again "${arguments[@]}"
    finish
}

# run_script NAME ARGUMENT...: mpi_jobs/NAME.py, which by its relax.Checkpoint goes on from where it was left; exits.
run_script() {
    begin "$1" 'checkpoint/*' "${@:2}"
    launch python3 "mpi_jobs/$1.py" --output "$out" "${arguments[@]}"
    finish
}
