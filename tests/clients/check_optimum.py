"""Open folders of several forms with optimum and with sentence-transformers on it; losparse is not there.

python tests/clients/check_optimum.py OUT
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from optimum.onnxruntime import ORTModelForFeatureExtraction
from sentence_transformers import SentenceTransformer

# The same file in the same onnxruntime, with other threads; numbers of magnitude 1, vectors of length 1. Of weights
# of 8 or 4 bits onnxruntime rounds the inputs of their products to int8, and some to another step.
EXACT, ROUNDED = 1e-5, 0.1
FILES = {
    "fp32": "model.onnx",
    "int8": "model_quantized.onnx",
    "fp16": "model_fp16.onnx",
    "int8-weights": "model_int8_weights.onnx",
    "int4-weights": "model_q4.onnx",
}
CPU = {"provider": "CPUExecutionProvider"}


def differences(out: Path, name: str, form: str, texts: list[str]) -> dict[str, float]:
    """Return how far both clients are from our runtime."""
    saved, place = np.load(out / f"{name}-{form}.npz"), {"file_name": FILES[form]}
    inside: dict[str, Any] = {"subfolder": "onnx"} if name == "transformers-js" else {}
    model = ORTModelForFeatureExtraction.from_pretrained(out / name, **place, **inside, **CPU)
    feeds = {key.removeprefix("feed:"): saved[key] for key in saved.files if key.startswith("feed:")}
    hidden = np.asarray(model(**feeds)["last_hidden_state"])
    # It looks in the folder `onnx` by itself.
    encoder = SentenceTransformer(str(out / name), backend="onnx", model_kwargs={**place, **CPU}, local_files_only=True)
    vectors = encoder.encode(texts, batch_size=1)
    return {
        "optimum": float(np.abs(hidden - saved["hidden"]).max()),
        "sentence-transformers": float(np.abs(vectors - saved["vectors"]).max()),
    }


def main() -> int:
    """Compare every form of every folder; returns 1 when one differs."""
    out, failed = Path(sys.argv[1]), 0
    texts = json.loads((out / "texts.json").read_text())
    for name in ("variants", "transformers-js"):
        for form in FILES:
            if not (out / f"{name}-{form}.npz").is_file():
                continue
            for client, difference in differences(out, name, form, texts).items():
                passed = difference <= (ROUNDED if form.endswith("-weights") else EXACT)  # NaN compares false
                failed += not passed
                print(f"{client}, {name}, {form}: {difference:.1e}: {'ok' if passed else 'FAILED'}")
    print(", ".join(f"{package} {version(package)}" for package in ("optimum-onnx", "sentence-transformers")))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
