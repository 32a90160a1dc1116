"""Opening a model's folder with transformers: whole, or refused in one line that says what does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from losparse_runtime.text.panics import panics_caught

from ..errors import LosparseError
from ..layers.embedding import CompactTable
from .folder import Checkpoint, stored_layers, stored_tables

_NEW_NUMBERS = 500_000_000
"""Numbers that a model may hold beyond twice those of its folder: a new head, masks that are computed."""
_NUMBER = re.compile(r"\d+")
_LONGEST = 240
"""Characters that are shown of another library's message."""


@dataclass(frozen=True)
class Opened:
    """A model as its folder gave it; what it did not give is random.

    Attributes:
        model: the transformers model, in fp32.
        missing: names of weights that the folder does not have, sorted.
        misshapen: of weights that have another shape there than in the model: both, by name.
    """

    model: Any
    missing: tuple[str, ...]
    misshapen: Mapping[str, tuple[Sequence[int], Sequence[int]]]

    def mismatch(self, name: str) -> str:
        """Say which shapes a weight of `misshapen` has."""
        stored, wanted = ("x".join(map(str, shape)) for shape in self.misshapen[name])
        return f"'{name}' is {stored} in the weights and {wanted} by config.json"


def open_whole(kind: Any, checkpoint: Checkpoint, purpose: str, **options: Any) -> Opened:
    """Open a folder in fp32 with a class of transformers.

    Weights that are missing, or of another shape than the model's, are the caller's to judge: training makes up for a
    new head.

    Args:
        kind: a model class of transformers, or one of its Auto classes.
        checkpoint: the folder, read and checked.
        purpose: what it is opened for, for messages.
        options: more options of `from_pretrained`.

    Returns:
        The model, and which of its weights are not those of the folder.

    Raises:
        LosparseError: transformers cannot open it; its configuration describes another model than its weights hold;
            or a weight is not of floating-point numbers.
    """
    from transformers import AutoConfig

    from . import quantizer  # noqa: F401 (registers the loader of compressed folders)

    folder = str(checkpoint.folder)
    if checkpoint.compressed:
        stored_layers(checkpoint, renamed=True)
        stored_tables(checkpoint, renamed=True)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **options)
        _check_room(kind, config, checkpoint)
        with quiet_loading():
            model, info = kind.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # judged by name and shape; otherwise the error does not say which
                output_loading_info=True,
                **options,
            )
    except LosparseError:
        raise
    except Exception as error:  # transformers raises what its code runs into: unrelated types, for unfit folders
        raise LosparseError(f"model '{folder}' cannot be opened for {purpose}: {_first_line(error)}") from error
    _check_left_over(checkpoint, model, info)
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            raise LosparseError(
                f"model '{folder}': weight '{name}' must be of floating-point numbers, got {parameter.dtype}; save the "
                "model again with save_pretrained"
            )
    misshapen = {name: (stored, wanted) for name, stored, wanted in sorted(info["mismatched_keys"])}
    return Opened(model, tuple(sorted(map(str, info["missing_keys"]))), misshapen)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' reports and bars off the terminal while the block runs: what matters of a load is checked."""
    from transformers.utils import logging as hf_logging

    level, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bar:
            hf_logging.enable_progress_bar()


def check_finite(model: nn.Module, name: str, *, buffers: bool = False) -> None:
    """Refuse a model with a weight that is NaN or infinite.

    Args:
        model: to be looked at.
        name: what to call it.
        buffers: look at its buffers too; models of some families keep infinities in masks there.

    Raises:
        LosparseError: see above.
    """
    for key, tensor in (*model.named_parameters(), *(model.named_buffers() if buffers else ())):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise LosparseError(
                f"model '{name}' has NaN or infinity in '{key}'; use a sound copy of the model, or train it again"
            )


def open_tokenizer(folder: Path) -> Any:
    """Open the tokenizer of a folder with transformers.

    Raises:
        LosparseError: it does not open.
    """
    from transformers import AutoTokenizer

    try:
        with panics_caught():
            return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # transformers raises unrelated types for what it cannot read
        raise LosparseError(
            f"the tokenizer of '{folder}' cannot be opened: {_first_line(error)}; save it again, with tokenizer.json"
        ) from error


def _check_room(kind: Any, config: Any, checkpoint: Checkpoint) -> None:
    """Refuse a configuration of a much larger model than the weights are of, before its memory is asked for."""
    with torch.device("meta"):
        build = kind.from_config if hasattr(kind, "from_config") else kind._from_config
        shell: nn.Module = build(config)
    wanted = sum(tensor.numel() for tensor in (*shell.parameters(), *shell.buffers()))
    stored = checkpoint.parameters
    if checkpoint.compressed:
        stored += sum(layer.dense_parameters for layer in stored_layers(checkpoint, renamed=True).values())
        stored += sum(table.dense_parameters for table in stored_tables(checkpoint, renamed=True).values())
    if wanted > 2 * stored + _NEW_NUMBERS:
        raise LosparseError(
            f"'{checkpoint.folder / 'config.json'}' describes a model of {wanted:,} numbers, the weights hold "
            f"{stored:,}; its sizes are not those of the model: copy it again"
        )


def _check_left_over(checkpoint: Checkpoint, model: nn.Module, info: Mapping[str, Any]) -> None:
    """Refuse weights of blocks that the configuration leaves out; what another head stores may be left over."""
    forms = {_form(name) for name in model.state_dict()}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for name in sorted(info["unexpected_keys"]):
        if forms & {_form(name), _form(name.removeprefix(prefix)), _form(prefix + name)}:
            raise LosparseError(
                f"model '{checkpoint.folder}': config.json leaves out '{name}', which the weights hold beside others "
                "of its kind; set the number of layers in config.json to theirs, or save the model again with "
                "save_pretrained"
            )


def _form(name: str) -> str:
    """Return what the name of a weight has in common with those of the other blocks."""
    return _NUMBER.sub("#", name)


def embedding_rows(model: Any) -> int | None:
    """Return how many tokens a model has embeddings of; None where it has no table of them."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:  # what transformers raises for models of other inputs
        return None
    return table.num_embeddings if isinstance(table, nn.Embedding | CompactTable) else None


def _first_line(error: BaseException) -> str:
    """Return the beginning of another library's message, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
