#!/usr/bin/env bash
# A run on preemptible TPUs from beginning to end: queues a VM, sets it up and starts the run; does
# so again whenever the VM was preempted. The same command resumes from the checkpoints.
#
#   ZONE=... TPU_TYPE=... SPOT=yes BUCKET=... launch/tpu_supervise.sh [--dry-run] NAME ARGUMENTS
#
# ARGUMENTS are those of nc_jax.main; the workdir must outlive the VM, as bucket/... does. Settings
# are those of tpu_vm.sh. Ctrl-C leaves VM and run as they are, and the same command watches on.
# When the run has ended its exit status is ours, and the VM is still there: tpu_vm.sh delete NAME.
set -euo pipefail

POLL="${POLL:-60}" # seconds between two looks
TRIES="${TRIES:-5}" # failures of commands before it gives up, unless the run went on between

dry_run=""
case ${1:-} in
  --dry-run) dry_run=--dry-run; shift ;;
  -h | --help) sed -n '2,/^$/{/^set/d;s/^# \{0,1\}//;p;}; /^POLL=/,/^TRIES=/p' "$0"; exit ;;
esac
(($# > 1)) || { echo "tpu_supervise.sh: choose NAME and ARGUMENTS. See --help." >&2; exit 2; }
name=$1
shift

vm() { "$(dirname "$0")/tpu_vm.sh" ${dry_run:+"$dry_run"} "$1" "$name" "${@:2}"; }
note() { echo "$(date +%T) $name: $*" >&2; }
failures=0
try() {
  if vm "$@"; then return; fi
  ((++failures < TRIES)) || { note "gave up after $TRIES failures, the last of: $1"; exit 1; }
  return 1
}

if [[ -n $dry_run ]]; then # in this order, though it asks before each what is needed
  vm state && vm queue && vm setup && vm run "$@" && vm job && vm delete
  exit
fi
(dry_run=--dry-run vm queue >/dev/null) # complains of settings that are wrong
ours=no # whether this run was started on the present VM
while true; do
  state=$(vm state)
  case $state in
    READY)
      job=$(vm job 2>/dev/null) || job=unknown
      job=${job##*$'\n'}
      case $ours,$job in
        *,running) ours=yes failures=0 ;;
        yes,0) note "finished"; exit ;;
        yes,unknown) ;; # the VM may be on its way out
        no,* | yes,none | yes,143) # a VM new to us, a reboot, a run stopped by SIGTERM
          note "setting up and starting"
          if try setup && try run "$@"; then ours=yes; fi ;;
        *) # where a slice is being preempted, some workers fail before the state tells
          sleep "$POLL"
          if [[ $(vm state) == READY ]]; then note "the run failed, see its log"; exit "$job"; fi ;;
      esac ;;
    PREEMPTED | TERMINATED | STOPPED | SUSPENDED | FAILED) # it never comes back
      note "$state: making another"
      ours=no failures=0
      if try delete && try queue; then :; fi ;;
    NONE) note "queueing"; ours=no; if try queue; then :; fi ;;
  esac
  sleep "$POLL"
done
