"""`export_model`: the whole way from a model to a folder, in the order in which it happens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from losparse.calibration.modes import evaluating
from losparse.saving.parts import PartBytes, onnx_parts
from losparse.saving.staging import EXPORT, check_out, staged_folder
from losparse_runtime import Session, measure
from losparse_runtime.contract.files import write_metadata
from losparse_runtime.contract.folder import Folder
from losparse_runtime.contract.progress import SILENT, Phases, Progress

from .accuracy.measure import measure_accuracy, read_labelled
from .accuracy.texts import Calibration, TextFile, encode_calibration, read_calibration
from .build import Built, build_graph, check_choice, dense_plan
from .costs import Calls, Traffic
from .folder.assets import check_reading, check_tokenizer, endless_limit
from .folder.model import EXTERNAL_FROM, model_sizes
from .folder.write import write_folder
from .graph.opsets import NEWEST, check_opset
from .opening.load import Loaded, load_model
from .opening.task_model import TaskModel
from .parity.gate import ParityReport, check_parity
from .parity.scales import ScaleAgreement, compare_scales
from .planning.plan import Plan
from .precision.apply import apply_precision
from .precision.base import EMBEDDINGS, INT8_BITS, Precision
from .precision.int8 import INT8
from .precision.table import (
    PRECISION_TABLE,
    check_overflow,
    check_precision,
    check_weight_bits,
    choose_embeddings,
    judge_of,
)
from .precision.tables import tables_to_shrink
from .target import CPU, Target, check_target, prepare_model
from .tracing.trace import Tracer, trace_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STEPS = ("opening the model", "tracing", "lowering", "writing")


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
        weight_bits: of int8 and int8-static: 7, or 8, which is more exact, for CPUs with VNNI (and Arm's): on others
            such a folder is refused, because their kernels would overflow.
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
    calibration = data if wanted.calibrated and calibration is None else calibration
    check_weight_bits(weight_bits, precision)
    tables = choose_embeddings(embeddings, precision)
    check_choice(plan, calls, tune=tune)
    check_overflow(weight_bits)
    read = () if not isinstance(source, str | Path) else (Path(source),)
    check_out(out, overwrite=overwrite, sources=read, replaces=EXPORT)
    with progress.stage("exporting") as advance:
        phases = Phases(advance, "exporting")
        phases.at(_STEPS[0], 0, len(_STEPS))
        loaded = load_model(source, task)
        check_tokenizer(loaded)
        check_reading(loaded)
        given = None if calibration is None else read_calibration(calibration, loaded.task.name)
        with evaluation(loaded.model), staged_folder(out, overwrite=overwrite, replaces=EXPORT) as folder:
            phases.at(_STEPS[1], 1, len(_STEPS))
            wrapped = TaskModel(loaded.model, loaded.task, endless_limit(loaded))
            labelled = None if data is None else read_labelled(data, wrapped)
            prepared = prepare_model(tracer(wrapped), target)
            phases.at(_STEPS[2], 2, len(_STEPS))
            built = build_graph(
                prepared,
                precision=precision,
                plan=plan,
                calls=calls,
                tune=tune,
                target=target,
                opset=opset,
                phases=phases,
            )
            phases.at(_STEPS[3], 3, len(_STEPS))
            writer = _Writer(loaded, wrapped, precision, weight_bits, tables, given, external_from, phases, target)
            contents, parity = writer.write(built, folder)
            if tune and built.plan.layers:
                faster = _dense_if_faster(folder, built, prepared, Traffic.of(calls), writer)
                if faster is not None:
                    built = faster
                    contents, parity = writer.write(built, folder)
            accuracy = None if labelled is None else measure_accuracy(wrapped, folder, labelled, target.provider)
            scales = writer.compare_scales(built, folder, labelled, accuracy) if wanted.calibrated else {}
            contents = contents.measured(parity=parity.to_dict(), accuracy=accuracy)
            write_metadata(folder, contents)
            parts = onnx_parts(folder, contents)
    judge = judge_of(contents.variants[precision].arithmetic)
    sizes = model_sizes(contents)
    return ExportReport(
        out, contents.task, built.plan, parity, accuracy, sizes, contents.to_json(), judge, parts, scales
    )


@dataclass(frozen=True)
class _Writer:
    """Writes finished graphs of one model, each compared with PyTorch: first in fp32, then in its precision."""

    loaded: Loaded
    wrapped: TaskModel
    precision: str
    weight_bits: int
    embeddings: str
    calibration: Any
    external_from: int
    phases: Phases
    target: Target

    def write(self, built: Built, folder: Path) -> tuple[Folder, ParityReport]:
        """Write a folder; returns what it holds and how far it is from PyTorch."""
        place = partial(write_folder, folder, self.loaded, target=self.target, external_from=self.external_from)
        compare = partial(check_parity, self.wrapped, folder, provider=self.target.provider, phases=self.phases)
        contents = place(built.graph, built.plan)
        parity = compare()
        rounded = self._rounded(built)
        if PRECISION_TABLE[self.precision].convert is None and rounded is None:
            return contents, parity
        feeds = None if self.calibration is None else encode_calibration(self.calibration, folder)
        graph = apply_precision(
            built.graph,
            self.precision,
            nodes=built.quantise,
            calibration=feeds,
            weight_bits=self.weight_bits,
            embeddings=self.embeddings,
        )
        contents = place(graph, built.plan, precision=self.precision, weight_bits=self.weight_bits, embeddings=rounded)
        return contents, compare(precision=contents.variants[self.precision].arithmetic)

    def compare_scales(
        self, built: Built, folder: Path, labelled: Any, accuracy: Mapping[str, Any] | None
    ) -> dict[str, ScaleAgreement]:
        """Make the dynamic form of a model with fixed scales, and say how both agree with fp32 on the texts."""
        place = partial(write_folder, target=self.target, external_from=self.external_from)
        with tempfile.TemporaryDirectory(prefix=".scales.", dir=folder.parent) as root:
            places = {"fixed": folder, "dynamic": Path(root) / "int8", "fp32": Path(root) / "fp32"}
            for form in ("dynamic", "fp32"):
                places[form].mkdir()
            place(places["fp32"], self.loaded, built.graph, built.plan)
            place(
                places["dynamic"],
                self.loaded,
                self._dynamic(built),
                built.plan,
                precision=INT8.name,
                weight_bits=self.weight_bits,
                embeddings=self._rounded(built),
            )
            sessions = {name: self.open(folder, torch.get_num_threads()) for name, folder in places.items()}
            reference = sessions.pop("fp32")
            found = compare_scales(sessions, reference, encode_calibration(self.calibration, folder))
            if labelled is None or accuracy is None:
                return found
            dynamic = measure_accuracy(self.wrapped, places["dynamic"], labelled, self.target.provider)
        right = {"fixed": accuracy["onnx"], "dynamic": dynamic["onnx"]}
        return {name: replace(each, accuracy=right[name]) for name, each in found.items()}

    def _rounded(self, built: Built) -> str | None:
        return "int8" if self.embeddings == "int8" and tables_to_shrink(built.graph) else None

    def _dynamic(self, built: Built) -> ir.Model:
        return apply_precision(
            built.graph,
            INT8.name,
            nodes=built.quantise,
            weight_bits=self.weight_bits,
            embeddings=self.embeddings,
        )

    def open(self, folder: Path, threads: int) -> Session:
        """Open a folder as it runs on the target."""
        return Session(folder, providers=(self.target.provider,), threads=threads, unchecked=True)


def _dense_if_faster(folder: Path, built: Built, prepared: ir.Model, calls: Traffic, writer: _Writer) -> Built | None:
    """Time the whole model against its dense form in every call, and return that where it is faster."""
    plan, times = dense_plan(built.plan, "", ""), {}
    with tempfile.TemporaryDirectory(prefix=".dense.", dir=folder.parent) as name:
        opset = built.graph.graph.opset_imports[""]
        dense = build_graph(prepared, precision=writer.precision, plan=plan, target=writer.target, opset=opset)
        writer.write(dense, Path(name))
        places = {"dense": Path(name), "factored": folder}
        for call in calls.calls:
            sessions = {form: writer.open(place, call.threads) for form, place in places.items()}
            times[call] = measure(sessions, batch=call.batch, length=call.length, memory=False)
    fast = calls.per_call(lambda call: times[call]["dense"].median_ms)
    # By the speedups, which are of runs side by side.
    if calls.per_call(lambda call: times[call]["dense"].median_ms / times[call]["factored"].speedup) <= fast:
        return None
    slow, where = calls.per_call(lambda call: times[call]["factored"].median_ms), f"at {calls.words}"
    refused = f"the factored model takes {slow:.2f} ms {where}, the dense one {fast:.2f} ms"
    return replace(
        dense, plan=dense_plan(built.plan, f"the whole model is faster dense: {fast:.2f} ms {where}", refused)
    )


@contextmanager
def evaluation(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode with an attention that can be traced, and back."""
    attention = model.config._attn_implementation
    wanted = "sdpa" if model._supports_sdpa else "eager"
    with evaluating(model):
        try:
            if attention != wanted:
                model.set_attn_implementation(wanted)
            yield
        finally:
            if model.config._attn_implementation != attention:
                model.set_attn_implementation(attention)
