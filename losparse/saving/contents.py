"""What a folder stores, layer by layer: a checkpoint, compressed or dense, or an ONNX folder. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losparse_runtime.contract.fields import read_json
from losparse_runtime.contract.files import METADATA_FILE, read_metadata

from ..errors import LosparseError
from ..layers.spec import LayerSpec
from ..models.coverage import Coverage, coverage, left_by_name
from ..models.heads import Heads
from .folder import Checkpoint, read_checkpoint, stored_layers, stored_name, stored_tables
from .parts import PartBytes, checkpoint_parts, onnx_parts, tokenizer_bytes
from .variants import StoredVariant, stored_variants

_IN_BLOCK = re.compile(r"\.\d+\..*\.weight$")


@dataclass(frozen=True)
class StoredLayer:
    """One layer as stored.

    Attributes:
        name: of the layer.
        spec: what it is; of a weight that no method looked at, that of a layer that keeps everything.
        factored: whether a method looked at it.
        lowering: of an ONNX folder, the form that the plan chose.
        reason: why it did.
        refused: why it chose no other one, by form.
        heads: of a checkpoint's attention whose heads keep equally many places each, how many keep some.
    """

    name: str
    spec: LayerSpec
    factored: bool = True
    lowering: str | None = None
    reason: str | None = None
    refused: Mapping[str, str] | None = None
    heads: Heads | None = None

    @property
    def is_dense(self) -> bool:
        """Whether a method left the layer as it was: all of its rows, or columns, are kept."""
        return self.factored and self.spec.is_dense

    @property
    def parameters(self) -> int:
        """Parameters that are stored; biases and indices not counted."""
        return self.spec.parameters

    @property
    def share(self) -> float:
        """What is stored of the dense weight."""
        return self.parameters / self.spec.dense_parameters

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; of a weight that no method looked at there is no rank."""
        spec = self.spec
        return {
            "name": self.name,
            "out_features": spec.out_features,
            "in_features": spec.in_features,
            "rank": spec.rank if self.factored else None,
            "kept": spec.kept if self.factored else None,
            "axis": spec.axis if self.factored else None,
            "parameters": self.parameters,
            "lowering": self.lowering,
            "reason": self.reason,
            "refused": self.refused,
            "pivots": spec.pivot_side,
            "v_of": spec.v_of,
            "share": self.share,
            "heads": None if self.heads is None else self.heads.to_entry(),
        }


@dataclass(frozen=True)
class FolderContents:
    """What a folder holds.

    Attributes:
        kind: "compressed checkpoint", "dense checkpoint" or "ONNX folder".
        layers: compressed layers; for a dense checkpoint the weights in its transformer blocks.
        model_parameters: of the whole model; indices not counted.
        parts: bytes of the model's files, by part of the model.
        precision: of an ONNX folder, or those of its variants; None for a checkpoint.
        weight_bits: of a weight in an int8 product; None where there is none.
        embeddings: "int8" where an export rounded embedding tables to int8 rows; None elsewhere.
        tokenizer_bytes: size of the tokenizer's files, which no other number here counts.
        coverage: of a checkpoint, how much of its linear weights the layers are.
        variants: of an ONNX folder, its forms; empty for a checkpoint.
    """

    kind: str
    layers: tuple[StoredLayer, ...]
    model_parameters: int
    parts: PartBytes
    precision: str | None = None
    weight_bits: int | None = None
    embeddings: str | None = None
    tokenizer_bytes: int = 0
    coverage: Coverage | None = None
    variants: tuple[StoredVariant, ...] = ()

    @property
    def file_bytes(self) -> int:
        """Size of the model's files."""
        return self.parts.total

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        stored = sum(layer.spec.parameters for layer in self.layers)
        dense = sum(layer.spec.dense_parameters for layer in self.layers)
        return {
            "kind": self.kind,
            "precision": self.precision,
            "weight_bits": self.weight_bits,
            "embeddings": self.embeddings,
            "model_parameters": self.model_parameters,
            "file_bytes": self.file_bytes,
            "bytes": self.parts.to_dict(),
            "tokenizer_bytes": self.tokenizer_bytes,
            "layer_parameters": stored,
            "layer_dense_parameters": dense,
            "layer_share": stored / dense if dense else None,
            "looked_at": None if self.coverage is None else self.coverage.to_dict(),
            "layers": [layer.to_dict() for layer in self.layers],
            "variants": [variant.to_dict() for variant in self.variants],
        }


