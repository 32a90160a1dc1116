#!/usr/bin/env bash
# What the extras bring, each in a clean environment:
#   [runtime]  onnxruntime, no torch; `losparse run` works on an exported folder
#   [gpu]      onnxruntime-gpu in place of onnxruntime; runs on the CPU provider, refuses CUDA where there is none
#   both       what the runtime says where onnxruntime came beside onnxruntime-gpu, and where one of the two went again
# Usage: check_extras.sh PYTHON_WITH_EXPORT
set -euo pipefail
cd "$(dirname "$0")/../.."
full=$(realpath "$(dirname "$1")")/$(basename "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. tests/extras/common.sh
"$full" - "$work/onnx" <<'PY'
import sys
from losparse.demo.model import find_minilm
from losparse_export import export_model
export_model(find_minilm(), sys.argv[1], task="feature-extraction")
PY

for extra in runtime gpu; do
  empty "$extra" "${PYTHON:-python3.11}"
  install "$extra" ".[$extra]"
  runs_without_torch "$extra" "$work/onnx"
  echo "[$extra] runs an exported folder without torch: ok"
done
has runtime onnxruntime || fail "[runtime] lacks onnxruntime"
has gpu onnxruntime-gpu || fail "[gpu] lacks onnxruntime-gpu"
has gpu onnxruntime && fail "[gpu] brings onnxruntime beside onnxruntime-gpu"
echo "[gpu] brings onnxruntime-gpu without onnxruntime: ok"

if command -v nvidia-smi >/dev/null 2>&1; then
  echo "CUDA refusal not checked: this machine has an NVIDIA driver"
  exit 0
fi
cat >"$work/cuda.py" <<'PY'
import sys
from losparse_runtime import Session
from losparse_runtime.errors import LosparseRuntimeError
try:
    Session(sys.argv[1], providers=["CUDAExecutionProvider"])
except LosparseRuntimeError as error:
    print("CUDA refused:", error)
else:
    sys.exit("FAILED: CUDA was not refused")
PY
refused() { (cd "$work" && "$work/gpu/bin/python" cuda.py "$work/onnx") | tee "$work/said"; grep -q "$1" "$work/said" || fail "not said: $1"; }

refused "install the NVIDIA driver, and CUDA and cuDNN"
"$work/gpu/bin/python" -m pip install --quiet -c constraints.txt onnxruntime
refused "onnxruntime and onnxruntime-gpu are both installed"
"$work/gpu/bin/python" -m pip uninstall --quiet --yes onnxruntime
refused "onnxruntime is there in parts only"
