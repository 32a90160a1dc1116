"""Latency of encoders, dense against factored, fp32 and int8, everything timed in turns in one run.

    python benchmarks/encoder_latency.py [--shape 6x384 12x768 24x1024] [--json FILE] [--threads 1]

Encoders are built from configurations, with random weights: speed does not depend on them. The factored ones keep 20 %
of every block's parameters, 5 % low rank + 15 % kept rows and columns. Variants:

    dense-fp32-default   what torch.onnx.export writes, as onnxruntime runs it
    dense-int8-default   the same through onnxruntime's quantize_dynamic, its own settings: what costs a user nothing
    dense-fp32-tuned     our export of the dense model
    dense-int8-tuned     our int8 export of the dense model
    factored-fp32        our export of the factored model
    factored-int8        our int8 export of it

Every variant must equal PyTorch, by the tolerance of its precision, before a time is taken. A shape that is in the
results already is not run again unless it is named.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from _results import locked, machine, versions
from transformers import BertConfig, BertModel

from losparse import LoSparse
from losparse.random_factors import random_factors_
from losparse_export import Plan, TaskModel, export_model, trace_model
from losparse_export.export import evaluation
from losparse_export.folder.write import write_folder
from losparse_export.opening.load import Loaded
from losparse_export.parity.gate import check_parity
from losparse_export.passes import NamePass
from losparse_runtime import Session, measure, profile_nodes, time_by
from losparse_runtime.contract.files import write_metadata
from losparse_runtime.contract.task import TASKS
from losparse_runtime.dependencies import import_onnxruntime

RESULTS = Path(__file__).parent / "results" / "encoder_latency.json"
METHOD = LoSparse(keep=0.2, low_rank=0.05)
HEADS = {384: 12, 768: 12, 1024: 16}
CALLS = ((1, 16), (1, 128), (8, 128))
TASK = "feature-extraction"


def build(shape: str, *, factored: bool) -> BertModel:
    """Return an encoder of random weights."""
    layers, hidden = (int(number) for number in shape.split("x"))
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_attention_heads=HEADS.get(hidden, hidden // 64),
        vocab_size=1000,  # the table of embeddings costs no time, but memory
    )
    torch.manual_seed(0)
    model = BertModel(config, add_pooling_layer=False).eval()
    if factored:
        random_factors_(model, METHOD)
    return model


def export_plain(model: BertModel, root: Path) -> dict[str, Path]:
    """Write what torch.onnx.export gives, and its quantised form by onnxruntime's defaults."""
    loaded = Loaded(model, TASKS[TASK], "random weights", None)
    folders = {name: root / name for name in ("dense-fp32-default", "dense-int8-default")}
    with evaluation(model):
        wrapped = TaskModel(model, loaded.task)
        graph = trace_model(wrapped)
        NamePass()(graph)
        for name, folder in folders.items():
            folder.mkdir()
            precision = "int8" if "int8" in name else "fp32"
            written = quantized(graph, root) if precision == "int8" else graph
            contents = write_folder(folder, loaded, written, Plan({}), precision=precision)
            variant = replace(contents.variants[precision], disabled_optimizers=())  # as onnxruntime runs it
            contents = replace(contents, variants={precision: variant})
            write_metadata(folder, contents)
            parity = check_parity(wrapped, folder, precision=precision)
            write_metadata(folder, contents.measured(parity=parity.to_dict()))
    return folders


def quantized(graph: ir.Model, root: Path) -> ir.Model:
    """Quantise with onnxruntime's own settings, products alone: it mistakes the standard Attention for its own."""
    before, after = root / "before.onnx", root / "after.onnx"
    ir.save(graph, before, external_data="before.data")
    quantization = import_onnxruntime("quantization")
    quantization.quantize_dynamic(before, after, op_types_to_quantize=["MatMul"], use_external_data_format=True)
    model = ir.load(after)
    ir.external_data.load_to_model(model)
    return model


def export_ours(shape: str, root: Path) -> dict[str, Path]:
    """Write our exports; each is compared with PyTorch before it is kept."""
    folders = {}
    for form in ("dense", "factored"):
        model = build(shape, factored=form == "factored")
        for precision in ("fp32", "int8"):
            name = f"{form}-{precision}" + ("-tuned" if form == "dense" else "")
            report = export_model(model, root / name, task=TASK, precision=precision)
            print(f"{shape} {name}: max difference to PyTorch {report.parity.max_abs:.1e}", flush=True)
            folders[name] = root / name
    return folders


def time_calls(shape: str, sessions: Mapping[str, Session], threads: int) -> list[dict[str, Any]]:
    """Time all variants in turns at every call; fewer rounds for calls of seconds."""
    rows = []
    for batch, length in CALLS:
        large = int(shape.split("x")[1]) * int(shape.split("x")[0]) * batch * length > 5_000_000
        settings = {"runs": 5, "warmup": 1} if large else {"min_seconds": 3.0}
        times = measure(sessions, batch=batch, length=length, memory=False, **settings)
        for name, latency in times.items():
            row = {"shape": shape, "batch": batch, "length": length, "threads": threads, "variant": name}
            rows.append(row | {"median_ms": latency.median_ms, "min_ms": latency.min_ms, "runs": latency.runs})
            rows[-1]["speedup"] = latency.speedup
            print(f"{shape} {batch}x{length} {name}: {latency.median_ms:.2f} ms, {latency.speedup:.2f}x", flush=True)
    return rows


def run(shape: str, threads: int, file: Path) -> None:
    """Export, compare, time and profile one shape, and put it into the results."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        folders = export_plain(build(shape, factored=False), root) | export_ours(shape, root)
        sessions = {name: Session(folder, threads=threads) for name, folder in folders.items()}
        rows = time_calls(shape, sessions, threads)
        profiles = {
            name: time_by(profile_nodes(session.folder, session.options, runs=5), lambda node: node.operator)
            for name, session in sessions.items()
        }
    with locked(file) as data:
        data["rows"] = [row for row in data.get("rows", []) if row["shape"] != shape] + rows
        data.setdefault("profiles", {})[shape] = profiles
        data |= {"machine": machine(), "versions": versions(), "keep": METHOD.keep, "low_rank": METHOD.low_rank}


def main() -> None:
    """Run the shapes that are missing, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", metavar="LAYERSxHIDDEN")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with locked(args.json) as data:
        done = {row["shape"] for row in data.get("rows", [])}
    for shape in args.shape or [shape for shape in ("6x384", "12x768", "24x1024") if shape not in done]:
        run(shape, args.threads, args.json)


if __name__ == "__main__":
    main()
