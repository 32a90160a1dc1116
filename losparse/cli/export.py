"""`losparse export DIR OUT`: a checkpoint as an ONNX folder, kept only if its outputs are PyTorch's."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LosparseError
from ..saving.staging import EXPORT, check_out
from ..validation import WrongValueError
from .output import human_bytes, print_table
from .parser import PrintSchema, add_field_flags, given, refuse_idle
from .progress import StderrProgress

if TYPE_CHECKING:
    from losparse_export import ExportReport, ExportSettings, ParityReport, VariantsReport


_PLANNING = ("tune", "batch", "length", "threads")
"""Settings that say how the plan is made: `--plan` leaves nothing to them."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; those of what is made are the fields of `ExportSettings`."""
    from losparse_export.settings import ExportSettings  # loads neither torch nor onnx
    from losparse_runtime.contract.task import TASKS

    parser.add_argument("model", metavar="DIR", help="checkpoint, compressed or dense: a folder, or a hub id")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    parser.add_argument(
        "--task",
        choices=list(TASKS),
        help="what the model does (default: read off its config.json)",
    )
    add_field_flags(parser, "export", ExportSettings, leave_out=_PLANNING)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if `losparse export` wrote it")
    plan = parser.add_argument_group("plan: the form of every compressed layer (plan.json in OUT)")
    plan.add_argument("--plan", type=Path, metavar="FILE", help="carry out this plan, an edited plan.json say")
    plan.add_argument(
        "--plan-schema",
        action=PrintSchema,
        const=_plan_schema,
        help="print the JSON schema of plan files, by which editors complete and check them, and stop",
    )
    add_field_flags(plan, "export", ExportSettings, leave_out=[n for n in _names(ExportSettings) if n not in _PLANNING])
    data = parser.add_argument_group("data (csv, tsv or jsonl files, or hub data sets as owner/name[@config][:split])")
    data.add_argument(
        "--calibration",
        metavar="F",
        help="texts to measure the scales of int8-static on, the first 128 of them; also a txt file, a text a line "
        "(default: those of --data)",
    )
    data.add_argument(
        "--data",
        metavar="F",
        help="labelled texts, words or answered questions, as `losparse compress --train` takes them, to report how "
        "right every form is, and PyTorch; not for tasks without labels",
    )
    data.add_argument("--text-column", metavar="NAME", help="column of texts, words or questions")
    data.add_argument("--pair-column", metavar="NAME", help="column of second texts or contexts")
    data.add_argument("--label-column", metavar="NAME", help="column of labels")
    parser.set_defaults(run=run)


def _names(kind: type[ExportSettings]) -> list[str]:
    return [field.name for field in fields(kind)]


def _plan_schema() -> dict[str, Any]:
    from losparse_export import Plan

    return Plan.json_schema()


def run(options: argparse.Namespace) -> int:
    """Export, and print what came of it; returns 1 if a form that was asked for is not there."""
    settings, flags = read_settings(options), given(options, "export")
    planning = [name for name in flags if name in _PLANNING]
    if options.plan is not None and planning:
        raise LosparseError(f"--plan says what to do already; leave out {_flag(planning[0])}, or --plan")
    if "threads" in flags and not settings.tune:
        raise LosparseError("--threads does nothing without --tune; add that, or leave it out")
    refuse_idle(options, ["text_column", "pair_column"], ["calibration", "data"])
    refuse_idle(options, ["label_column"], ["data"])
    settings.check_texts(calibrated=options.calibration is not None, labelled=options.data is not None)
    check_out(options.out, overwrite=options.overwrite, sources=(Path(options.model),), replaces=EXPORT)
    from losparse_export import Plan, TextFile, export_variants

    columns = options.text_column, options.pair_column
    report = export_variants(
        options.model,
        options.out,
        settings,
        task=options.task,
        plan=None if options.plan is None else Plan.read(options.plan),
        calibration=None if options.calibration is None else TextFile(options.calibration, *columns),
        data=None if options.data is None else TextFile(options.data, *columns, options.label_column),
        overwrite=options.overwrite,
        progress=StderrProgress(verbose=options.verbose),
    )
    if settings.several:
        print_variants(report)
    else:
        (name,) = report.variants
        _print(options.out, name, report.variants[name])
    return 1 if report.failed else 0


def read_settings(options: argparse.Namespace) -> ExportSettings:
    """Return what the flags ask for.

    Raises:
        LosparseError: a value does not exist, or does nothing.
    """
    from losparse_export.settings import ExportSettings

    flags = given(options, "export")
    idle = () if flags.get("tune") else ("threads",)  # said in the words of the flags, before the settings say it
    try:
        return ExportSettings.from_dict({name: value for name, value in flags.items() if name not in idle})
    except WrongValueError as error:
        name, said = error.path.partition("[")[0], error.said
        said = re.sub(r"\b[a-z]+_[a-z]+\b", lambda found: _flag(found[0]), said)
        raise LosparseError(f"{_flag(name)}{said}" if said[0] == ":" else f"{_flag(name)} {said}") from None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _beside(accuracy: Mapping[str, Any]) -> str:
    """Say how much better than PyTorch a folder is, and how much of that is chance."""
    found = accuracy["differences"]["pytorch"]
    error = found["error"]
    return f"{found['delta']:+.4f}" + ("" if error is None else f" +- {error:.4f}")


