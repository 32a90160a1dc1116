"""`losparse export DIR OUT`: a checkpoint as an ONNX folder, kept only if its outputs are PyTorch's."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LosparseError
from ..saving.staging import EXPORT, check_out
from .output import human_bytes, print_table
from .parser import PrintSchema, positive_int, refuse_idle
from .progress import StderrProgress

if TYPE_CHECKING:
    from losparse_export import Call, ExportReport, ParityReport, Target


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    from losparse_export.precision.base import EMBEDDINGS, INT8_BITS  # neither loads torch or onnx
    from losparse_export.precision.table import PRECISION_TABLE
    from losparse_runtime.contract.task import TASKS

    parser.add_argument("model", metavar="DIR", help="checkpoint, compressed or dense: a folder, or a hub id")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    parser.add_argument(
        "--task",
        choices=[task.name for task in TASKS.values() if task.exported],
        help="what the model does (default: read off its config.json)",
    )
    parser.add_argument("--opset", type=int, default=23, metavar="N", help="ONNX operator set: 23 (default) or 18")
    parser.add_argument(
        "--precision",
        default="fp32",
        metavar="NAME",
        help="; ".join(f"{each.name}: {each.purpose}" for each in PRECISION_TABLE.values()) + " (default fp32)",
    )
    parser.add_argument(
        "--weight-bits",
        type=int,
        default=INT8_BITS[0],
        metavar="N",
        help="of int8 and int8-static: 7 (default), right on every CPU; 8, more exact, for CPUs with VNNI and Arm's",
    )
    parser.add_argument(
        "--embeddings",
        choices=EMBEDDINGS,
        default=EMBEDDINGS[0],
        help="embedding tables: as rows of int8 with a scale each, or float (auto: int8 but in fp32 and fp16)",
    )
    add_target_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if `losparse export` wrote it")
    plan = parser.add_argument_group("plan: the form of every compressed layer (plan.json in OUT)")
    plan.add_argument("--plan", type=Path, metavar="FILE", help="carry out this plan, an edited plan.json say")
    plan.add_argument(
        "--plan-schema",
        action=PrintSchema,
        const=_plan_schema,
        help="print the JSON schema of plan files, by which editors complete and check them, and stop",
    )
    plan.add_argument("--tune", action="store_true", help="choose forms by timing them here; never slower than dense")
    plan.add_argument("--batch", type=positive_int, metavar="N", help="texts in a run to plan for (default 1)")
    plan.add_argument("--length", type=positive_int, metavar="N", help="tokens in a text to plan for (default 128)")
    plan.add_argument("--threads", type=positive_int, metavar="N", help="onnxruntime threads to tune for (default 1)")
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
        "right both models are; not for tasks without labels",
    )
    data.add_argument("--text-column", metavar="NAME", help="column of texts, words or questions")
    data.add_argument("--pair-column", metavar="NAME", help="column of second texts or contexts")
    data.add_argument("--label-column", metavar="NAME", help="column of labels")
    parser.set_defaults(run=run)


def add_target_option(parser: argparse.ArgumentParser) -> None:
    """Add --target; which there are is checked when the command runs, because they are made of onnx."""
    parser.add_argument(
        "--target",
        metavar="NAME",
        help="kind of machine to plan for: cpu (this one, the default), measured (this one, whose costs are measured "
        "in a minute, and remembered), cpu-avx2, cpu-avx512-vnni, cpu-amx, or another of TARGETS of losparse_export",
    )


def _plan_schema() -> dict[str, Any]:
    from losparse_export import Plan

    return Plan.json_schema()


def run(options: argparse.Namespace) -> int:
    """Export, and print what came of it."""
    from losparse_export.precision.table import check_precision, check_weight_bits, choose_embeddings

    if options.plan is not None and (options.tune or options.batch or options.length):
        raise LosparseError("--plan says what to do already; leave out --tune, --batch and --length, or --plan")
    refuse_idle(options, ["threads"], ["tune"])
    refuse_idle(options, ["text_column", "pair_column"], ["calibration", "data"])
    refuse_idle(options, ["label_column"], ["data"])
    given = options.calibration is not None
    check_precision(options.precision, calibrated=given, labelled=options.data is not None)
    check_weight_bits(options.weight_bits, options.precision)
    choose_embeddings(options.embeddings, options.precision)
    check_out(options.out, overwrite=options.overwrite, sources=(Path(options.model),), replaces=EXPORT)
    from losparse_export import Plan, TextFile, export_model

    target = target_of(options)
    plan = None if options.plan is None else Plan.read(options.plan)
    columns = options.text_column, options.pair_column
    report = export_model(
        options.model,
        options.out,
        task=options.task,
        opset=options.opset,
        precision=options.precision,
        weight_bits=options.weight_bits,
        embeddings=options.embeddings,
        calibration=None if options.calibration is None else TextFile(options.calibration, *columns),
        data=None if options.data is None else TextFile(options.data, *columns, options.label_column),
        plan=plan,
        calls=call_of(options) if plan is None else None,
        tune=options.tune,
        target=target,
        overwrite=options.overwrite,
        progress=StderrProgress(verbose=options.verbose),
    )
    _print(options, report)
    return 0


def _print(options: argparse.Namespace, report: ExportReport) -> None:
    rows = [[name, human_bytes(size)] for name, size in report.bytes.items()]
    print_table(f"{options.out}: {report.task}, {options.precision}", ["file", "size"], rows)
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
        print(f"{report.accuracy['metric']} on {report.accuracy['texts']:,} texts: {values}")
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
            "itself, and no answer moves. Precision int8-static has fixed scales, which other texts do not change."
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


def call_of(options: argparse.Namespace) -> Call:
    """Return the call to plan for, as --batch, --length and --threads say."""
    from losparse_export import Call

    given = {name: getattr(options, name) for name in ("batch", "length", "threads")}
    return Call(**{name: value for name, value in given.items() if value is not None})


def target_of(options: argparse.Namespace) -> Target:
    """Return the kind of machine that --target names; "measured" is measured on --threads, unless that was done.

    Raises:
        LosparseError: there is none of that name.
    """
    from losparse_export.target import CPU, MEASURED, target_by_name

    if options.target is None:
        return CPU
    if options.target != MEASURED:
        return target_by_name(options.target)
    from losparse_export.planning.calibrate import measured_target

    return measured_target(options.threads or 1, progress=StderrProgress(verbose=options.verbose))
