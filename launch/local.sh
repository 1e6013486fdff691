#!/usr/bin/env bash
# A run on this machine: on all its GPUs, or on several virtual CPU devices, or as several processes.
#
#   launch/local.sh [--devices=N | --processes=N] [--dry-run] ARGUMENTS OF nc_jax.main
#
#   --devices=N     one process that sees N CPU devices
#   --processes=N   N processes on the CPU, joined as N hosts would be: a rehearsal. A line of
#                   process I begins with [I]. One that fails ends the others after GRACE seconds.
#   --dry-run       print the commands and run nothing
set -euo pipefail

PYTHON="${PYTHON:-python}"
PORT="${PORT:-12355}" # where the processes meet
GRACE="${GRACE:-30}"

fail() { echo "local.sh: $*" >&2; exit 2; }
count() { if [[ $1 =~ =[1-9][0-9]*$ ]]; then echo "${1#*=}"; else fail "$1, but N must be 1 or more."; fi; }
devices="" processes="" dry_run=no
while (($# > 0)); do
  case $1 in
    --devices=*) devices=$(count "$1") ;;
    --processes=*) processes=$(count "$1") ;;
    --dry-run) dry_run=yes ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"; exit ;;
    *) break ;;
  esac
  shift
done
(($# > 0)) || fail "arguments are missing: --config=FILE --workdir=DIR ... See --help."
[[ -z $devices || -z $processes ]] || fail "--devices and --processes exclude one another."

job=("$PYTHON" -u -m nc_jax.main "$@")
if [[ -n $devices ]]; then
  flags="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices"
  job=(env JAX_PLATFORMS=cpu "XLA_FLAGS=$flags" "${job[@]}")
fi
say() { printf '%q' "$1"; printf ' %q' "${@:2}"; echo; }
if [[ -z $processes ]]; then
  if [[ $dry_run == yes ]]; then say "${job[@]}"; exit; else exec "${job[@]}"; fi
fi

pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM HUP # they save and end
for ((i = 0; i < processes; i++)); do
  member=(env JAX_PLATFORMS=cpu "${job[@]}" "--coordinator=127.0.0.1:$PORT" "--num_processes=$processes" "--process_id=$i")
  if [[ $dry_run == yes ]]; then say "${member[@]}"; continue; fi
  # What the terminal tells the whole group must end neither them, before they have saved, nor sed.
  (trap '' INT HUP; exec "${member[@]}") > >(trap '' INT HUP; exec sed -u "s/^/[$i] /") 2>&1 &
  pids+=($!)
done
status=0 # of the first that failed
while ((${#pids[@]} > 0)); do
  sleep 0.2 || true # Ctrl-C ends it
  left=()
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then left+=("$pid"); continue; fi
    code=0
    wait "$pid" || code=$?
    if ((status == 0 && code != 0)); then status=$code SECONDS=0; fi
  done
  pids=("${left[@]}")
  # Without the one that failed the others would wait for ever.
  if ((status != 0 && SECONDS >= GRACE)); then kill -KILL "${pids[@]}" 2>/dev/null || true; fi
done
exit "$status"
