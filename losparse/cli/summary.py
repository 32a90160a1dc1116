"""What of the report of `losparse compress` is printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..layers.table import TableSpec
from ..models.coverage import coverage_line
from ..saving.parts import PartBytes
from .output import human_bytes, print_table


def print_report(title: str, report: Mapping[str, Any]) -> None:
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
    print(PartBytes(**report["bytes"]).line)
    if counts["looked_at"] is not None:
        looked = counts["looked_at"]
        print(coverage_line(looked["looked_at"], looked["linear"]))
    for line in counts["attentions"]:
        print(line)
    if report["recipe"]["keep_layers"] is not None:
        print(f"blocks kept: {', '.join(map(str, report['kept_layers']))}")
    if report["kept_neurons"] is not None:
        print("neurons kept: {} of {} in every block".format(*report["kept_neurons"]))
    for name, table in counts["embeddings"].items():
        print(f"embeddings: {name} is {TableSpec(**table).words}")
    for name, value in report["metrics"].items():
        print(f"validation {name}: {value:.4f}")
    if any(report["truncated"].values()):
        cut = " and ".join(f"{count} of {part}" for part, count in report["truncated"].items() if count)
        print(f"longer than {report['max_length']} tokens: {cut}")


def _dropped_linear(report: Mapping[str, Any]) -> int:
    """Return the linear weights that --keep-layers and --keep-neurons dropped: the original model had them too."""
    looked = report["compression"]["looked_at"]
    shrunk = any(report["recipe"][key] is not None for key in ("keep_layers", "keep_neurons"))
    return max(report["source_linear_parameters"] - looked["linear"], 0) if shrunk and looked is not None else 0


def _row(name: str, dense: int, stored: int, show: Callable[[int], str]) -> list[str]:
    return [name, show(dense), show(stored), f"{stored / dense:.1%}"]
