"""`export_variants`: one model in several forms side by side in one folder, traced once, each proven by itself.

    report = export_variants("my-model", "OUT", ExportSettings(precision=("fp32", "int8", "int8-vnni")))
    report.variants["int8"].parity.max_abs
    report.failed                                  {} - or by name why PyTorch does not confirm a form

A form that PyTorch does not confirm is not in the folder. `keep_variants` drops more, say those that are not right
often enough.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from losparse.errors import LosparseError
from losparse.saving.parts import PartBytes, onnx_parts
from losparse.saving.staging import EXPORT, check_out, staged_folder
from losparse_runtime import Session
from losparse_runtime.contract.files import read_folder
from losparse_runtime.contract.folder import Folder
from losparse_runtime.contract.progress import SILENT, Phases, Progress
from losparse_runtime.contract.tensors import Arrays

from .accuracy.texts import Calibration, TextFile
from .build import check_choice
from .costs import Calls
from .export import ExportReport, report_of
from .exporter import Exporter, Request, Texts, opened_exporter
from .folder.join import join_folders, keep_variants
from .folder.model import EXTERNAL_FROM, model_sizes
from .folder.shared import SHARED_FROM
from .parity.gate import ParityError, make_feeds
from .parity.lengths import Case
from .planning.calibrate import named_target
from .planning.plan import Plan
from .precision.table import NotComparableError
from .settings import ExportSettings
from .target import Target
from .tracing.trace import Tracer, trace_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["VariantsReport", "export_variants", "keep_variants"]

logger = logging.getLogger(__name__)

_LENGTH = 24  # tokens of the texts by which a file is looked at again once its weights lie elsewhere


@dataclass(frozen=True)
class VariantsReport:
    """What an export of several forms wrote.

    Attributes:
        folder: where it is.
        task: what the model does.
        variants: what is in the folder, by name; the first opens by default. `bytes` of each counts what it needs,
            and what several need with each of them.
        failed: why a form is not there, by name.
        bytes: size of each file of graphs and weights, each once.
        metadata: the contents of `losparse.json`.
        parts: where the bytes of all files are.
    """

    folder: Path
    task: str
    variants: Mapping[str, ExportReport]
    failed: Mapping[str, str]
    bytes: Mapping[str, int]
    metadata: Mapping[str, Any]
    parts: PartBytes


def export_variants(
    source: str | Path | PreTrainedModel,
    out: str | Path,
    settings: ExportSettings | None = None,
    *,
    task: str | None = None,
    overwrite: bool = False,
    plan: Plan | Path | str | None = None,
    calls: Calls | None = None,
    target: Target | None = None,
    data: TextFile | str | Path | None = None,
    calibration: Calibration | None = None,
    external_from: int = EXTERNAL_FROM,
    shared_from: int = SHARED_FROM,
    progress: Progress = SILENT,
    tracer: Tracer = trace_model,
) -> VariantsReport:
    """Export a model in every form that settings name into one folder, without those that PyTorch does not confirm.

    The model is traced once. Forms that are made of one fp32 graph share it and its comparison with PyTorch; every form
    is compared by itself, and measured on `data`.

    Args:
        source: see `export_model`.
        out: the folder to write. Of one form it is as `export_model` writes it; of several, and in the layout of
            transformers.js, each has a file of its own name (`losparse_export.precision.variants` lists them), and what
            opens by default is the first.
        settings: what to make; None for fp32.
        task: see `export_model`, as for the next two.
        overwrite: see above.
        plan: see above; every form must be planned in the precision that it is for.
        calls: to plan for, in the place of those of the settings: several with weights, say.
        target: the kind of machine, in the place of that of the settings.
        data: see `export_model`, as for the next two.
        calibration: see above; for int8-static alone.
        external_from: see above.
        shared_from: bytes from which tensors that several forms hold are stored once, where settings share weights.
        progress: shows a stage.
        tracer: see `export_model`.

    Returns:
        What was written, and what was left out.

    Raises:
        ParityError: PyTorch confirms no form; nothing is left at `out`.
        LosparseError: the source, an argument or a setting is refused.
    """
    out, settings = Path(out), settings or ExportSettings()
    plan = Plan.read(plan) if isinstance(plan, Path | str) else plan
    settings.check_texts(calibrated=calibration is not None, labelled=data is not None)
    request = _request(settings, plan, calls, target, external_from, progress)
    read = () if not isinstance(source, str | Path) else (Path(source),)
    check_out(out, overwrite=overwrite, sources=read, replaces=EXPORT)
    texts = Texts(data, data if settings.calibrated and calibration is None else calibration)
    with progress.stage("exporting") as advance:
        phases = Phases(advance, "exporting")
        with (
            opened_exporter(source, request, texts, phases, task=task, tracer=tracer) as exporter,
            staged_folder(out, overwrite=overwrite, replaces=EXPORT) as folder,
            tempfile.TemporaryDirectory(prefix=".forms.", suffix=".tmp", dir=folder.parent) as root,
        ):
            written, failed = _write_forms(exporter, settings, Path(root))
            phases.at("joining", 0, 1)
            places = {name: Path(root) / name for name in written}
            shared = shared_from if settings.shares_weights else None
            contents = _join(exporter, settings, places, folder, shared)
            return _report(out, folder, contents, written, failed)


def _request(
    settings: ExportSettings,
    plan: Plan | None,
    calls: Calls | None,
    target: Target | None,
    external_from: int,
    progress: Progress,
) -> Request:
    """Return what is asked for beside the forms; a plan says its calls itself."""
    if plan is None and calls is None:
        calls = settings.call
    check_choice(plan, calls, tune=settings.tune)
    target = named_target(settings.target, settings.threads, progress=progress) if target is None else target
    return Request(settings.opset, plan, calls, settings.tune, target, settings.embeddings, external_from)


def _write_forms(
    exporter: Exporter, settings: ExportSettings, root: Path
) -> tuple[dict[str, ExportReport], dict[str, str]]:
    """Write every form into a folder of its own; returns what came out by name, and why others did not.

    Raises:
        ParityError: none came out.
        LosparseError: the same, where this machine cannot compare the only one.
    """
    written: dict[str, ExportReport] = {}
    failed: dict[str, str] = {}
    first: LosparseError | None = None
    for form in settings.forms:
        place = root / form.name
        place.mkdir()
        try:
            done = exporter.write(form, place)
        except (ParityError, NotComparableError) as error:
            failed[form.name], first = str(error), first or error
            logger.warning("%s is left out: %s", form.name, error)
            continue
        written[form.name] = report_of(done, place, onnx_parts(place, done.contents))
    if first is not None and not written:
        raise first
    return written, failed


def _join(
    exporter: Exporter, settings: ExportSettings, places: Mapping[str, Path], folder: Path, shared_from: int | None
) -> Folder:
    """Put what came out into one folder; a single form that was asked for stays as it was written."""
    if not settings.several and not settings.graph_folder:
        (place,) = places.values()
        for file in place.iterdir():
            file.rename(folder / file.name)
        return read_folder(folder)
    files = {form.name: form.file for form in settings.forms}
    contents = join_folders(places, folder, files, shared_from=shared_from, inside=settings.graph_folder)
    feeds = make_feeds(exporter.wrapped, Case(2, min(_LENGTH, exporter.wrapped.longest), padded=True))
    for name, place in places.items():
        _check_equal(exporter, place, folder, name, feeds)
    return contents


def _check_equal(exporter: Exporter, place: Path, folder: Path, name: str, feeds: Arrays) -> None:
    """Look that a form gives the very numbers that it gave where it was compared; its weights lie elsewhere now."""
    provider, threads = exporter.request.target.provider, torch.get_num_threads()
    before = exporter.open(place, threads).run(feeds)
    after = Session(folder, providers=(provider,), threads=threads, variant=name).run(feeds)
    if not all(np.array_equal(before[output], after[output], equal_nan=True) for output in before):
        raise LosparseError(f"{name} gives other numbers with its weights in shared files; set share_weights to false")


def _report(
    out: Path, folder: Path, contents: Folder, written: Mapping[str, ExportReport], failed: Mapping[str, str]
) -> VariantsReport:
    """Say what was written; of every form what it needs in the folder of all."""
    sizes, own = model_sizes(contents), {}
    for place, (name, report) in zip(contents.variants, written.items(), strict=True):
        own[name] = replace(
            report,
            folder=out,
            bytes={file: sizes[file] for file in contents.model_files(place)},
            metadata=contents.to_json(),
            parts=onnx_parts(folder, contents, place),
        )
    return VariantsReport(out, contents.task, own, failed, sizes, contents.to_json(), onnx_parts(folder, contents))
