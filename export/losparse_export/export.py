"""`export_model`: the whole way from a model to a folder, in the order in which it happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losparse.saving.parts import PartBytes, onnx_parts
from losparse.saving.staging import EXPORT, check_out, staged_folder
from losparse_runtime.contract.progress import SILENT, Phases, Progress
from losparse_runtime.contract.variant import MODEL_FILE

from .accuracy.texts import Calibration, TextFile
from .build import check_choice
from .costs import Calls
from .exporter import Request, Texts, Written, opened_exporter
from .folder.model import EXTERNAL_FROM, model_sizes
from .graph.opsets import NEWEST, check_opset
from .parity.gate import ParityReport
from .parity.scales import ScaleAgreement
from .planning.plan import Plan
from .precision.base import EMBEDDINGS, INT8_BITS, Precision
from .precision.table import check_overflow, check_precision, check_weight_bits, choose_embeddings, judge_of
from .precision.variants import VariantForm
from .target import CPU, Target, check_target
from .tracing.trace import Tracer, trace_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        folder: where it is.
        task: what the model does.
        plan: the form of every factored layer.
        parity: the comparison with PyTorch.
        accuracy: how right both models are on the data that was given, as `measure_accuracy` returns it; None without
            data.
        bytes: size of each model file.
        metadata: the contents of `losparse.json`.
        judge: has the bounds of the comparison with PyTorch.
        parts: where the bytes of the model files are.
        scales: for int8-static: how it ("fixed") and int8 of the same model ("dynamic") agree with its fp32 form on the
            texts that its scales were measured on, and how right both are on `data`; else empty.
    """

    folder: Path
    task: str
    plan: Plan
    parity: ParityReport
    accuracy: Mapping[str, Any] | None
    bytes: Mapping[str, int]
    metadata: Mapping[str, Any]
    judge: Precision
    parts: PartBytes
    scales: Mapping[str, ScaleAgreement]


def export_model(
    source: str | Path | PreTrainedModel,
    out: str | Path,
    *,
    task: str | None = None,
    opset: int = NEWEST,
    overwrite: bool = False,
    plan: Plan | Path | str | None = None,
    calls: Calls | None = None,
    tune: bool = False,
    target: Target = CPU,
    precision: str = "fp32",
    calibration: Calibration | None = None,
    weight_bits: int = INT8_BITS[0],
    embeddings: str = EMBEDDINGS[0],
    data: TextFile | str | Path | None = None,
    external_from: int = EXTERNAL_FROM,
    progress: Progress = SILENT,
    tracer: Tracer = trace_model,
) -> ExportReport:
    """Export a model to an ONNX folder, and keep the folder only if its outputs equal PyTorch's.

    Args:
        source: folder of a transformers model, dense or compressed; hub id; or a transformers model in memory (fp32, on
            the CPU; it is not changed). A model in memory brings no tokenizer.
        out: the folder to write.
        task: a key of `TASKS` in `losparse_runtime.contract.task`; None to read it off the model's configuration.
            "text-classification" is also any task of one row of logits a text that the configuration says.
        opset: ONNX operator set, 23, or 18 for older runtimes: the same graph, with the operators that came later
            written in those of its time.
        overwrite: replace an earlier export at `out`.
        plan: the form of every factored layer, or a file of it, which leaves nothing to `calls` and `tune`; None for
            the cheapest by estimate.
        calls: what to plan for: a `Call` of a batch, a length and, for `tune`, threads, or several with how often each
            comes, as in `[(Call(1, 128), 0.7), (Call(8, 32), 0.3)]`; one text of 128 tokens on one thread by default.
        tune: choose every layer's form by timing on this machine, and the dense model where the whole is faster so.
        target: the kind of machine to export for.
        precision: a key of `PRECISION_TABLE`, which says what each is for. Any other than fp32 is made from the fp32
            graph once that equals PyTorch, and judged by the bounds of its own.
        calibration: for int8-static: a file of texts, texts, or inputs of runs; the first 128 texts are used. Without
            it, those of `data`.
        weight_bits: of int8, int8-rows and int8-static: 7, or 8, which is more exact, for CPUs with VNNI (and Arm's):
            on others such a folder is refused, because their kernels would overflow.
        embeddings: what embedding tables become: "int8" for rows of int8 with a scale each, "float" to leave them as
            they are, "auto" for int8 in every precision but fp32 and fp16. fp32 with int8 tables has bounds of its own.
        data: labelled texts to measure both models on, by the metric of the task and as `losparse.data` reads them;
            refused for tasks without labels.
        external_from: weights of more bytes in all are written beside the graph, not into it.
        progress: shows a stage.
        tracer: makes the graph. Tracing takes most of an export: who writes one model in several precisions or operator
            sets gives one that remembers its graph and returns a clone.

    Returns:
        What was written.

    Raises:
        ParityError: the exported model differs from PyTorch by more than its precision; nothing is left at `out`.
        LosparseError: the source, an argument or the target is refused.
    """
    out = Path(out)
    check_target(target)
    plan = Plan.read(plan) if isinstance(plan, Path | str) else plan
    check_opset(opset)
    wanted = check_precision(precision, calibrated=calibration is not None, labelled=data is not None)
    check_weight_bits(weight_bits, precision)
    choose_embeddings(embeddings, precision)
    check_choice(plan, calls, tune=tune)
    check_overflow(weight_bits)
    read = () if not isinstance(source, str | Path) else (Path(source),)
    check_out(out, overwrite=overwrite, sources=read, replaces=EXPORT)
    texts = Texts(data, data if wanted.calibrated and calibration is None else calibration)
    request = Request(opset, plan, calls, tune, target, embeddings, external_from)
    form = VariantForm(precision, MODEL_FILE, precision, weight_bits if wanted.weight_bits else None)
    with progress.stage("exporting") as advance:
        phases = Phases(advance, "exporting")
        with (
            opened_exporter(source, request, texts, phases, task=task, tracer=tracer) as exporter,
            staged_folder(out, overwrite=overwrite, replaces=EXPORT) as folder,
        ):
            written = exporter.write(form, folder)
            return report_of(written, out, onnx_parts(folder, written.contents))


def report_of(written: Written, out: Path, parts: PartBytes) -> ExportReport:
    """Say what an export of one form wrote.

    Args:
        written: the form.
        out: where it is.
        parts: where the bytes of its files are.
    """
    contents = written.contents
    (variant,) = contents.variants.values()
    return ExportReport(
        out,
        contents.task,
        written.plan,
        written.parity,
        written.accuracy,
        model_sizes(contents),
        contents.to_json(),
        judge_of(variant.arithmetic),
        parts,
        written.scales,
    )
