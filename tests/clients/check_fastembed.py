"""Open our folders with fastembed, as a user adds a model of their own, and compare vectors; losparse is not there.

python tests/clients/check_fastembed.py OUT
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from blocks import run_block
from fastembed.text.custom_text_embedding import CustomTextEmbedding

# The same file, in another release of onnxruntime than made the vectors; of length 1.
TOLERANCE = {"fp32": 1e-6, "fp32-opset-18": 1e-6, "int8": 1e-6, "fp16": 1e-3, "variants-int8": 1e-6}
PLACES = {"variants-int8": ("variants", "model_quantized.onnx")}


@contextmanager
def registered_anew() -> Iterator[None]:
    """Forget what a block registers, so that the next may use the same name."""
    try:
        yield
    finally:
        CustomTextEmbedding.SUPPORTED_MODELS.clear()


def main() -> int:
    """Compare every folder; returns 1 when one differs."""
    out = Path(sys.argv[1])
    texts = json.loads((out / "texts.json").read_text())
    failed = 0
    for name, tolerance in TOLERANCE.items():
        wanted = np.load(out / f"{name}.npz")["vectors"]
        with registered_anew():
            folder, file = PLACES.get(name, (name, "model.onnx"))
            found = np.stack(run_block("fastembed", out / folder, file, texts=texts)["vectors"])
        difference = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else float("inf")
        passed = difference <= tolerance  # NaN compares false
        failed += not passed
        print(f"fastembed, {name}: {found.shape}, max difference {difference:.1e}: {'ok' if passed else 'FAILED'}")
    print(", ".join(f"{package} {version(package)}" for package in ("fastembed", "onnxruntime")))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
