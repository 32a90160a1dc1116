"""`export_model`: the whole way from a model to a folder, in the order in which it happens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

import losparse

from .assets import copy_tokenizer, read_pooling, tokenizer_limit
from .load import Loaded, load_model
from .lower import lower_model
from .metadata import PRECISION, describe_model, graph_metadata, model_config
from .parity import TOLERANCES, ParityReport, Progress, check_parity
from .passes import finish_model, prepare_model
from .plan import Plan, plan_model
from .tasks import TaskModel, max_positions
from .trace import check_opset, trace_model
from .write import EXTERNAL_FROM, METADATA_FILE, check_out, fingerprint, save_model, staged_folder

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
        bytes: size of each model file.
        metadata: the contents of `losparse.json`.
    """

    folder: Path
    task: str
    plan: Plan
    parity: ParityReport
    bytes: Mapping[str, int]
    metadata: Mapping[str, Any]


def export_model(
    source: str | Path | PreTrainedModel,
    out: str | Path,
    *,
    task: str | None = None,
    opset: int = 23,
    overwrite: bool = False,
    plan: Plan | None = None,
    external_from: int = EXTERNAL_FROM,
    progress: Progress | None = None,
) -> ExportReport:
    """Export a model to an ONNX folder, and keep the folder only if its outputs equal PyTorch's.

    Args:
        source: folder of a transformers model, dense or compressed; hub id; or a transformers model in memory (fp32, on
            the CPU; it is not changed). A model in memory brings no tokenizer.
        out: the folder to write.
        task: "text-classification", "token-classification", "question-answering" or "feature-extraction"; None to read
            it off the architecture.
        opset: ONNX operator set, 23 or 18.
        overwrite: replace an earlier export at `out`.
        plan: the form of every factored layer; None for the cheapest by estimate.
        external_from: weights of more bytes in all are written beside the graph, not into it.
        progress: called with a text, the number of steps done, and their number.

    Returns:
        What was written.

    Raises:
        ParityError: the exported model differs from PyTorch; nothing is left at `out`.
        LosparseError: the source, an argument or the target is refused.
    """
    out = Path(out)
    check_opset(opset)
    check_out(out, overwrite=overwrite)
    tell = progress or (lambda _text, _done, _steps: None)
    tell(_STEPS[0], 0, len(_STEPS))
    loaded = load_model(source, task)
    with _evaluation(loaded.model), staged_folder(out, overwrite=overwrite) as folder:
        tell(_STEPS[1], 1, len(_STEPS))
        wrapped = TaskModel(loaded.model, loaded.task)
        graph = prepare_model(trace_model(wrapped, opset=opset))
        tell(_STEPS[2], 2, len(_STEPS))
        plan = plan_model(graph) if plan is None else plan
        graph = finish_model(lower_model(graph, plan))
        tell(_STEPS[3], 3, len(_STEPS))
        metadata = _write(folder, loaded, graph, plan, external_from)
        parity = check_parity(wrapped, folder, precision=PRECISION, progress=progress)
        metadata["parity"] = parity.to_dict()
        _write_json(folder / METADATA_FILE, metadata)
    sizes = {name: record["bytes"] for name, record in metadata["files"].items()}
    return ExportReport(out, loaded.task.name, plan, parity, sizes, metadata)


def _write(folder: Path, loaded: Loaded, graph: ir.Model, plan: Plan, external_from: int) -> dict[str, Any]:
    """Write everything but the result of the comparison, which is made with what is written here."""
    longest = max_positions(loaded.model)
    pooling = None
    if loaded.folder is not None:
        copy_tokenizer(loaded.folder, folder)
        longest = min(longest, tokenizer_limit(loaded.folder) or longest)
    if loaded.task.name == "feature-extraction":
        pooling = read_pooling(loaded.folder)
    metadata = describe_model(loaded, graph, pooling=pooling, max_length=longest)
    metadata["fingerprint"] = fingerprint(graph)
    graph.producer_name, graph.producer_version = "losparse", losparse.__version__
    graph.metadata_props.clear()
    graph.metadata_props.update(graph_metadata(metadata, plan.digest(), metadata["fingerprint"]))
    metadata["files"] = save_model(graph, folder, external_from=external_from)
    metadata["parity"] = {"max_abs": 0.0, "max_rel": 0.0, "tolerance": TOLERANCES[PRECISION], "cases": []}
    _write_json(folder / "config.json", model_config(loaded))
    _write_json(folder / "plan.json", plan.to_dict())
    _write_json(folder / METADATA_FILE, metadata)
    return metadata


def _write_json(file: Path, data: Any) -> None:
    file.write_text(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def _evaluation(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode with an attention that can be traced, and back."""
    training = [module for module in model.modules() if module.training]
    attention = model.config._attn_implementation
    wanted = "sdpa" if model._supports_sdpa else "eager"
    try:
        model.eval()
        if attention != wanted:
            model.set_attn_implementation(wanted)
        yield
    finally:
        for module in training:
            module.training = True
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
