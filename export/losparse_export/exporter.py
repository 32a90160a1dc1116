"""One model that is exported, in as many forms as are wanted: opened once, traced once, and compared form by form.

A form is made from an fp32 graph once that equals PyTorch. Forms that are made from the same graph share it, its plan
and that comparison.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from losparse.data.examples import Examples
from losparse_runtime import Session, measure
from losparse_runtime.contract.files import write_metadata
from losparse_runtime.contract.folder import Folder
from losparse_runtime.contract.progress import Phases

from .accuracy.measure import Accuracy, read_labelled
from .accuracy.texts import Calibration, Feeds, TextFile, encode_calibration, read_calibration
from .build import Built, build_graph, check_past, dense_plan
from .costs import Calls, Traffic
from .folder.assets import check_reading, check_tokenizer, endless_limit
from .folder.model import EXTERNAL_FROM, fingerprint
from .folder.write import write_folder
from .graph.opsets import NEWEST
from .opening.evaluation import evaluation
from .opening.load import Loaded, load_model
from .opening.task_model import TaskModel
from .opening.wrapping import wrap_model
from .parity.gate import ParityReport, check_parity
from .parity.scales import ScaleAgreement, compare_scales
from .planning.plan import Plan
from .precision.apply import apply_precision
from .precision.base import EMBEDDINGS, INT8_BITS
from .precision.fp32 import FP32
from .precision.int8 import INT8
from .precision.table import PRECISION_TABLE, check_overflow, choose_embeddings, warn_of_amx
from .precision.tables import tables_to_shrink
from .precision.variants import VariantForm
from .target import CPU, Target, prepare_model
from .tracing.trace import Tracer, trace_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEPS = ("opening the model", "tracing", "lowering", "writing")


@dataclass(frozen=True)
class Request:
    """What is asked of an export beside its forms.

    Attributes:
        opset: ONNX operator set.
        plan: the form of every factored layer; None to make one.
        calls: to plan for; None for one text of 128 tokens, or what the plan was made for.
        tune: choose by timing on this machine.
        target: the kind of machine to export for.
        embeddings: what embedding tables become, one of `EMBEDDINGS`.
        external_from: weights of more bytes in all are written beside the graph.
    """

    opset: int = NEWEST
    plan: Plan | None = None
    calls: Calls | None = None
    tune: bool = False
    target: Target = CPU
    embeddings: str = EMBEDDINGS[0]
    external_from: int = EXTERNAL_FROM


@dataclass(frozen=True)
class Texts:
    """Texts of the user's, as they were given.

    Attributes:
        data: labelled ones, to measure on; None for none.
        calibration: to measure scales on; None for none.
    """

    data: TextFile | str | Path | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Written:
    """One form in a folder of its own.

    Attributes:
        contents: what the folder holds, with what was measured.
        plan: the form of every factored layer.
        parity: the comparison with PyTorch.
        accuracy: as `measure_accuracy` returns it; None without labelled texts.
        scales: see `ExportReport`.
    """

    contents: Folder
    plan: Plan
    parity: ParityReport
    accuracy: Mapping[str, Any] | None
    scales: Mapping[str, ScaleAgreement]


@dataclass
class Exporter:
    """Writes forms of one model, each compared with PyTorch: first in fp32, then in its precision.

    Attributes:
        loaded: the PyTorch model.
        wrapped: the same with its task.
        request: what is asked for.
        labelled: texts to measure on, as `read_labelled` returns them; None for none.
        calibration: as `read_calibration` returns it; None for none.
        phases: told of what is done.
        tracer: makes the graph.
        equal: how fp32 graphs compare with PyTorch, by fingerprint.
    """

    loaded: Loaded
    wrapped: TaskModel
    request: Request
    labelled: tuple[str, Examples] | None
    calibration: list[Any] | None
    phases: Phases
    tracer: Tracer
    equal: dict[str, ParityReport] = field(default_factory=dict)
    _built: dict[tuple[str, str], Built] = field(default_factory=dict)
    _accuracy: Accuracy | None = None

    @cached_property
    def prepared(self) -> ir.Model:
        """The trace, prepared for the target; it is not changed."""
        self.phases.at(STEPS[1], 1, len(STEPS))
        return prepare_model(self.tracer(self.wrapped), self.request.target)

    def write(self, form: VariantForm, folder: Path) -> Written:
        """Write one form into an empty folder, as its only one.

        Raises:
            ParityError: it differs from PyTorch by more than its precision.
            LosparseError: the plan is not for it, or this machine cannot compare it.
        """
        check_overflow(form.weight_bits or INT8_BITS[0])
        warn_of_amx(form.weight_bits, older=self.request.opset < NEWEST)
        writer = _Writer(self, form, choose_embeddings(self.request.embeddings, form.precision))
        built, contents, parity = self._written(writer, folder)
        accuracy = self.accuracy(folder)
        calibrated = PRECISION_TABLE[form.precision].calibrated
        scales = writer.compare_scales(built, folder, accuracy) if calibrated else {}
        contents = contents.measured(parity=parity.to_dict(), accuracy=accuracy)
        write_metadata(folder, contents)
        return Written(contents, built.plan, parity, accuracy, scales)

    def build(self, precision: str, plan: Plan | None = None) -> Built:
        """Build the fp32 graph from which a precision is made; by a plan, or by that of the request."""
        asked, given = self.request, plan is not None
        prepared = self.prepared  # first: a trace is a phase of its own
        self.phases.at(STEPS[2], 2, len(STEPS))
        return build_graph(
            prepared,
            precision=precision,
            plan=plan or asked.plan,
            calls=None if given else asked.calls,
            tune=asked.tune and not given,
            target=asked.target,
            opset=asked.opset,
            phases=self.phases,
        )

    def parity(self, folder: Path, arithmetic: str) -> ParityReport:
        """Compare a folder with PyTorch, by the bounds of its arithmetic."""
        provider = self.request.target.provider
        return check_parity(self.wrapped, folder, precision=arithmetic, provider=provider, phases=self.phases)

    def accuracy(self, folder: Path) -> dict[str, Any] | None:
        """Measure a folder, and PyTorch beside it, which answers once; None where there are no labelled texts."""
        if self.labelled is not None and self._accuracy is None:
            self._accuracy = Accuracy(self.wrapped, self.labelled, self.request.target.provider)
        return None if self._accuracy is None else self._accuracy.of(folder)

    def open(self, folder: Path, threads: int) -> Session:
        """Open a folder as it runs on the target."""
        return Session(folder, providers=(self.request.target.provider,), threads=threads, unchecked=True)

    def _written(self, writer: _Writer, folder: Path) -> tuple[Built, Folder, ParityReport]:
        """Write a form, of the graph of an earlier form where both are made of one; tuned, of the faster one of two."""
        wanted = PRECISION_TABLE[writer.form.precision]
        key = wanted.planned, wanted.marked
        known = self._built.get(key)
        built = known or self.build(writer.form.precision, self._plan_of(wanted.planned))
        self.phases.at(STEPS[3], 3, len(STEPS))
        contents, parity = writer.write(built, folder)
        if known is None and self.request.tune and built.plan.layers:
            faster = _dense_if_faster(folder, built, writer)
            if faster is not None:
                built = faster
                contents, parity = writer.write(built, folder)
        self._built[key] = built
        return built, contents, parity

    def _plan_of(self, planned: str) -> Plan | None:
        """Return the plan of an earlier form that is planned alike."""
        return next((built.plan for (name, _), built in self._built.items() if name == planned), None)


@contextmanager
def opened_exporter(
    source: str | Path | PreTrainedModel,
    request: Request,
    texts: Texts,
    phases: Phases,
    *,
    task: str | None = None,
    tracer: Tracer = trace_model,
) -> Iterator[Exporter]:
    """Open a model and what its export reads; everything that can be refused before a trace is.

    Args:
        source: see `export_model`, as for the task and the tracer.
        request: what is asked for.
        texts: of the user's.
        phases: told of what is done.
        task: see above.
        tracer: see above.

    Raises:
        LosparseError: the source or the texts are refused.
    """
    phases.at(STEPS[0], 0, len(STEPS))
    loaded = load_model(source, task)
    check_past(request.calls, loaded.task)
    check_tokenizer(loaded)
    check_reading(loaded)
    given = None if texts.calibration is None else read_calibration(texts.calibration, loaded.task.name)
    with evaluation(loaded.model):
        wrapped = wrap_model(loaded.model, loaded.task, endless_limit(loaded))
        labelled = None if texts.data is None else read_labelled(texts.data, wrapped)
        yield Exporter(loaded, wrapped, request, labelled, given, phases, tracer)


@dataclass(frozen=True)
class _Writer:
    """Writes finished graphs in one form."""

    exporter: Exporter
    form: VariantForm
    embeddings: str

    def write(self, built: Built, folder: Path) -> tuple[Folder, ParityReport]:
        """Write a folder; returns what it holds and how far it is from PyTorch."""
        wanted, rounded, equal = PRECISION_TABLE[self.form.precision], self._rounded(built), self.exporter.equal
        key, plain = fingerprint(built.graph), wanted.convert is None and rounded is None
        if plain or wanted.calibrated or key not in equal:
            contents = self._place(folder, built.graph, built.plan)
            if key not in equal:
                equal[key] = self.exporter.parity(folder, FP32.name)
            if plain:
                return contents, equal[key]
        graph = apply_precision(
            built.graph,
            self.form.precision,
            nodes=built.quantise,
            calibration=self._feeds(folder) if wanted.calibrated else None,
            weight_bits=self._bits,
            embeddings=self.embeddings,
        )
        contents = self._place(folder, graph, built.plan, self.form.precision, rounded)
        (variant,) = contents.variants.values()
        return contents, self.exporter.parity(folder, variant.arithmetic)

    def compare_scales(
        self, built: Built, folder: Path, accuracy: Mapping[str, Any] | None
    ) -> dict[str, ScaleAgreement]:
        """Make the dynamic form of a model with fixed scales, and say how both agree with fp32 on the texts."""
        with tempfile.TemporaryDirectory(prefix=".scales.", suffix=".tmp", dir=folder.parent) as root:
            places = {"fixed": folder, "dynamic": Path(root) / "int8", "fp32": Path(root) / "fp32"}
            for name in ("dynamic", "fp32"):
                places[name].mkdir()
            self._place(places["fp32"], built.graph, built.plan)
            self._place(places["dynamic"], self._dynamic(built), built.plan, INT8.name, self._rounded(built))
            sessions = {name: self.exporter.open(place, torch.get_num_threads()) for name, place in places.items()}
            reference = sessions.pop("fp32")
            found = compare_scales(sessions, reference, self._feeds(folder))
            dynamic = self.exporter.accuracy(places["dynamic"])
        if dynamic is None or accuracy is None:
            return found
        right = {"fixed": accuracy["onnx"], "dynamic": dynamic["onnx"]}
        return {name: replace(each, accuracy=right[name]) for name, each in found.items()}

    @property
    def _bits(self) -> int:
        return self.form.weight_bits or INT8_BITS[0]

    def _place(
        self, folder: Path, graph: ir.Model, plan: Plan, precision: str = FP32.name, rounded: str | None = None
    ) -> Folder:
        asked = self.exporter.request
        return write_folder(
            folder,
            self.exporter.loaded,
            graph,
            plan,
            target=asked.target,
            external_from=asked.external_from,
            precision=precision,
            weight_bits=self._bits,
            embeddings=rounded,
        )

    def _feeds(self, folder: Path) -> list[Feeds]:
        """Return inputs to measure scales with, as a folder reads texts."""
        given = self.exporter.calibration
        assert given is not None, "a form with fixed scales has texts"
        return encode_calibration(given, folder)

    def _rounded(self, built: Built) -> str | None:
        return "int8" if self.embeddings == "int8" and tables_to_shrink(built.graph) else None

    def _dynamic(self, built: Built) -> ir.Model:
        return apply_precision(
            built.graph, INT8.name, nodes=built.quantise, weight_bits=self._bits, embeddings=self.embeddings
        )


def _dense_if_faster(folder: Path, built: Built, writer: _Writer) -> Built | None:
    """Time the whole model against its dense form in every call, and return that where it is faster."""
    exporter, calls = writer.exporter, Traffic.of(writer.exporter.request.calls)
    plan, times = dense_plan(built.plan, "", ""), {}
    with tempfile.TemporaryDirectory(prefix=".dense.", suffix=".tmp", dir=folder.parent) as name:
        dense = exporter.build(writer.form.precision, plan)
        writer.write(dense, Path(name))
        places = {"dense": Path(name), "factored": folder}
        for call in calls.calls:
            sessions = {form: exporter.open(place, call.threads) for form, place in places.items()}
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
