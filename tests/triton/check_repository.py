"""Open a model repository with an onnxruntime that an image of Triton brings, and as Triton's backend opens it.

    python tests/triton/check_repository.py CLIENTS REPOSITORY

The backend leaves onnxruntime's optimizers all on, where `optimization` says nothing, and takes the threads and the
way of execution from `parameters`. Numbers must be those of our own runtime.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

# Sums in another order, of another release; hidden numbers are of magnitude 1. fp16 has eleven bits.
TOLERANCE = {"fp32": 1e-5, "fp32-opset-18": 1e-5, "fp16": 5e-3}
ROUNDED = {"int8": "int8", "int4": "variants-int4-weights"}
"""Forms that round to steps, which another release may take one higher or lower, by the name of their numbers. So they
are judged by their distance from fp32: on average it must be what it is in our runtime, up to a tenth."""
FARTHER = 1.1
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


def hidden(session: onnxruntime.InferenceSession, saved: Any) -> Any:
    """Run the inputs that were saved: three texts at once."""
    feeds = {key.removeprefix("feed:"): saved[key] for key in saved.files if key.startswith("feed:")}
    (found,) = session.run(["last_hidden_state"], feeds)
    return found


def main() -> int:
    """Compare every model; returns 1 when one differs."""
    clients, repository = map(Path, sys.argv[1:3])
    version = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
    failed = 0
    for name, tolerance in TOLERANCE.items():
        saved = np.load(clients / f"{name}.npz")
        found = float(np.abs(hidden(open_as_triton(repository / name), saved) - saved["hidden"]).max())
        failed += not found <= tolerance  # NaN compares false
        print(f"{name}: max difference {found:.1e}: {'ok' if found <= tolerance else 'FAILED'}")
    exact = np.load(clients / "fp32.npz")["hidden"]
    for name, numbers in ROUNDED.items():
        saved = np.load(clients / f"{numbers}.npz")
        ours = float(np.abs(saved["hidden"] - exact).mean())
        theirs = float(np.abs(hidden(open_as_triton(repository / name), saved) - exact).mean())
        passed = theirs <= FARTHER * ours
        excused = name == "int8" and version < OLD
        failed += not (passed or excused)
        said = "ok" if passed else "the fault of AMX, as config.pbtxt says" if excused else "FAILED"
        print(f"{name}: mean distance from fp32 {theirs:.1e}, in our runtime {ours:.1e}: {said}")
    print(f"onnxruntime {onnxruntime.__version__}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
