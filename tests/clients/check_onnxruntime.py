"""Run our folders of operator set 18 in onnxruntime 1.22, which text-embeddings-inference brings, without losparse.

    python tests/clients/check_onnxruntime.py OUT

onnxruntime below 1.25 makes wrong products of int8 on CPUs with AMX, of 32 rows (texts times tokens) or more and a
width that is no multiple of 16, which is what compressed layers have: nothing in a model file can mend that. So int8 is
compared on fewer rows, and the fault is looked for.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from blocks import run_block

# Sums in another order, of another release; hidden numbers are of magnitude 1. int8 may round to the next step.
FP32, INT8 = 1e-5, 1e-3
NEWER = "fp32"


def difference(out: Path, name: str, *, alone: bool = False) -> float:
    """Return the largest difference of a folder's outputs, of three texts in one run or of one text."""
    saved, kind = np.load(out / f"{name}.npz"), "alone:" if alone else "feed:"
    feeds = {key.removeprefix(kind): saved[key] for key in saved.files if key.startswith(kind)}
    found = run_block("onnxruntime", out / name, feeds=feeds)["hidden"]
    return float(np.abs(found - saved["hidden_alone" if alone else "hidden"]).max())


def main() -> int:
    """Compare the folders; returns 1 when one differs."""
    out = Path(sys.argv[1])
    failed = 0
    for name, alone, tolerance in (
        ("fp32-opset-18", False, FP32),
        ("fp32-opset-18", True, FP32),
        ("int8-opset-18", True, INT8),
    ):
        found = difference(out, name, alone=alone)
        failed += not found <= tolerance  # NaN compares false
        texts = "one text" if alone else "three texts"
        print(f"{name}, {texts}: max difference {found:.1e}: {'ok' if found <= tolerance else 'FAILED'}")
    many = difference(out, "int8-opset-18")
    print(f"int8-opset-18, three texts: max difference {many:.1e}" + (" (the fault of AMX)" if many > INT8 else ""))
    try:
        onnxruntime.InferenceSession(str(out / NEWER / "model.onnx"), providers=["CPUExecutionProvider"])
        print("operator set 23 opens too, so 18 is not needed here")
    except Exception as error:  # onnxruntime's own errors have no common base below Exception
        print(f"operator set 23 does not open, as said: {' '.join(str(error).split())[-120:]}")
    print(f"onnxruntime {onnxruntime.__version__}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
