"""`losparse demo OUT`: the whole way on a real model and real texts that need no files of the user's."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losparse_runtime.contract.files import write_json

from ..saving.staging import check_out
from .output import check_json_target, human_bytes, print_table
from .parser import positive_int
from .progress import StderrProgress

if TYPE_CHECKING:
    from ..demo.run import DemoSetup


def add_options(parser: argparse.ArgumentParser, setup: DemoSetup | None = None) -> None:
    """Add the command's options.

    Args:
        parser: gets them.
        setup: what the demo is made of; see `run_demo`.
    """
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    parser.add_argument("--steps", type=positive_int, metavar="N", help="steps of each training, for a quick try")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if losparse wrote it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write OUT/report.json to this file")
    parser.set_defaults(run=run, setup=setup)


def run(options: argparse.Namespace) -> int:
    """Do all of it, and print one table."""
    check_out(options.out, overwrite=options.overwrite)
    check_json_target(options.json)
    from ..demo.run import run_demo
    from ..training.opening import transformers_quiet

    progress = StderrProgress(verbose=options.verbose)
    with transformers_quiet():
        report = run_demo(
            options.out, steps=options.steps, overwrite=options.overwrite, setup=options.setup, progress=progress
        )
    _print(options.out, report)
    if options.json is not None:
        write_json(options.json, report)
    return 0 if all(row["check"]["passed"] for row in report["models"].values()) else 1


def _print(out: Path, report: Mapping[str, Any]) -> None:
    models = report["models"]
    rows = [
        [title, *(show(model[key]) for model in models.values())]
        for title, key, show in (
            ("test accuracy", "test_accuracy", "{:.1%}".format),
            ("parameters in layers", "layer_parameters", "{:,}".format),
            ("parameters in model", "model_parameters", "{:,}".format),
            ("checkpoint", "file_bytes", human_bytes),
            ("ONNX", "onnx_bytes", human_bytes),
        )
    ]
    times = {(row["batch"], row["length"], row["model"]): row for row in report["bench"]["results"]}
    for best in report["best_free"]:
        shape = best["batch"], best["length"]
        own = [times[*shape, name] for name in models]
        tokens = f"{shape[0]} x {shape[1]} tokens"
        rows.append([f"{tokens}, median ms", *(f"{row['median_ms']:.2f}" for row in own)])
        times_as_fast = (f"{row['speedup'] / best['speedup']:.2f}x" for row in own)
        rows.append([f"  as fast as {_shown(best['model'])}", *times_as_fast])
    differences = [model["check"]["parts"]["texts"]["max_abs"] for model in models.values()]
    shown = ["not finite" if each is None else f"{each:.1e}" for each in differences]
    rows.append(["largest difference to PyTorch", *shown])
    classes, count = len(report["labels"]), report["examples"]["test"]
    title = f"{out}: {count} test texts of {classes} classes; {report['total_seconds']:.0f} s in all"
    print_table(title, ["", *map(_shown, models)], rows)
    print(_against(report["bench"]))


def _shown(name: str) -> str:
    """Write the name of a model of the report in words."""
    return name.replace("openvino", "OpenVINO").replace("-", " ")


def _against(bench: Mapping[str, Any]) -> str:
    """Say what stood for the best that costs nothing."""
    opponents = [name for name, model in bench["models"].items() if "openvino" in model]
    said = (
        "Speed is over the fastest that costs no training: of the dense model in fp32 and int8 here, and of int8 in "
        "OpenVINO"
    )
    if opponents:
        return f"{said} {bench['versions']['openvino']}; all timed in turns."
    return f"{said}, which was not found: LOSPARSE_OPENVINO_PYTHON may name a Python that has openvino and nncf."
