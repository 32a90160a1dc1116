"""What an ONNX folder says of each of its variants. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from losparse_runtime.contract.folder import Folder
from losparse_runtime.contract.variant import Variant


@dataclass(frozen=True)
class StoredVariant:
    """One variant as stored.

    Attributes:
        name: of the variant.
        file: of its graph, the first of them where it has several.
        bytes: of its graphs and weights; a file that variants share counts in each of them.
        parity: the exporter's comparison with PyTorch; None where there was none.
        accuracy: right answers on labelled texts; None where there were none.
        times: median milliseconds of a call by what was called, as "cpu-amx 1x128 1t"; None where nobody measured.
    """

    name: str
    file: str
    bytes: int
    parity: Mapping[str, Any] | None
    accuracy: Mapping[str, Any] | None
    times: Mapping[str, float] | None

    @property
    def difference(self) -> str:
        """How far it is from PyTorch, in words."""
        if self.parity is None:
            return "-"
        cosine = f", cosine {self.parity['cosine']:.4f}" if "cosine" in self.parity else ""
        return f"{self.parity['max_abs']:.1e}{cosine}"

    @property
    def rightness(self) -> str:
        """How right it is on labelled texts, in words."""
        found = self.accuracy or {}
        value = found.get("value", found.get("onnx"))
        if value is None:
            return "-"
        metric, error = found.get("metric"), found.get("error")
        spread = "" if error is None else f" +- {error:.4f}"
        return f"{value:.4f}{spread}" if metric is None else f"{metric} {value:.4f}{spread}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "name": self.name,
            "file": self.file,
            "bytes": self.bytes,
            "parity": None if self.parity is None else dict(self.parity),
            "accuracy": None if self.accuracy is None else dict(self.accuracy),
            "times": None if self.times is None else dict(self.times),
        }


def stored_variants(folder: Folder) -> tuple[StoredVariant, ...]:
    """Return what a folder says of its variants, in its order."""
    return tuple(_stored(folder, name, variant) for name, variant in folder.variants.items())


def _stored(folder: Folder, name: str, variant: Variant) -> StoredVariant:
    size = sum(folder.files[file].bytes for file in folder.model_files(name))
    file = next(iter(variant.models.values())).file
    return StoredVariant(name, file, size, variant.parity, variant.accuracy, variant.times)
