"""Open a model repository with an onnxruntime that an image of Triton brings, and as Triton's backend opens it.

    python tests/triton/check_repository.py CLIENTS REPOSITORY

The backend leaves onnxruntime's optimizers all on, where `optimization` says nothing, and takes the threads and the
way of execution from `parameters`. Numbers must be those of our own runtime.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime

# Sums in another order, of another release; hidden numbers are of magnitude 1. int8 may round to the next step, which
# is a hundredth of that; fp16 has eleven bits.
TOLERANCE = {"fp32": 1e-5, "fp32-opset-18": 1e-5, "fp16": 5e-3, "int8": 1e-3, "int4": 1e-3}
PLACES = {"int4": "variants-int4-weights"}
OLD = (1, 25)
"""Below it onnxruntime multiplies int8 wrongly on CPUs with AMX."""


def open_as_triton(model: Path) -> onnxruntime.InferenceSession:
    """Open the newest version of a model with the options that its configuration gives."""
    config = (model / "config.pbtxt").read_text(encoding="utf-8")
    parameters = dict(re.findall(r'parameters \{ key: "(\w+)" value \{ string_value: "(\d+)" \} \}', config))
    assert "optimization {" not in config, "the backend would leave optimizers out"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = (
        onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        if parameters["execution_mode"] == "0"
        else onnxruntime.ExecutionMode.ORT_PARALLEL
    )
    options.intra_op_num_threads = int(parameters["intra_op_thread_count"])
    options.inter_op_num_threads = int(parameters["inter_op_thread_count"])
    newest = max(int(path.name) for path in model.iterdir() if path.name.isdigit())
    return onnxruntime.InferenceSession(
        str(model / str(newest) / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )


def difference(session: onnxruntime.InferenceSession, numbers: Path) -> float:
    """Return the largest difference of a model's outputs, of three texts in one run."""
    saved = np.load(numbers)
    feeds = {key.removeprefix("feed:"): saved[key] for key in saved.files if key.startswith("feed:")}
    (found,) = session.run(["last_hidden_state"], feeds)
    return float(np.abs(found - saved["hidden"]).max())


def main() -> int:
    """Compare every model; returns 1 when one differs."""
    clients, repository = map(Path, sys.argv[1:3])
    version = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
    failed = 0
    for name, tolerance in TOLERANCE.items():
        found = difference(open_as_triton(repository / name), clients / f"{PLACES.get(name, name)}.npz")
        passed = found <= tolerance  # NaN compares false
        excused = name == "int8" and version < OLD
        failed += not (passed or excused)
        said = "ok" if passed else "the fault of AMX, as config.pbtxt says" if excused else "FAILED"
        print(f"{name}: max difference {found:.1e}: {said}")
    print(f"onnxruntime {onnxruntime.__version__}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
