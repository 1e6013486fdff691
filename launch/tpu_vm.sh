#!/usr/bin/env bash
# A Cloud TPU VM from creation to deletion: one host, or a slice of many.
#
#   [ZONE=... TPU_TYPE=...] launch/tpu_vm.sh [--dry-run] VERB NAME [ARGUMENTS]
#
#   create NAME               ask for a TPU VM now; fails where none is free
#   queue NAME                ask for one through Google's queue
#   setup NAME                copy this repository to every worker and install it there
#   run NAME ARGUMENTS        start `python -m nc_jax.main ARGUMENTS` on every worker, and return
#   state NAME                the VM's state, or its request's, or NONE
#   job NAME                  what worker 0 says of the run: running, its exit status, or none
#   logs NAME                 follow the log of a worker
#   stop NAME                 let the run save and end
#   fetch NAME FROM [TO]      copy a file or folder from worker 0
#   delete NAME               delete the VM, and its request in the queue
#
# --dry-run prints the commands and runs nothing. Paths of `run` and `fetch` are those of ~/nc_jax on
# the workers. tpu_supervise.sh does it all, again after every preemption. Settings, as variables:
set -euo pipefail

ZONE="${ZONE:-}"          # such as europe-west4-b
TPU_TYPE="${TPU_TYPE:-}"  # the accelerator type, such as v5litepod-8 or v6e-16
RUNTIME="${RUNTIME:-}"    # the VM's software; chosen by the type unless given
SPOT="${SPOT:-no}"        # yes: cheaper, and may be preempted at any time
BUCKET="${BUCKET:-}"      # a Cloud Storage bucket that `setup` mounts on every worker, as bucket
WORKER="${WORKER:-0}"     # whose log `logs` follows

root=$(cd "$(dirname "$0")/.." && pwd)

fail() { echo "tpu_vm.sh: $*" >&2; exit 2; }
call() { if [[ $dry_run == yes ]]; then printf '%q' "$1"; printf ' %q' "${@:2}"; echo; else "$@"; fi; }
tpu() { call gcloud compute tpus "$@" --zone="$ZONE"; }
on() { tpu tpu-vm ssh "$name" --worker="$1" --command="$2"; }

create() { tpu tpu-vm create "$name" --version="$RUNTIME" "${request[@]}"; }
queue() { tpu queued-resources create "$name" --node-id="$name" --runtime-version="$RUNTIME" "${request[@]}"; }
setup() {
  on all "mkdir -p nc_jax"
  tpu tpu-vm scp --recurse "$root"/{setup.py,pyproject.toml,LICENSE,nc_jax,configs,launch} \
    "$name:nc_jax/" --worker=all
  on all "BUCKET=$(printf '%q' "$BUCKET") bash nc_jax/launch/tpu_setup.sh"
}
run() { on all "bash nc_jax/launch/tpu_job.sh start$(printf ' %q' "$@")"; }
state() { look tpu-vm state || look queued-resources state.state || echo NONE; }
job() { on 0 "bash nc_jax/launch/tpu_job.sh status"; }
logs() { on "$WORKER" "tail -n 100 -F nc_jax/job.log"; }
stop() { on all "bash nc_jax/launch/tpu_job.sh stop"; }
fetch() { tpu tpu-vm scp --recurse "$name:nc_jax/$1" "${2:-.}" --worker=0; }
delete() {
  if look queued-resources state.state; then tpu queued-resources delete "$name" --force --quiet; fi
  if look tpu-vm state; then tpu tpu-vm delete "$name" --quiet; fi
}

# look KIND FIELD: what gcloud says of it. Fails only where there is no such thing.
look() {
  local complaint
  { complaint=$(tpu "$1" describe "$name" --format="value($2)" 2>&1 >&3); } 3>&1 && return
  if [[ $complaint == *NOT_FOUND* || $complaint == *"was not found"* ]]; then return 1; fi
  echo "$complaint" >&2
  echo UNKNOWN
}

dry_run=no
for argument; do # wherever it stands
  shift
  if [[ $argument == --dry-run ]]; then dry_run=yes; else set -- "$@" "$argument"; fi
done
verb=${1:-} name=${2:-}
shift $(($# < 2 ? $# : 2))
case $verb in
  -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}; /^ZONE=/,/^WORKER=/p' "$0"; exit ;;
  create | queue | setup | run | state | job | logs | stop | fetch | delete) ;;
  *) fail "${verb:+unknown verb $verb; }choose create, queue, setup, run, state, job, logs, stop," \
    "fetch or delete. See --help." ;;
esac
[[ -n $name && $name != -* ]] || fail "$verb needs the NAME of a TPU VM. See --help."
[[ -n $ZONE ]] || fail "ZONE is not set, such as ZONE=europe-west4-b."
[[ $SPOT == yes || $SPOT == no ]] || fail "SPOT=$SPOT, but must be yes or no."
case $verb in
  create | queue) [[ -n $TPU_TYPE ]] || fail "TPU_TYPE is not set, such as v5litepod-8." ;;
esac
case $verb,$# in
  run,0) fail "$verb $name needs arguments: --config=FILE --workdir=DIR ..." ;;
  fetch,0) fail "fetch $name needs a path on the worker, such as bucket/digits." ;;
  run,* | fetch,[12]) ;;
  *,0) ;;
  *) fail "$verb does not take '$1'." ;;
esac
case $TPU_TYPE in
  v6e*) image=v2-alpha-tpuv6e ;;
  v5p*) image=v2-alpha-tpuv5 ;;
  v5lite*) image=v2-alpha-tpuv5-lite ;;
  *) image=tpu-ubuntu2204-base ;;
esac
RUNTIME="${RUNTIME:-$image}"
request=(--accelerator-type="$TPU_TYPE")
if [[ $SPOT == yes ]]; then request+=(--spot); fi
"$verb" "$@"
