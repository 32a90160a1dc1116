"""Latency of encoders, dense against compressed, in fp32 and int8, everything timed in turns in one run.

    python benchmarks/encoder_latency.py [--shape 6x384 12x768 24x1024] [--json FILE] [--threads 1]
                                         [--openvino-python PATH]

Encoders are built from configurations, with random weights: speed does not depend on them. The compressed ones keep
20 % of every block's parameters. Variants:

    dense-fp32-default      what torch.onnx.export writes, as onnxruntime runs it
    dense-int8-default      the same through onnxruntime's quantize_dynamic, its own settings
    openvino-f32, -bf16     the same in OpenVINO; bf16 where the CPU has it
    openvino-int8           the same in OpenVINO, quantised by NNCF in one call
    dense-fp32-tuned        our export of the dense model
    dense-int8-tuned        our int8 export of the dense model
    narrow-fp32, -int8      our exports of LoSparse, structure narrow: heads go whole; its default share of low rank
    pruning-fp32, -int8     our exports of kept groups alone, structure foldable
    foldable-fp32, -int8    our exports of LoSparse, structure foldable: 5 % low rank everywhere

OpenVINO is left out where no Python has it: this one, $LOSPARSE_OPENVINO_PYTHON, or the one that is named. Every
variant must equal PyTorch, by the tolerance of its precision, before a time is taken. Results have one entry a kind of
machine and shape, and a shape that is there already for this kind is not run again unless it is named. To run at one
thread on a core of its own: taskset -c N python benchmarks/encoder_latency.py.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from _form import Traces, same_biases_
from _opponents import export_plain, in_openvino
from _results import kind_of, locked, machine, versions
from transformers import BertConfig, BertModel

from losparse import LoSparse, StructuredPruning
from losparse.methods import method_to_dict
from losparse.random_factors import random_factors_
from losparse_export import export_model
from losparse_export.opening.load import Loaded
from losparse_runtime import OpenVino, Session, measure, profile_nodes, time_by
from losparse_runtime.contract.task import TASKS

RESULTS = Path(__file__).parent / "results" / "encoder_latency.json"
METHODS: dict[str, LoSparse] = {
    "narrow": LoSparse(keep=0.2, structure="narrow"),
    "pruning": StructuredPruning(keep=0.2, structure="foldable"),
    "foldable": LoSparse(keep=0.2, low_rank=0.05, structure="foldable"),
}
HEADS = {384: 12, 768: 12, 1024: 16}
CALLS = ((1, 16), (1, 128), (8, 128))
SECONDS = 3.0  # timed, of every variant at every call
TASK = "feature-extraction"


def build(shape: str, method: LoSparse | None = None) -> BertModel:
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
    if method is not None:
        random_factors_(model, method)
        same_biases_(model)
    return model


def export_ours(shape: str, root: Path) -> dict[str, Path]:
    """Write our exports; each is compared with PyTorch before it is kept."""
    folders, traces = {}, Traces()
    forms: dict[str, LoSparse | None] = {"dense": None, **METHODS}
    for form, method in forms.items():
        model = build(shape, method)
        for precision in ("fp32", "int8"):
            name = f"{form}-{precision}" + ("-tuned" if form == "dense" else "")
            report = export_model(model, root / name, task=TASK, precision=precision, tracer=traces)
            print(f"{shape} {name}: max difference to PyTorch {report.parity.max_abs:.1e}", flush=True)
            folders[name] = root / name
    return folders


def time_calls(shape: str, models: Mapping[str, Session | OpenVino], seconds: float) -> list[dict[str, Any]]:
    """Time all variants in turns at every call; fewer rounds for calls of seconds."""
    rows = []
    for batch, length in CALLS:
        large = int(shape.split("x")[1]) * int(shape.split("x")[0]) * batch * length > 5_000_000
        settings: dict[str, Any] = {"runs": 7, "warmup": 1} if large else {"min_seconds": seconds}
        for name, latency in measure(models, batch=batch, length=length, memory=False, **settings).items():
            row = {"batch": batch, "length": length, "variant": name, **latency.to_dict()}
            rows.append({key: value for key, value in row.items() if key != "peak_memory_bytes"})
            print(f"{shape} {batch}x{length} {name}: {latency.median_ms:.2f} ms, {latency.speedup:.2f}x", flush=True)
    return rows


def run(shape: str, args: argparse.Namespace) -> None:
    """Export, compare, time and profile one shape, and put it into the results."""
    started = time.perf_counter()
    loaded = Loaded(build(shape), TASKS[TASK], "random weights", None)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plain = export_plain(loaded, root)
        threads = {"threads": args.threads, "python": args.openvino_python}
        opponents, facts = stack.enter_context(in_openvino(loaded, plain["dense-fp32-default"], **threads))
        if facts is None:
            print("OpenVINO is left out: no Python that was asked has it (--openvino-python PATH)", flush=True)
        ours = export_ours(shape, root)
        sessions = {name: Session(folder, threads=args.threads) for name, folder in (plain | ours).items()}
        first = {name: sessions[name] for name in plain}
        rows = time_calls(shape, {**first, **opponents, **sessions}, args.seconds)
        profiles = {
            name: time_by(profile_nodes(session.folder, session.options, runs=5), lambda node: node.operator)
            for name, session in sessions.items()
        }
    found = {
        "machine": machine(),
        "threads": args.threads,
        "versions": versions() | ({} if facts is None else dict(facts.versions)),
        "methods": {name: method_to_dict(method) for name, method in METHODS.items()},
        "rows": rows,
        "profiles": profiles,
    }
    with locked(args.json) as data:
        data.setdefault("kinds", {}).setdefault(kind_of(machine()), {})[shape] = found
    print(f"{shape}: {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    """Run the shapes that are missing, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", metavar="LAYERSxHIDDEN")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="timed, of a variant at a call")
    parser.add_argument("--openvino-python", metavar="PATH", help="the Python that has openvino, and nncf for int8")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with locked(args.json) as data:
        done = set(data.get("kinds", {}).get(kind_of(machine()), {}))
    for shape in args.shape or [shape for shape in ("6x384", "12x768", "24x1024") if shape not in done]:
        run(shape, args)


if __name__ == "__main__":
    main()
