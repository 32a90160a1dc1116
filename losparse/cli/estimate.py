"""`losparse estimate MODEL`: what compression would bring on this machine, before anyone trains."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from losparse_runtime.contract.files import write_json

from ..environment import machine, versions
from ..methods import LoSparse
from ..methods.losparse.method import DEFAULT_STRUCTURE, Structure
from ..methods.losparse.shares import ByKind, in_words
from .bench import notes, shown_speedup
from .output import check_json_target, human_bytes, print_table
from .parser import positive_int, texts_options
from .progress import StderrProgress

if TYPE_CHECKING:
    from losparse_export import Estimate

COLUMNS = ("variant", "keep", "low rank", "parameters", "of model", "file", "median ms", "vs dense fp32")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("model", metavar="MODEL", help="folder with a config.json (no weights are read), or a hub id")
    parser.add_argument("--keep", type=float, default=0.2, metavar="S", help="kept share of the layers (default 0.2)")
    parser.add_argument(
        "--low-rank",
        help="share of the rank part, or shares by kind of layer (attention, ffn, other) and name pattern (default "
        "keep/4, at most 0.05; at structure narrow 0)",
        **texts_options(ByKind()),
    )
    parser.add_argument("--structure", choices=get_args(Structure), default=DEFAULT_STRUCTURE)
    parser.add_argument(
        "--multiple", type=positive_int, metavar="N", help="of kept counts (default 8; of structure narrow 16)"
    )
    parser.add_argument(
        "--precision", metavar="NAME", help="of the factored model, int8 say (default: all that the target plans)"
    )
    parser.add_argument(
        "--target",
        default="cpu",
        metavar="NAME",
        help="kind of machine to plan for: cpu (this one, the default), measured (this one, whose costs are measured "
        "in a minute, and remembered), cpu-avx2, cpu-avx512-vnni, cpu-amx, or another of TARGETS of losparse_export",
    )
    parser.add_argument("--batch", type=positive_int, metavar="N", help="texts in a run (default 1)")
    parser.add_argument("--length", type=positive_int, metavar="N", help="tokens in a text (default 128)")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="onnxruntime threads (default 1)")
    parser.add_argument("--targets", nargs="+", metavar="PATTERN", help="layers to compress (default: those in blocks)")
    parser.add_argument("--ignore", nargs="+", default=[], metavar="PATTERN", help="layers to leave dense")
    parser.add_argument("--no-grid", action="store_true", help="leave out other splits of the budget")
    parser.add_argument("--no-opponents", action="store_true", help="leave out the dense model as others make it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the estimate to this file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, and print two tables and a sentence."""
    check_json_target(options.json)
    low_rank = options.low_rank
    if low_rank is None and options.structure != "narrow":
        low_rank = min(0.05, options.keep / 4)
    method = LoSparse(keep=options.keep, low_rank=low_rank, structure=options.structure, multiple=options.multiple)
    from losparse_export import Call, estimate_model
    from losparse_export.planning.calibrate import named_target

    progress = StderrProgress(verbose=options.verbose)
    given = {name: getattr(options, name) for name in ("batch", "length", "threads")}
    call = Call(**{name: value for name, value in given.items() if value is not None})
    found = estimate_model(
        options.model,
        method,
        call=call,
        precisions=None if options.precision is None else (options.precision,),
        target=named_target(options.target, call.threads, progress=progress),
        grid=not options.no_grid,
        opponents=not options.no_opponents,
        targets=options.targets,
        ignore=options.ignore,
        progress=progress,
    )
    _print(found)
    if options.json is not None:
        report = {"format": 1, "machine": machine(), "versions": versions("torch", "transformers", "onnxruntime")}
        write_json(options.json, report | found.to_dict())
    return 0


def _print(found: Estimate) -> None:
    call = found.call
    where = f"{call.batch} x {call.length} tokens, threads: {call.threads}"
    whole = next(row.model_parameters for row in found.rows if row.form == "dense")
    rows = [
        [
            row.name + (" (asked for)" if row.asked else ""),
            f"{row.keep:.1%}",
            "-" if row.form == "dense" else in_words(row.low_rank),
            f"{row.model_parameters / 1e6:.1f} M",
            f"{row.model_parameters / whole:.1%}",
            "-" if row.file_bytes is None else human_bytes(row.file_bytes),
            f"{row.median_ms:.2f}",
            shown_speedup(row.speedup, row.speedup_low, row.speedup_high),
        ]
        for row in found.rows
    ]
    print_table(f"{machine()['cpu']}, {where}", COLUMNS, rows)
    kinds = [
        [name, f"{times.get('dense', 0.0):.2f}", f"{times.get('factored', 0.0):.2f}"]
        for name, times in found.kinds.items()
    ]
    print_table("milliseconds of one run by kind of layer", ("layers", "dense fp32", "asked for"), kinds)
    if found.looked_at is not None:
        print(found.looked_at.line)
        if found.looked_at.warning is not None:
            print(found.looked_at.warning)
    for line in notes([asdict(row) for row in found.rows], compared=True):
        print(line)
    print(found.verdict)
