#!/bin/bash
# usage: environment/enter mpi_jobs/test_slurm.sh
#
# Starts a Slurm of one node for as long as this runs, submits every .sbatch file to it with two ranks, and looks at what
# becomes of time limits, signals, requeues, arrays, launchers and a missing `relax`; five to ten minutes. Slurm is the one on
# the PATH, else Debian's, which is unpacked into the cache once (10 MB); nothing of the system is touched, and no root needed.
#
# Exit status: 0 all is well, 1 something is not (what it was is in a folder that is named), 2 Slurm does not start here.

set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '[%4d s] %s\n' "$SECONDS" "$*" >&2; }
die() { local status=$1; shift; say "$*"; exit "$status"; }

# All that is started lives in a process namespace of its own and ends with it, whatever happens to this script.
if [ "${1-}" != --inside ]; then
    own=(--pid --fork --kill-child --mount-proc)
    [ "$(id -u)" = 0 ] || own=(--user --map-current-user "${own[@]}")
    exec unshare "${own[@]}" "$0" --inside
fi

command -v relax >/dev/null || die 2 "there is no command relax here: start this with environment/enter"
state=$(mktemp -d "${TMPDIR:-/tmp}/relax-slurm-XXXXXX")
ended() {
    local status=$?
    if [ "$status" = 0 ]; then rm -rf "$state"; else say "logs and results are in $state"; fi
}
trap ended EXIT
trap 'exit 1' TERM INT HUP

# -- Slurm --------------------------------------------------------------------------------------------------------------

