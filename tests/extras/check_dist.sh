#!/usr/bin/env bash
# The distributions as a user gets them: what is in them, and the wheel in empty environments.
#   every Python    wheel[runtime]: an exported folder runs by command and in a program, without torch
#   FULL=1          wheel[all] too: a tiny model is compressed, exported, checked and run (gigabytes, where the
#                   registry's torch for that Python brings CUDA)
# Usage: check_dist.sh PYTHON_WITH_EXPORT DIST PYTHON...    a PYTHON that is not there is said to be left out
set -euo pipefail
cd "$(dirname "$0")/../.."
full=$(realpath "$(dirname "$1")")/$(basename "$1")
dist=$(realpath "$2")
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. tests/extras/common.sh
wheel=$(echo "$dist"/*.whl)
[ -f "$wheel" ] || fail "$dist must hold one wheel"

"$full" tests/extras/check_contents.py "$dist"
smoke=$PWD/tests/extras/smoke.py
"$full" "$smoke" "$work/smoke" >/dev/null
for python in "$@"; do
  if ! said=$("$python" --version 2>/dev/null); then
    echo "$python: not on this machine, left out"
    continue
  fi
  empty "$python" "$python"
  install "$python" "$wheel[runtime]"
  runs_without_torch "$python" "$work/smoke/onnx"
  echo "$said: wheel[runtime] runs an exported folder without torch: ok"
  if [ -n "${FULL:-}" ]; then
    install "$python" "$wheel[all]"
    in_env "$python" python "$smoke" "$work/smoke-$python" || fail "$said: wheel[all]"
    echo "$said: wheel[all] compresses, exports, checks and runs: ok"
  fi
done
