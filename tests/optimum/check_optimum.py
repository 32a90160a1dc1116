"""Open our ONNX folders with optimum and compare: runs in an environment that has optimum-onnx and not losparse.

python tests/optimum/check_optimum.py OUT
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTModelForSequenceClassification
from transformers import AutoTokenizer

# The same file in the same onnxruntime: only the number of threads may differ, and with it the order of sums.
TOLERANCE = 1e-5


def main() -> int:
    """Compare both folders; returns 1 when one differs."""
    out = Path(sys.argv[1])
    texts = json.loads((out / "texts.json").read_text())
    failed = 0
    for name, kind, output in (
        ("classifier", ORTModelForSequenceClassification, "logits"),
        ("embedder", ORTModelForFeatureExtraction, "last_hidden_state"),
    ):
        folder = out / f"{name}-onnx"
        model = kind.from_pretrained(folder)
        batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="np")
        ours = np.load(out / f"{name}.npy")
        theirs = np.asarray(model(**batch)[output])
        difference = float(np.abs(theirs - ours).max()) if theirs.shape == ours.shape else float("inf")
        passed = difference <= TOLERANCE  # NaN compares false
        failed += not passed
        print(f"{kind.__name__}: {theirs.shape}, max difference {difference:.1e}: {'ok' if passed else 'FAILED'}")
    print(f"optimum-onnx {version('optimum-onnx')}, transformers {version('transformers')}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
