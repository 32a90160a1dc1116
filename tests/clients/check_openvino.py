"""Read our folders with OpenVINO and compare; losparse is not there.

python tests/clients/check_openvino.py OUT              OpenVINO itself
python tests/clients/check_openvino.py OUT --provider   as a provider of onnxruntime (onnxruntime-openvino)
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from blocks import run_block

# Hidden numbers are of magnitude 1. fp32: sums in another order. fp16: weights and sums of half precision. int8: scales
# are made of the numbers of a run, by the same operators. Weights of 8 and 4 bits: onnxruntime's MatMulNBits rounds the
# inputs of a product to int8 too (accuracy_level 4), which OpenVINO does not.
TOLERANCE = {
    "fp32": 1e-4,
    "fp32-opset-18": 1e-4,
    "fp16": 1e-2,
    "int8": 1e-3,
    "int8-opset-18": 1e-3,
    "variants-fp32": 1e-4,
    "variants-int8": 1e-3,
    "variants-int8-weights": 0.1,
    "variants-int4-weights": 0.1,
}
FILES = {
    "variants-int8": "model_quantized.onnx",
    "variants-int8-weights": "model_int8_weights.onnx",
    "variants-int4-weights": "model_q4.onnx",
}
# The provider's wheel is of an OpenVINO that does not know ONNX's Attention, an operator of set 23.
BY_PROVIDER = ("fp32-opset-18", "int8-opset-18")


def run_openvino(folder: Path, file: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Run a model in OpenVINO, whose import would tell its makers of it over the network."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    return np.asarray(run_block("openvino", folder, file, feeds=feeds)["hidden"])


def run_provider(folder: Path, file: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Run a model in onnxruntime on OpenVINO."""
    import onnxruntime

    wanted = "OpenVINOExecutionProvider"
    session = onnxruntime.InferenceSession(str(folder / file), providers=[(wanted, {"device_type": "CPU"})])
    assert session.get_providers()[0] == wanted
    return np.asarray(session.run(["last_hidden_state"], feeds)[0])


def main() -> int:
    """Compare every folder; returns 1 when one differs."""
    out, provider = Path(sys.argv[1]), "--provider" in sys.argv
    failed = 0
    for name in BY_PROVIDER if provider else TOLERANCE:
        saved = np.load(out / f"{name}.npz")
        feeds = {key.removeprefix("feed:"): saved[key] for key in saved.files if key.startswith("feed:")}
        found = (run_provider if provider else run_openvino)(
            out / ("variants" if name.startswith("variants") else name), FILES.get(name, "model.onnx"), feeds
        )
        difference = float(np.abs(found - saved["hidden"]).max())
        passed = difference <= TOLERANCE[name]  # NaN compares false
        failed += not passed
        print(f"OpenVINO, {name}: max difference {difference:.1e}: {'ok' if passed else 'FAILED'}")
    package = "onnxruntime-openvino" if provider else "openvino"
    print(f"{package} {version(package)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
