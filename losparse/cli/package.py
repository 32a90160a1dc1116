"""`losparse package ONNX_DIR OUT --triton`: an exported folder as a model of Triton's repository. Loads no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import LosparseError
from .output import human_bytes
from .parser import CommandParser, positive_int


def add_options(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("folder", type=Path, metavar="ONNX_DIR", help="what `losparse export` wrote")
    parser.add_argument("out", type=Path, metavar="OUT", help="the repository; made where there is none")
    parser.add_argument("--triton", action="store_true", help="a model repository of NVIDIA Triton; the one there is")
    parser.add_argument("--name", help="of the model (default: the name of the folder)")
    parser.add_argument(
        "--version", type=positive_int, metavar="N", help="of the model (default: the one behind the newest)"
    )
    parser.add_argument(
        "--variant", metavar="NAME", help="of the folder (default: the best of those that are right on every CPU)"
    )
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="what runs it (default cpu)")
    queue = parser.add_argument_group("queue")
    queue.add_argument("--max-batch", type=positive_int, default=32, metavar="N", help="texts in a run (default 32)")
    queue.add_argument(
        "--max-wait-ms",
        type=float,
        default=0.0,
        metavar="MS",
        help="that a request may wait for others while nothing runs (default 0)",
    )
    queue.add_argument(
        "--queue", type=positive_int, default=512, metavar="N", help="requests that may wait (default 512)"
    )
    queue.add_argument(
        "--deadline", type=float, default=30.0, metavar="S", help="seconds that a request may wait (default 30)"
    )
    queue.add_argument(
        "--mixed", action="store_true", help="share runs also where answers then depend on each other (int8)"
    )
    parser.add_argument(
        "--instances",
        type=positive_int,
        default=1,
        metavar="N",
        help="runs at a time; with cuda, on each GPU (default 1)",
    )
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="of a run on CPUs (default: every core of the machine)"
    )
    parser.add_argument(
        "--copy", action="store_true", help="copy model files (default: hard links where there are any)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the version of --version")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the model, and print what it is."""
    if not options.triton:
        raise LosparseError("package writes for one server so far; say --triton")
    if options.overwrite and options.version is None:
        raise LosparseError("--overwrite replaces one version; say which with --version N")
    from losparse_runtime.packaging.settings import TritonSettings
    from losparse_runtime.packaging.triton import package_triton

    settings = TritonSettings(
        name=options.name,
        version=options.version,
        variant=options.variant,
        provider=options.provider,
        max_batch=options.max_batch,
        max_wait_ms=options.max_wait_ms,
        queue=options.queue,
        deadline_s=options.deadline,
        instances=options.instances,
        threads=options.threads,
        mixed=options.mixed,
        copy=options.copy,
        overwrite=options.overwrite,
    )
    written = package_triton(options.folder, options.out, settings)
    size = human_bytes(sum(written.bytes.values()))
    print(f"{written.folder}: version {written.version}, variant {written.variant}, {size}")
    print(f"batching: {written.batching}")
    for remark in written.remarks:
        print(remark)
    return 0