# Debian's packages, unpacked and not installed. apt works in folders of its own.
debian_slurm() {
    local apt=$1.apt options deb
    mkdir -p "$apt"/{lists,archives}/partial
    options=(
        -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt" -o Dir::Cache::Archives="$apt/archives" -o Dir::Log="$apt"
        -o Debug::NoLocking=1 -o APT::Sandbox::User=
    )
    apt-get "${options[@]}" -qq update
    apt-get "${options[@]}" -qq install -y --no-install-recommends --download-only slurmctld slurmd slurm-client munge
    for deb in "$apt"/archives/*.deb; do dpkg -x "$deb" "$1.partial"; done
    # What their installation would set up: daemons know by this name who they are.
    for deb in slurmctld slurmd slurmstepd; do ln -s "$deb-wlm" "$1.partial/usr/sbin/$deb"; done
    mv -T "$1.partial" "$1"
    rm -rf "$apt"
}

PATH=$PATH:/usr/sbin:/sbin
plugins=''
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
    tree=${XDG_CACHE_HOME:-$HOME/.cache}/relax-slurm
    if [ ! -d "$tree" ]; then
        say "unpacking Debian's Slurm into $tree"
        rm -rf "$tree.partial"
        debian_slurm "$tree" >"$state/apt.log" 2>&1 || die 2 "apt-get cannot bring Slurm here: see $state/apt.log"
    fi
    plugins=$(echo "$tree"/usr/lib/*/slurm-wlm)
    export PATH=$tree/usr/bin:$tree/usr/sbin:$PATH LD_LIBRARY_PATH=$plugins:${plugins%/*}
fi

read -r port_1 port_2 < <(python3 -c '
import socket
both = [socket.socket() for _ in range(2)]
for each in both:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in both))')
me=$(id -un) host=$(hostname -s)
export SLURM_CONF=$state/slurm.conf
mkdir "$state"/{controller,node}
cat >"$SLURM_CONF" <<END
ClusterName=relax
SlurmctldHost=$host(127.0.0.1)
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
# More cores than there are is right on a small machine.
SlurmdParameters=config_overrides
SlurmctldPort=$port_1
SlurmdPort=$port_2
SlurmUser=$me
SlurmdUser=$me
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$state/munge.socket
StateSaveLocation=$state/controller
SlurmdSpoolDir=$state/node
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
${plugins:+PluginDir=$plugins}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=pmix
MailProg=/bin/true
ReturnToService=2
END
(umask 077 && head -c 1024 /dev/urandom >"$state/munge.key")
munged --foreground --force --key-file="$state/munge.key" --socket="$state/munge.socket" --pid-file="$state/munged.pid" \
    --log-file="$state/munged.log" --seed-file="$state/munged.seed" &>"$state/munged.out" &
slurmctld -D -i &>"$state/slurmctld.log" &
slurmd -D -N "$host" -d "$(command -v slurmstepd)" &>"$state/slurmd.log" &
for ((i = 0; ; i++)); do
    [ "$(sinfo --noheader --format=%T 2>"$state/sinfo.log" || true)" != idle ] || break
    ((i < 60)) || die 2 "Slurm does not start here: see $state/*.log"
    sleep 0.5
done
say "$(sinfo --version) is up, in $state"
srun --mpi=list 2>&1 | grep -qw pmix || die 2 "this Slurm has no PMIx plugin (Debian unstable's has none), without which srun" \
    "starts no ranks of Open MPI: RELAX_SUITE=trixie"

# -- jobs ---------------------------------------------------------------------------------------------------------------

# Where they are submitted: the checkout, with results and logs of its own.
work=$state/checkout
mkdir "$work"
ln -s "$checkout"/* "$work"
rm "$work/mpi_jobs" && cp -r "$checkout/mpi_jobs" "$work"
rm -rf "$work/results"
cd "$work"

# submit NAME FOLDER [OPTION OF sbatch ...] [-- OPTION OF relax run ...]: prints the number of the job.
submit() {
    local name=$1 options=()
    export OUT=results/$2
    shift 2
    while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
    sbatch --parsable --ntasks=2 "${options[@]}" "mpi_jobs/$name.sbatch" "${@:2}"
}

# lacking COMMAND: the PATH without the folders that have it.
lacking() {
    local folder kept=()
    while read -r -d : folder; do
        [ -x "$folder/$1" ] || kept+=("$folder")
    done <<<"$PATH:"
    (IFS=: && echo "${kept[*]}")
}

about() { scontrol --oneliner show job "$1" | grep -o "\\b$2=[^ ]*" | head -n 1 | cut -d= -f2; }

# within SECONDS COMMAND...: whether it comes true.
within() {
    local end=$((SECONDS + $1))
    until "${@:2}"; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

failures=0
check() {
    if "${@:2}"; then
        say "ok      $1"
    else
        say "FAILED  $1"
        failures=$((failures + 1))
    fi
}

ended_with() { within 240 has_ended "$1" && [ "$(about "$1" ExitCode)" = "$2:0" ]; }
has_ended() {
    case $(about "$1" JobState) in
        PENDING | RUNNING | CONFIGURING | COMPLETING | REQUEUED | SUSPENDED) return 1 ;;
    esac
}
is_done() { ended_with "$1" 0 && [ -s "results/$2/summary.json" ] && [ ! -e "results/$2/unfinished" ]; }
log_of() { about "$1" StdOut; }

takes_steps() { compgen -G "results/$1/unfinished/checkpoint/*" >/dev/null; }
restarts() { [ "$(about "$1" Restarts)" = "$2" ]; }
# went_on JOB FOLDER: it was stopped by a signal after a step, requeued, and has gone on from that step to the end.
went_on() {
    within 60 restarts "$1" 1 || return 1
    # A requeued job waits for two minutes; a node that is asked too soon takes it for the one that was just ended.
    sleep 5
    within 30 scontrol update jobid="$1" StartTime=now || return 1
    is_done "$1" "$2" && restarts "$1" 1 && grep -q "stopped: SIGUSR1: the run ends after step" "$(log_of "$1")" \
        && grep -q "is requeued, and goes on" "$(log_of "$1")"
}

# have_signal FOLDER: whether SIGUSR1 waits for each rank that writes there.
have_signal() {
    local rank mask ranks
    ranks=$(pgrep -f "^python3 .*--output results/$1( |\$)") || return 1
    for rank in $ranks; do
        mask=$(sed -n 's/^ShdPnd:[[:space:]]*//p' "/proc/$rank/status")
        (((16#$mask >> 9) & 1)) || return 1
    done
}

say "each file, as it is but for its size"
small=(
    "heat_initial_state --set data.noise=0.1 --set method.atol=1"
    "hj_relaxation --set mesh.n=[32,32] --set pde.num_steps=10 --set descent.starts=4"
    "poisson_inverse"
    "poisson_inverse_3d"
    "poisson_scaling --set mesh.n=64"
    "quantum_control --set pde.num_steps=40 --set method.atol=0.05"
    "relax_misfit --set mesh.n=16 --set misfit.num=12 --set misfit.starts=2"
    "train_closed_loop --n 16 --batch 4 --steps 4"
    "train_half_inverse --n 6 --batch 4 --steps 4"
)
ids=()
for each in "${small[@]}"; do
    read -r -a job <<<"$each"
    ids+=("$(submit "${job[0]}" "${job[0]}" -- "${job[@]:1}")")
done
for i in "${!small[@]}"; do
    name=${small[i]%% *}
    folder=$name
    [ "$name" != poisson_scaling ] || folder=$name/2
    case $name in
        train_*) check "$name" ended_with "${ids[i]}" 0 ;;
        *) check "$name" is_done "${ids[i]}" "$folder" ;;
    esac
done
check "poisson_scaling prints its table" grep -q "speed-up" "$(log_of "${ids[4]}")"

say "what ends otherwise"
id=$(submit poisson_inverse wrong -- --set prior.lenght=1)
check "a wrong key: status 2" ended_with "$id" 2
id=$(PATH=$(lacking relax) submit poisson_inverse missing)
check "no relax: status 127" ended_with "$id" 127
check "no relax: in words" grep -q "relax: there is no command relax here" "$(log_of "$id")"

say "the time limit"
# The ranks are held at a step until Slurm has signalled: it looks every half minute, and here does so 30 to 60 s after
# the start.
id=$(submit poisson_inverse limit --time=2 --signal=B:USR1@60)
check "it takes steps" within 60 takes_steps limit
scancel --signal=STOP "$id" || true
check "Slurm's signal comes to the ranks" within 90 have_signal limit
scancel --signal=CONT "$id" || true
check "it is requeued" within 60 restarts "$id" 1
within 30 scontrol update jobid="$id" TimeLimit=10 || true
check "it goes on" went_on "$id" limit

say "scancel --signal=USR1"
id=$(submit poisson_inverse step)
check "it takes steps" within 60 takes_steps step
scancel --signal=USR1 "$id" || true
check "to the step of srun: it is requeued and goes on" went_on "$id" step

id=$(LAUNCH="mpirun -n 2" submit poisson_inverse shell)
check "it takes steps" within 60 takes_steps shell
scancel --batch --signal=USR1 "$id" || true
check "to the shell, which starts mpirun: it is requeued and goes on" went_on "$id" shell

id=$(submit train_half_inverse script -- --n 24 --steps 60)
check "it takes steps" within 60 test -s results/script/curve.csv
scancel --signal=USR1 "$id" || true
check "a script that trains: it is requeued" within 60 restarts "$id" 1
sleep 5
within 30 scontrol update jobid="$id" StartTime=now || true
check "it goes on to the end" eval 'ended_with "$id" 0 && [ "$(wc -l <results/script/curve.csv)" = 60 ]'

say "an array"
id=$(submit poisson_inverse array --array=3,4 -- --set data.seed=%a)
check "it takes steps" within 60 takes_steps array/3
scancel --batch --signal=USR1 "${id}_3" || true
check "the task that was signalled goes on" went_on "${id}_3" array/3
check "the other is left alone" eval 'is_done "${id}_4" array/4 && restarts "${id}_4" 0'
for seed in 3 4; do
    check "task $seed has its own value" eval 'sed -n "/^\[data\]/,/^\[prior\]/p" "results/array/$seed/job.toml" | grep -q "^seed *= *$seed"'
done

say "launchers"
id=$(LAUNCH="srun $checkout/environment/enter" submit poisson_inverse enter)
check "srun environment/enter" is_done "$id" enter
for launch in "srun environment/enter" "mpirun -n 2"; do
    id=$(LAUNCH=$launch submit poisson_scaling "$launch" -- --set mesh.n=64)
    check "$launch, poisson_scaling" is_done "$id" "$launch/2"
done

if ((failures)); then die 1 "$failures of the checks failed"; fi
say "all is well"
