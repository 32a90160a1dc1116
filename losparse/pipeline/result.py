"""What a caller gets of a compression. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..models.report import CompressionReport


@dataclass(frozen=True)
class CompressedFolder:
    """A folder that was compressed and written.

    Attributes:
        path: of the folder.
        compression: what its layers store.
        metrics: of the validation texts, by name; none without training.
        steps: optimizer steps; 0 without training.
        seconds: wall time of training, or of compressing.
        calibration_rows: rows of text that were looked at without training.
        report: contents of `losparse_report.json`, which holds all that determined the result.
    """

    path: Path
    compression: CompressionReport
    metrics: Mapping[str, float]
    steps: int
    seconds: float
    calibration_rows: int
    report: Mapping[str, Any]
