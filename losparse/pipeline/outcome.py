"""What every report says of a checkpoint that was written, beside the one that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..environment import versions
from ..models.report import CompressionReport
from ..models.tables import stored_parameters
from ..models.unfactored import other_linear
from ..saving.folder import Checkpoint, read_checkpoint
from ..saving.parts import checkpoint_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Original:
    """Counts of the model before anything was dropped.

    Attributes:
        parameters: all of them.
        linear: those of linear weights, as `losparse.models.coverage` counts them.
    """

    parameters: int
    linear: int


def count_original(model: PreTrainedModel) -> Original:
    """Count a dense model, before any blocks or neurons are dropped."""
    return Original(stored_parameters(model), sum(other_linear(model).values()))


def outcome_of(
    model: PreTrainedModel, folder: Path, source: Checkpoint, original: Original, compression: CompressionReport
) -> dict[str, Any]:
    """Return what every report says of a checkpoint that was just written, beside the one it came from.

    Args:
        model: as it was saved.
        folder: that was written.
        source: what it was made of.
        original: counts of the model before anything was dropped.
        compression: what its layers store.
    """
    written = read_checkpoint(folder)
    return {
        "compression": compression.to_dict(),
        "source_parameters": original.parameters,
        "source_linear_parameters": original.linear,
        "kept_layers": getattr(model.config, "losparse_kept_layers", None),
        "kept_neurons": getattr(model.config, "losparse_kept_neurons", None),
        "file_bytes": written.file_bytes,
        "bytes": checkpoint_parts(written).to_dict(),
        "dense_file_bytes": source.file_bytes,
        "versions": versions("torch", "transformers"),
    }
