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

from _exported import torch_logits, whole_test_set
from _results import machine, versions
from sst2 import read

from losparse_export import export_model
from losparse_runtime import Session, measure

RESULTS = Path(__file__).parent / "results" / "sst2_export.json"


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
    test = read(args.data / "test.txt")
    rows: dict[str, dict[str, Any]] = {}
    sessions = {}
    for name, precision in itertools.product(names, ("fp32", "int8")):
        label = f"{name} {precision}"
        report = export_model(
            args.work / name, args.work / f"{name}-onnx-{precision}", precision=precision, overwrite=True
        )
        sessions[label] = Session(report.folder, threads=args.threads)
        if precision == "fp32":
            reference = torch_logits(sessions[label], args.work / name, test.texts)
        rows[label] = whole_test_set(sessions[label], reference, test.texts, test.labels, precision)
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
