"""Where a command's model is: a folder or a hub id; and which models it refuses."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import LosparseError
from ..saving.folder import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "find_model", "read_checkpoint", "refuse_compressed"]

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def find_model(name: str) -> Path:
    """Return the folder of a model: a path, or a hub id, whose files are then fetched.

    Raises:
        LosparseError: there is no such folder, and no such model on the hub.
    """
    path = Path(name)
    if path.exists():
        return path
    if not _HUB_ID.fullmatch(name):
        raise LosparseError(f"model folder '{name}' does not exist; give a folder or a hub id as owner/name")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]))
    except Exception as error:  # the hub client raises many unrelated types: network, no such name, no rights
        reason = " ".join(str(error).split())[:200]
        raise LosparseError(f"no model folder '{name}', and it could not be fetched from the hub: {reason}") from error


def refuse_compressed(checkpoint: Checkpoint) -> None:
    """Refuse a model that is not dense.

    Raises:
        LosparseError: the model was compressed or quantised before.
    """
    entry = checkpoint.quantization
    if checkpoint.compressed:
        raise LosparseError(
            f"model '{checkpoint.folder}' is already compressed by losparse; start from its dense model"
        )
    if entry is not None:
        method = entry.get("quant_method", "unknown")
        raise LosparseError(
            f"model '{checkpoint.folder}' is already quantised (method '{method}'); start from its dense model"
        )
