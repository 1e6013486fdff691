#!/usr/bin/env bash
# The run on one TPU worker, apart from the ssh that starts it; called by tpu_vm.sh.
#
#   launch/tpu_job.sh [--dry-run] start ARGUMENTS   python -m nc_jax.main ARGUMENTS --distributed
#   launch/tpu_job.sh status                        running, its exit status, or none
#   launch/tpu_job.sh stop                          SIGTERM: it saves and ends
#
# job.log is its output, job.pid the process, job.status its exit status; it holds job.lock.
set -euo pipefail

PYTHON="${PYTHON:-.venv/bin/python}"

verb=${1:-}
dry_run=no
if [[ $verb == --dry-run ]]; then
  dry_run=yes verb=${2:-}
  shift
fi
shift $(($# < 1 ? $# : 1))
if [[ $verb == -h || $verb == --help ]]; then sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"; exit; fi

cd "$(dirname "$0")/.."
running() { ! flock --nonblock job.lock true; }
case $verb in
  start)
    # A lock, unlike a file with a process id, ends with the process and with the machine.
    keep='"$@" & echo $! >job.pid; wait $!; echo $? >job.status'
    job=(flock --nonblock job.lock bash -c "$keep" job "$PYTHON" -u -m nc_jax.main "$@" --distributed)
    if [[ $dry_run == yes ]]; then printf '%q ' nohup "${job[@]}"; echo; exit; fi
    if running; then echo "tpu_job.sh: a run is going on here already." >&2; exit 1; fi
    rm -f job.status
    nohup "${job[@]}" </dev/null >>job.log 2>&1 & ;;
  status) if running; then echo running; else cat job.status 2>/dev/null || echo none; fi ;;
  stop) if running; then kill -TERM "$(<job.pid)"; fi ;;
  *) echo "tpu_job.sh: choose start, status or stop. See --help." >&2; exit 2 ;;
esac
