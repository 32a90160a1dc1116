"""`losparse export DIR OUT`: a checkpoint as an ONNX folder, kept only if its outputs equal PyTorch's."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from .folders import check_out
from .output import Advance, Progress, human_bytes, print_table

TASKS = ("text-classification", "token-classification", "question-answering", "feature-extraction")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("model", metavar="DIR", help="checkpoint, compressed or dense: a folder, or a hub id")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    parser.add_argument("--task", choices=TASKS, help="what the model does (default: read off its architecture)")
    parser.add_argument("--opset", type=int, default=23, metavar="N", help="ONNX operator set: 23 (default) or 18")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if losparse wrote it")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Export, and print what came of it."""
    check_out(options.out, overwrite=options.overwrite, sources=(Path(options.model),))
    progress = Progress(verbose=options.verbose)
    with progress.stage("exporting") as advance:
        from losparse_export import export_model

        report = export_model(
            options.model,
            options.out,
            task=options.task,
            opset=options.opset,
            overwrite=options.overwrite,
            progress=following(advance),
        )
    rows = [[name, human_bytes(size)] for name, size in report.bytes.items()]
    print_table(f"{options.out}: {report.task}", ["file", "size"], rows)
    chosen: dict[str, int] = {}
    for layer in report.plan.layers.values():
        chosen[layer.lowering] = chosen.get(layer.lowering, 0) + 1
    if chosen:
        print("layers: " + ", ".join(f"{count} {name}" for name, count in sorted(chosen.items())))
    print(f"largest difference to PyTorch: {report.parity.max_abs:.1e} (allowed {report.parity.tolerance:.1e})")
    return 0


def following(advance: Advance) -> Callable[[str, int, int], None]:
    """Return what the exporter calls: with a text, how many steps of a phase are done, and of how many."""
    reached = 0

    def tell(text: str, done: int, steps: int) -> None:
        nonlocal reached
        advance(done - reached, total=steps, title=f"exporting: {text}")
        reached = done

    return tell
