"""Open our exports with sentence-transformers' own ONNX backend: runs where that and optimum are, and losparse is not.

    python tests/sentence_transformers/check_onnx_backend.py OUT

The latest sentence-transformers needs transformers 5, for which no release of optimum has an onnxruntime backend; what
runs here is the newest that goes with optimum-onnx 0.1.0.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parent.parent / "clients"))
from blocks import run_block
from cases import CASES, CROSS_ENCODERS, QUERY, TEXTS
from sentence_transformers import CrossEncoder, SentenceTransformer

# The same graph in the same onnxruntime: only the number of threads may differ, and with it the order of sums.
TOLERANCE = 1e-5
BLOCK = "newer"  # the case whose folder the block of docs/clients.md opens
OPTIONS = {"file_name": "model.onnx", "provider": "CPUExecutionProvider"}


def main() -> int:
    """Compare every call of every case, and every ranking; returns 1 when one differs."""
    out = Path(sys.argv[1])
    failed = calls = 0
    for case in CASES:
        model = SentenceTransformer(
            str(out / "onnx" / case.name), backend="onnx", model_kwargs=dict(OPTIONS), local_files_only=True
        )
        if case.name == BLOCK:
            vectors = run_block("sentence_transformers", out / "onnx" / case.name, texts=TEXTS)["vectors"]
            failed += not np.array_equal(vectors, model.encode(TEXTS))
        for call, found in zip(case.calls, np.load(out / f"{case.name}.npz").values(), strict=True):
            wanted = model.encode(TEXTS, batch_size=4, **call)
            same = found.shape == wanted.shape
            difference = float((np.abs(found - wanted) / max(1, np.abs(wanted).max())).max()) if same else float("inf")
            passed = difference <= TOLERANCE  # NaN compares false
            failed, calls = failed + (not passed), calls + 1
            if not passed:
                print(f"{case.name} {call or ''}: {wanted.shape}, {difference:.1e}: FAILED")
    for name in CROSS_ENCODERS:
        model = CrossEncoder(
            str(out / "onnx" / name), backend="onnx", model_kwargs=dict(OPTIONS), local_files_only=True
        )
        wanted = model.rank(QUERY, TEXTS, batch_size=4)
        places, scores = np.load(out / f"{name}.npz").values()
        same = [each["corpus_id"] for each in wanted] == places.tolist()
        difference = float(np.abs(scores - [float(each["score"]) for each in wanted]).max())
        passed = same and difference <= TOLERANCE
        failed += not passed
        if not passed:
            print(f"{name}: {difference:.1e}: FAILED")
    print(f"ONNX backend: {calls} calls of {len(CASES)} folders, {len(CROSS_ENCODERS)} rankings, {failed} failed")
    print(", ".join(f"{name} {version(name)}" for name in ("sentence-transformers", "optimum-onnx", "transformers")))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
