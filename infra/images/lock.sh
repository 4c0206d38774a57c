#!/usr/bin/env bash
# Writes requirements-cpu.lock and requirements-gpu.lock from pyproject.toml: every package of the images with its hashes.
#   infra/images/lock.sh            both
#   infra/images/lock.sh cpu        one of them
# Needs uv (pip install uv). Versions that a lock file already names are kept where they still fit; UPGRADE=1 takes the newest.
# CPU_WHEELS: page or folder with the CPU build of PyTorch, which the usual index does not have.
set -euo pipefail
cd "$(dirname "$0")/../.."

python_version=3.11
torch_version=2.13.0

lock() {
  local variant="$1" pin="$2"
  shift 2
  local options=()
  [ -n "${UPGRADE:-}" ] && options+=(--upgrade)
  echo "infra/images/requirements-$variant.lock" >&2
  printf '%s\n' "$pin" |
    uv pip compile --quiet --no-config pyproject.toml --constraint - "$@" "${options[@]}" \
      --python-version "$python_version" --python-platform x86_64-manylinux_2_28 \
      --generate-hashes --no-annotate --custom-compile-command "infra/images/lock.sh $variant" \
      --output-file "infra/images/requirements-$variant.lock" >/dev/null
}

for variant in "${@:-cpu gpu}"; do
  for name in $variant; do
    case "$name" in
      cpu) lock cpu "torch==$torch_version+cpu" --find-links "${CPU_WHEELS:?names the page or folder with the CPU build of PyTorch}" ;;
      gpu) lock gpu "torch==$torch_version" ;;
      *) echo "lock.sh: unknown image '$name': choose cpu or gpu" >&2 && exit 2 ;;
    esac
  done
done
