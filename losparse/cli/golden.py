"""`losparse golden MODEL OUT.npz --folder ONNX_DIR`: what the model says of some inputs, for checks without it."""

from __future__ import annotations

import argparse
from pathlib import Path

from .output import human_bytes
from .parser import CommandParser, positive_int, refuse_idle
from .progress import StderrProgress


def add_options(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("reference", metavar="MODEL", help="checkpoint, a folder or hub id, or another ONNX folder")
    parser.add_argument("out", type=Path, metavar="OUT.npz", help="file to write; it is replaced if it is there")
    parser.add_argument("--folder", type=Path, required=True, metavar="ONNX_DIR", help="its export")
    parser.add_argument("--data", metavar="F", help="texts to record too, the first 128: csv, tsv, jsonl or txt")
    parser.add_argument("--text-column", metavar="NAME", help="column of texts, words or questions")
    parser.add_argument("--pair-column", metavar="NAME", help="column of second texts or contexts")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="onnxruntime threads (default: all CPUs)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Record, and say what."""
    refuse_idle(options, ["text_column", "pair_column"], ["data"])
    from losparse_export import record_golden

    golden = record_golden(
        options.reference,
        options.folder,
        options.out,
        data=options.data,
        text_column=options.text_column,
        pair_column=options.pair_column,
        threads=options.threads,
        progress=StderrProgress(verbose=options.verbose),
    )
    size = human_bytes(options.out.stat().st_size)
    print(f"{options.out}: {len(golden.cases)} runs of {golden.kind}, {len(golden.rows)} texts' tokens, {size}")
    return 0
