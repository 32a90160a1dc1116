"""The trained SST-2 models as ONNX, fp32 and int8: parity over the whole test set, accuracy, latency against dense.

    python benchmarks/sst2_export.py --data SST2_DIR --work WORK_DIR [--shape 1x16 1x128 8x128] [--threads 1]

WORK_DIR is that of sst2.py, with the trained models. Every model is exported by the public path. In fp32 its logits
over all test sentences must equal PyTorch's to 1e-4 and its predictions must be identical, or no time is taken; in int8
the share of equal predictions and the accuracy are reported. All exports are timed in turns in one run.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import machine, versions
from sst2 import read
from transformers import AutoModelForSequenceClassification

from losparse_export import export_model
from losparse_runtime import Session, compare, measure

RESULTS = Path(__file__).parent / "results" / "sst2_export.json"
TOLERANCE = 1e-4  # on logits of a few units: fp32 sums in another order
BATCH = 32


def whole_test_set(session: Session, folder: Path, data: Path, precision: str) -> dict[str, Any]:
    """Run every test sentence through both, and count.

    Raises:
        SystemExit: the logits or the predictions of an fp32 export differ, or a number is not finite.
    """
    examples = read(data / "test.txt")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ours, torchs = [], []
    for start in range(0, len(examples.texts), BATCH):
        feed = session.encode(examples.texts[start : start + BATCH])
        ours.append(session.run(feed)["logits"])
        with torch.no_grad():
            torchs.append(model(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits.numpy())
    onnx, reference = np.concatenate(ours), np.concatenate(torchs)
    parity = compare(onnx, reference)
    identical = bool((onnx.argmax(-1) == reference.argmax(-1)).all())
    if not parity.finite or (precision == "fp32" and not (parity.passed(TOLERANCE) and identical)):
        raise SystemExit(f"{folder.name}: max difference {parity.max_abs:.1e}, predictions identical: {identical}")
    return {
        "test_accuracy": round(float((onnx.argmax(-1) == np.array(examples.labels)).mean()), 4),
        "max_abs_difference": float(parity.max_abs),
        "predictions_identical": identical,
        "same_predictions": round(float((onnx.argmax(-1) == reference.argmax(-1)).mean()), 4),
        "sentences": len(examples.texts),
    }


def main() -> None:
    """Export, compare, then time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shape", nargs="+", default=["1x16", "1x128", "8x128"], metavar="BATCHxLENGTH")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="+", help="folders of WORK_DIR (default: dense and every trained one)")
    args = parser.parse_args()
    names = args.models or sorted(p.parent.name for p in args.work.glob("*/config.json") if "onnx" not in p.parent.name)
    names.sort(key=lambda name: name != "dense")  # the first is the one the others are compared with
    rows: dict[str, dict[str, Any]] = {}
    sessions = {}
    for name, precision in itertools.product(names, ("fp32", "int8")):
        label = f"{name} {precision}"
        report = export_model(
            args.work / name, args.work / f"{name}-onnx-{precision}", precision=precision, overwrite=True
        )
        sessions[label] = Session(report.folder, threads=args.threads)
        rows[label] = whole_test_set(sessions[label], args.work / name, args.data, precision)
        rows[label] |= {"model": name, "precision": precision, "onnx_bytes": sum(report.bytes.values()), "latency": {}}
        print(label, rows[label], flush=True)
    for shape in args.shape:
        batch, length = (int(number) for number in shape.split("x"))
        for name, latency in measure(sessions, batch=batch, length=length, min_seconds=3, memory=False).items():
            rows[name]["latency"][shape] = latency.to_dict()
            print(f"{shape} {name}: {latency.median_ms:.2f} ms, {latency.speedup:.2f}x", flush=True)
    result = {"threads": args.threads, "machine": machine(), "versions": versions(), "models": rows}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