def inspect_folder(folder: Path | str) -> FolderContents:
    """Read what a folder holds, from its configuration and headers; no weights are read.

    `inspect_folder(folder).parts` says where its bytes are.

    Args:
        folder: a checkpoint, compressed or dense, or an ONNX folder.

    Raises:
        LosparseError: it is neither a checkpoint nor an ONNX folder, or it contradicts itself.
        FolderError: it is an ONNX folder, and damaged.
    """
    folder = Path(folder)
    if (folder / METADATA_FILE).is_file():
        return _onnx_contents(folder)
    checkpoint = read_checkpoint(folder)
    layers = _compressed_layers(checkpoint) if checkpoint.compressed else _dense_layers(checkpoint)
    kind = "compressed checkpoint" if checkpoint.compressed else "dense checkpoint"
    stored = {name.rpartition(".")[0] for name in checkpoint.shapes}
    taken = {stored_name(layer.name, stored): layer for layer in layers}
    dense = sum(layer.spec.dense_parameters for layer in layers)
    tables = stored_tables(checkpoint) if checkpoint.compressed else {}
    not_linear = {stored_name(name, stored) for name in tables}
    left = left_by_name(checkpoint.shapes, {**taken, **dict.fromkeys(not_linear)})
    looked_at = coverage(dense, left) if layers else None
    return FolderContents(
        kind,
        layers,
        checkpoint.parameters,
        checkpoint_parts(checkpoint),
        tokenizer_bytes=tokenizer_bytes(folder),
        coverage=looked_at,
    )


def _compressed_layers(checkpoint: Checkpoint) -> tuple[StoredLayer, ...]:
    """Return the layers that a compressed folder's configuration lists, checked against the tensors it stores.

    Raises:
        LosparseError: the configuration and the tensors disagree.
    """
    entries = stored_layers(checkpoint)
    noted = (checkpoint.quantization or {}).get("layers", {})
    return tuple(
        StoredLayer(name, entries[name], heads=Heads.from_entry(noted[name].get("heads")))
        for name in sorted(entries, key=_natural)
    )


def _dense_layers(checkpoint: Checkpoint) -> tuple[StoredLayer, ...]:
    """Return the weights that have two axes and lie in numbered blocks."""
    return tuple(
        StoredLayer(name.removesuffix(".weight"), LayerSpec.dense(*shape), factored=False)
        for name, shape in sorted(checkpoint.shapes.items(), key=lambda item: _natural(item[0]))
        if len(shape) == 2 and _IN_BLOCK.search(name)
    )


def _natural(name: str) -> list[Any]:
    """Return a key by which block 10 comes after block 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _onnx_contents(folder: Path) -> FolderContents:
    metadata = read_metadata(folder)
    file = folder / metadata.variant.plan
    plan = read_json(file).data if file.is_file() else {}
    try:
        layers = tuple(
            _planned_layer(name, plan["layers"][name]) for name in sorted(plan.get("layers", {}), key=_natural)
        )
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise LosparseError(f"'{file}' is malformed ({error!r}); export the folder again") from None
    variants = metadata.folder.variants.values()
    precisions = ", ".join(dict.fromkeys(variant.precision for variant in variants))
    bits = next((variant.weight_bits for variant in variants if variant.weight_bits is not None), None)
    embeddings = next((variant.embeddings for variant in variants if variant.embeddings is not None), None)
    return FolderContents(
        "ONNX folder",
        layers,
        int(metadata.parameters["model"]),
        onnx_parts(folder, metadata.folder),
        precisions,
        bits,
        embeddings,
        tokenizer_bytes(folder),
        variants=stored_variants(metadata.folder),
    )


def _planned_layer(name: str, entry: dict[str, Any]) -> StoredLayer:
    refused = {str(form): str(why) for form, why in entry["refused"].items()}
    spec = LayerSpec.from_plan(entry)
    return StoredLayer(name, spec, lowering=str(entry["lowering"]), reason=str(entry["reason"]), refused=refused)
