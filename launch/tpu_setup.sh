#!/usr/bin/env bash
# On each TPU worker: what a run needs, unless it is there already; called by tpu_vm.sh setup.
#
#   [BUCKET=...] launch/tpu_setup.sh [--dry-run]
set -euo pipefail

PYTHON_VERSION="${PYTHON_VERSION:-3.12}" # the images' own Python is older than we need
EXTRAS="${EXTRAS:-train,plot,tpu}"
BUCKET="${BUCKET:-}" # mounted as the folder bucket of this repository

dry_run=no
case ${1:-} in
  '') ;;
  --dry-run) dry_run=yes ;;
  -h | --help) sed -n '2,/^$/{/^set/d;s/^# \{0,1\}//;p;}; /^PYTHON_V/,/^BUCKET=/p' "$0"; exit ;;
  *) echo "tpu_setup.sh: unknown argument $1. See --help." >&2; exit 2 ;;
esac
call() { if [[ $dry_run == yes ]]; then printf '%q' "$1"; printf ' %q' "${@:2}"; echo; else "$@"; fi; }

cd "$(dirname "$0")/.."
if [[ ! -x .venv/bin/python ]]; then
  call python3 -m pip install --user --quiet uv # it can fetch a newer Python
  call python3 -m uv venv --python "$PYTHON_VERSION" .venv
fi
call python3 -m uv pip install --quiet --python .venv/bin/python -e ".[$EXTRAS]"

if [[ -n $BUCKET ]] && ! mountpoint -q bucket; then
  if ! command -v gcsfuse >/dev/null; then
    key=/usr/share/keyrings/cloud.google.asc apt=https://packages.cloud.google.com/apt
    call sudo curl -fsSL -o "$key" "$apt/doc/apt-key.gpg"
    source="deb [signed-by=$key] $apt gcsfuse-$(lsb_release -cs) main"
    call sudo sh -c "echo '$source' >/etc/apt/sources.list.d/gcsfuse.list"
    call sudo apt-get -qq -o DPkg::Lock::Timeout=600 update # a new VM may be updating itself
    call sudo apt-get -qq -o DPkg::Lock::Timeout=600 install -y gcsfuse
  fi
  call mkdir -p bucket
  # No cache of names, so that every host sees what another has just written.
  call gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 "$BUCKET" bucket
fi
