"""Open the model that is to be exported, and refuse what would not come out right."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from losparse.data.labels import names_of_config
from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.layers.training import TrainingForm
from losparse.saving.folder import Checkpoint, read_checkpoint
from losparse.saving.opening import Opened, check_finite, open_whole
from losparse.saving.outputs import check_outputs, read_record
from losparse.saving.source import Download, find_model
from losparse_runtime.contract.task import TASK_FIELD, Task

from .families import TESTED
from .kinds import check_reads_text, check_task_fits, class_of, fit_padding, opening_class
from .sentence import Sentences, read_sentences
from .task_model import choose_task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be exported.

    Attributes:
        model: the transformers model, fp32, on the CPU.
        task: what it is exported for.
        name: folder name or hub id.
        folder: where it came from; None for a model in memory.
    """

    model: Any
    task: Task
    name: str
    folder: Path | None

    @cached_property
    def sentences(self) -> Sentences | None:
        """How the model makes one vector of a text, read once, for it may warn; None where that is not its task.

        Raises:
            LosparseError: its sentence-transformers files cannot be read, or contradict each other.
        """
        if not self.task.embeds:
            return None
        config = self.model.config
        causal = any(str(name).endswith("ForCausalLM") for name in (config.architectures or ())[:1])
        return read_sentences(self.folder, causal=causal and getattr(config, "is_causal", True))


def load_model(source: Any, task: str | None = None, *, download: Download | None = None) -> Loaded:
    """Open a folder or hub model, or check a model in memory.

    Args:
        source: folder, hub id ("name/name") or a transformers model.
        task: a key of `TASKS`; None to read it off the architecture.
        download: see `find_model`.

    Returns:
        The model with its task.

    Raises:
        LosparseError: the folder is missing or damaged, the task is unclear, weights are missing or not finite, or the
            model is of a kind that is not exported.
    """
    if isinstance(source, nn.Module):
        loaded = _from_memory(source, task)
    else:
        folder = find_model(source, download=download)
        name = folder.resolve().name if Path(source).exists() else str(source)
        loaded = _from_folder(folder, name, task)
    _check_model(loaded)
    return loaded


def _from_memory(model: Any, task: str | None) -> Loaded:
    architecture = type(model).__name__
    name = Path(getattr(model.config, "_name_or_path", "") or architecture).name
    quantised = getattr(model.config, "quantization_config", None)
    if quantised is not None:
        _refuse_quantised(getattr(quantised, "quant_method", quantised), name)
    for key, parameter in model.named_parameters():
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            raise LosparseError(
                f"{architecture}: parameter {key!r} is {parameter.dtype} on {parameter.device}, "
                "must be float32 on the CPU; call model.float().cpu() first"
            )
    check_reads_text(type(model), model.config.to_dict(), architecture)
    check_task_fits(task, architecture, architecture)
    config = model.config
    problem, outputs = getattr(config, "problem_type", None), getattr(config, "num_labels", None)
    named = getattr(config, TASK_FIELD, None)
    return Loaded(model, choose_task(task, architecture, architecture, problem, outputs, named=named), name, None)


def _from_folder(folder: Path, name: str, task: str | None) -> Loaded:
    checkpoint = read_checkpoint(folder)
    _check_config(checkpoint.config, folder)
    architecture = next(iter(checkpoint.config.get("architectures") or ()), None)
    check_reads_text(class_of(architecture), checkpoint.config, str(folder))
    check_task_fits(task, architecture, str(folder))
    names = checkpoint.config.get("id2label")
    outputs = len(names) if isinstance(names, dict) else checkpoint.config.get("num_labels")
    problem, named = checkpoint.config.get("problem_type"), checkpoint.config.get(TASK_FIELD)
    chosen = choose_task(task, architecture, str(folder), problem, outputs, named=named)
    model = _open(checkpoint, chosen, architecture)
    fit_padding(model, folder)
    record = read_record(folder)
    if record is not None:
        check_outputs(model, record, str(folder))
    return Loaded(model, chosen, name, folder)


def _check_config(config: Mapping[str, Any], folder: Path) -> None:
    quantised = config.get("quantization_config")
    if quantised is not None:
        _refuse_quantised(quantised.get("quant_method"), str(folder))
        if quantised.get("form") == "training":
            raise LosparseError(
                f"{folder}: is a checkpoint from the middle of a training, its masks may still move; finish the "
                "training, or load it, call losparse.compact_(model), and save it"
            )
    if config["model_type"] not in TESTED:
        logger.warning(
            "model type %r is none of the %d whose export is tested (docs/support.md); trying",
            config["model_type"],
            len(TESTED),
        )


def _refuse_quantised(method: Any, name: str) -> None:
    if method != "losparse":
        raise LosparseError(f"{name}: is quantised by {method!r}; export the model it was made from")


def _open(checkpoint: Checkpoint, task: Task, architecture: str | None) -> Any:
    opened = open_whole(opening_class(task, architecture, checkpoint.config), checkpoint, task.name)
    _check_loading(opened, checkpoint.folder, task)
    return opened.model


def _check_loading(opened: Opened, folder: Path, task: Task) -> None:
    """Refuse weights that were not in the folder: transformers fills them with random numbers."""
    if opened.misshapen:
        raise LosparseError(
            f"{folder}: {opened.mismatch(next(iter(opened.misshapen)))}; make config.json fit the weights (id2label "
            "names as many classes as a head has rows, vocab_size counts the rows of the embedding), or choose another "
            "task"
        )
    missing: Sequence[str] = opened.missing
    if task.embeds:
        # The pooler comes after the hidden states and does not change them; many checkpoints have none.
        missing = [name for name in missing if not name.startswith("pooler.")]
    if missing:
        shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise LosparseError(
            f"{folder}: has no weights for {shown}; fine-tune the model for {task.name} first, or choose another task"
        )


def refuse_experts(model: nn.Module, name: str) -> None:
    """Refuse a mixture of experts, in words and before torch tries: its own message names a node of its graph.

    Raises:
        LosparseError: the model holds experts.
    """
    for path, module in model.named_modules():
        if path.rpartition(".")[2] == "experts" and next(module.parameters(), None) is not None:
            raise LosparseError(
                f"{name}: {type(model).__name__} is a mixture of experts ({path!r}), and which of them a token takes "
                "is decided while it runs, which torch does not export; take a model without experts, or serve this "
                "one with PyTorch"
            )


def _check_model(loaded: Loaded) -> None:
    refuse_experts(loaded.model, loaded.name)
    if loaded.task.names_classes:
        names = class_names(loaded.model.config)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            ids = " and ".join(str(index) for index, name in enumerate(names) if name == twice)
            raise LosparseError(
                f"{loaded.name}: classes {ids} are all called {twice!r}; give each its own id2label in config.json"
            )
    for name, module in loaded.model.named_modules():
        if isinstance(module, TrainingForm):
            raise LosparseError(f"layer {name!r} is still in its training form; call losparse.compact_(model) first")
    check_finite(loaded.model, loaded.name, buffers=True)


def class_names(config: Any) -> list[str]:
    """Return the class names by class id."""
    return names_of_config(config.id2label)


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Count parameters: of the model (tied ones once), of its factored layers, and of those if they were dense."""
    layers = [module for module in model.modules() if isinstance(module, FactoredLinear)]
    return {
        "model": sum(parameter.numel() for parameter in model.parameters()),
        "layers": sum(layer.parameter_count() for layer in layers),
        "layers_dense": sum(layer.in_features * layer.out_features for layer in layers),
    }
