"""The report of `losparse compress`: its file, and what of it is printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..environment import versions
from ..models.coverage import coverage_line
from ..models.unfactored import other_linear
from ..saving.folder import Checkpoint, read_checkpoint
from .output import human_bytes, print_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..models.report import CompressionReport

REPORT = "losparse_report.json"


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
    """Count a dense model, before `--keep-layers` and `--keep-neurons` drop any of it."""
    return Original(sum(parameter.numel() for parameter in model.parameters()), sum(other_linear(model).values()))


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
    return {
        "compression": compression.to_dict(),
        "source_parameters": original.parameters,
        "source_linear_parameters": original.linear,
        "kept_layers": getattr(model.config, "losparse_kept_layers", None),
        "kept_neurons": getattr(model.config, "losparse_kept_neurons", None),
        "file_bytes": read_checkpoint(folder).file_bytes,
        "dense_file_bytes": source.file_bytes,
        "versions": versions("torch", "transformers"),
    }


def print_report(title: str, report: dict[str, Any]) -> None:
    """Print what a compression gave: sizes, then metrics."""
    counts = report["compression"]
    rows = [
        _row("model, parameters", report["source_parameters"], counts["model_parameters"], "{:,}".format),
        _row("weights on disk", report["dense_file_bytes"], report["file_bytes"], human_bytes),
    ]
    if counts["layers"]:
        dropped = _dropped_linear(report)
        name = "layers and what was dropped of them, parameters" if dropped else "layers, parameters"
        rows.insert(0, _row(name, counts["dense_parameters"] + dropped, counts["parameters"], "{:,}".format))
    print_table(title, ["", "dense", "compressed", "share"], rows)
    if counts["looked_at"] is not None:
        looked = counts["looked_at"]
        print(coverage_line(looked["looked_at"], looked["linear"]))
    if report["recipe"]["keep_layers"] is not None:
        print(f"blocks kept: {', '.join(map(str, report['kept_layers']))}")
    if report["kept_neurons"] is not None:
        print("neurons kept: {} of {} in every block".format(*report["kept_neurons"]))
    for name, value in report["metrics"].items():
        print(f"validation {name}: {value:.4f}")
    if any(report["truncated"].values()):
        cut = " and ".join(f"{count} of {part}" for part, count in report["truncated"].items() if count)
        print(f"longer than {report['max_length']} tokens: {cut}")


def _dropped_linear(report: dict[str, Any]) -> int:
    """Return the linear weights that --keep-layers and --keep-neurons dropped: the original model had them too."""
    looked = report["compression"]["looked_at"]
    shrunk = any(report["recipe"][key] is not None for key in ("keep_layers", "keep_neurons"))
    return max(report["source_linear_parameters"] - looked["linear"], 0) if shrunk and looked is not None else 0


def _row(name: str, dense: int, stored: int, show: Any) -> list[str]:
    return [name, show(dense), show(stored), f"{stored / dense:.1%}"]