def print_variants(report: VariantsReport) -> None:
    """Print what stands in a folder of several forms, and what does not and why."""
    measured = [each.accuracy for each in report.variants.values() if each.accuracy is not None]
    columns = ["form", "file", "bytes", "largest difference", "allowed", "cosine"]
    rows = [
        [
            name,
            next(iter(each.bytes)),
            human_bytes(sum(each.bytes.values())),
            f"{each.parity.max_abs:.1e}",
            f"{each.parity.tolerance:.1e}",
            f"{each.parity.cosine:.6f}",
            *([f"{each.accuracy['onnx']:.4f}", _beside(each.accuracy)] if each.accuracy is not None else []),
        ]
        for name, each in report.variants.items()
    ]
    if measured:
        columns += [f"{measured[0]['metric']} on {measured[0]['texts']:,} texts", "beside PyTorch"]
        rows.append(["PyTorch", "-", "-", "-", "-", "-", f"{measured[0]['pytorch']:.4f}", "-"])
    print_table(f"{report.folder}: {report.task}, against PyTorch", columns, rows)
    print(report.parts.line)
    both = sum(sum(each.bytes.values()) for each in report.variants.values()) - sum(report.bytes.values())
    if both:
        print(f"stored once for several forms: {human_bytes(both)} saved")
    for name, why in report.failed.items():
        print(f"left out: {name}: {why}")


def _print(out: Path, name: str, report: ExportReport) -> None:
    rows = [[file, human_bytes(size)] for file, size in report.bytes.items()]
    print_table(f"{out}: {report.task}, {name}", ["file", "size"], rows)
    print(report.parts.line)
    chosen = Counter(layer.lowering for layer in report.plan.layers.values())
    if chosen:
        print("layers: " + ", ".join(f"{count} {name}" for name, count in sorted(chosen.items())))
    parity, least = report.parity, report.judge.cosine
    print(f"largest difference to PyTorch: {parity.max_abs:.1e} (allowed {parity.tolerance:.1e})")
    if least is not None:
        print(f"cosine with PyTorch: {parity.cosine:.6f} (allowed {least} or more)")
        if parity.vectors is None:
            print(f"same largest entry as PyTorch: {parity.top1_agreement:.2%} of rows")
    _print_agreement(parity, mixes_texts=report.judge.mixes_texts)
    if report.accuracy is not None:
        values = f"PyTorch {report.accuracy['pytorch']:.4f}, ONNX {report.accuracy['onnx']:.4f}"
        print(
            f"{report.accuracy['metric']} on {report.accuracy['texts']:,} texts: {values} ({_beside(report.accuracy)})"
        )
    if report.scales:
        _print_scales(report)


def _print_agreement(parity: ParityReport, *, mixes_texts: bool) -> None:
    """Print how alike vectors are, and how far answers move with the batch, where that is more than rounding."""
    vectors, mates = parity.vectors, parity.batch_mates
    if vectors is not None:
        print(
            f"vectors of {vectors.texts} texts: cosine with PyTorch's {vectors.mean_cosine:.6f} in the mean and "
            f"{vectors.worst_cosine:.6f} at worst, agreement of which texts are nearest {vectors.rank_agreement:.4f}"
        )
    if mixes_texts:
        print(
            "an answer depends on the other texts of its run: beside a long text it moves by up to "
            f"{mates.max_abs:.1e} (cosine {mates.cosine:.4f}). Session(batch_invariant=True) runs every text by "
            "itself, and no answer moves. In precision int8-rows, and in int8-static, other texts change nothing."
        )


def _print_scales(report: ExportReport) -> None:
    """Print how a model with fixed scales compares with its dynamic form."""
    fixed, dynamic = report.scales["fixed"], report.scales["dynamic"]
    print("beside precision int8, whose scales are computed in every run, on the texts of the calibration:")
    rows = [
        ["cosine with fp32", f"{fixed.cosine:.6f}", f"{dynamic.cosine:.6f}"],
        ["same largest entry as fp32", f"{fixed.top1_agreement:.2%}", f"{dynamic.top1_agreement:.2%}"],
    ]
    if fixed.beside is not None and dynamic.beside is not None:
        rows.append(["moves beside a longer text by up to", f"{fixed.beside:.1e}", f"{dynamic.beside:.1e}"])
    if report.accuracy is not None:
        name = f"{report.accuracy['metric']} on {report.accuracy['texts']:,} texts"
        rows.append([name, f"{fixed.accuracy:.4f}", f"{dynamic.accuracy:.4f}"])
    print_table("", ["", "int8-static", "int8"], rows)
