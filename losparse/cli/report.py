"""The report of `losparse compress`: its file, and what of it is printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..coverage import coverage_line
from ..machine import versions
from .checkpoint import Checkpoint, read_checkpoint
from .output import human_bytes, print_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..compress import CompressionReport

REPORT = "losparse_report.json"
_METRICS = ("accuracy", "matthews", "pearson", "spearman", "mse", "perplexity", "loss")


def outcome_of(
    model: PreTrainedModel, folder: Path, source: Checkpoint, source_parameters: int, compression: CompressionReport
) -> dict[str, Any]:
    """Return what every report says of a checkpoint that was just written, beside the one it came from.

    Args:
        model: as it was saved.
        folder: that was written.
        source: what it was made of.
        source_parameters: of the model before anything was dropped.
        compression: what its layers store.
    """
    return {
        "compression": compression.to_dict(),
        "source_parameters": source_parameters,
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
        rows.insert(0, _row("layers, parameters", counts["dense_parameters"], counts["parameters"], "{:,}".format))
    print_table(title, ["", "dense", "compressed", "share"], rows)
    if counts["looked_at"] is not None:
        looked = counts["looked_at"]
        print(coverage_line(looked["looked_at"], looked["linear"]))
    if report["recipe"]["keep_layers"] is not None:
        print(f"blocks kept: {', '.join(map(str, report['kept_layers']))}")
    if report["kept_neurons"] is not None:
        print("neurons kept: {} of {} in every block".format(*report["kept_neurons"]))
    for name in _METRICS:
        if name in report["metrics"]:
            print(f"validation {name}: {report['metrics'][name]:.4f}")
    if any(report["truncated"].values()):
        cut = " and ".join(f"{count} of {part}" for part, count in report["truncated"].items() if count)
        print(f"longer than {report['max_length']} tokens: {cut}")


def _row(name: str, dense: int, stored: int, show: Any) -> list[str]:
    return [name, show(dense), show(stored), f"{stored / dense:.1%}"]
