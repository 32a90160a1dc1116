"""`Metadata`: what a folder says of one of its graphs in one of its variants, which is what a session opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .embedding import Embedding
from .folder import Folder, Source
from .records import FileRecord
from .signature import Signature
from .tensors import TensorSpec
from .variant import ModelFile, Variant


@dataclass(frozen=True)
class Metadata:
    """One graph in one variant of a folder.

    Attributes:
        folder: everything that `losparse.json` says.
        variant_name: name of the variant.
        graph_name: name of the graph.
    """

    folder: Folder
    variant_name: str
    graph_name: str

    @property
    def variant(self) -> Variant:
        """The variant: precision, session options, measurements."""
        return self.folder.variants[self.variant_name]

    @property
    def signature(self) -> Signature:
        """What the graph takes and gives."""
        return self.folder.graphs[self.graph_name]

    @property
    def model(self) -> ModelFile:
        """The file of the graph in this variant."""
        return self.variant.models[self.graph_name]

    @property
    def format(self) -> int:
        """Version of the folder format."""
        return self.folder.format

    @property
    def task(self) -> str:
        """What the model does."""
        return self.folder.task

    @property
    def source(self) -> Source:
        """The model that was exported."""
        return self.folder.source

    @property
    def precision(self) -> str:
        """As in "fp32" or "int8"."""
        return self.variant.precision

    @property
    def arithmetic(self) -> str:
        """What rounds its numbers; see `Variant`."""
        return self.variant.arithmetic

    @property
    def weight_bits(self) -> int | None:
        """Bits of a weight in an int8 product; None where there is none, or an earlier writer did not say."""
        return self.variant.weight_bits

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the graph and its weights; the model file carries the same."""
        return self.model.fingerprint

    @property
    def files(self) -> Mapping[str, FileRecord]:
        """Every file of the folder but its `losparse.json`, by name."""
        return self.folder.files

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """In the order of the file."""
        return self.signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """In the order of the file."""
        return self.signature.outputs

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names by class id; None where the task has none."""
        return self.folder.labels

    @property
    def max_length(self) -> int:
        """Positions the model has, in tokens."""
        return self.folder.max_length

    @property
    def type_ids(self) -> bool:
        """Whether the second text of a pair has other token types than the first, as it had in training."""
        return self.folder.type_ids

    @property
    def pooling(self) -> str | None:
        """How feature extraction turns tokens into one vector: as `scoring.pool` names it, or None."""
        return self.folder.pooling

    @property
    def embedding(self) -> Embedding:
        """What else it does to make a vector of a text."""
        return self.folder.embedding or Embedding()

    @property
    def normalize(self) -> bool:
        """Whether that vector is scaled to length 1."""
        return self.folder.normalize

    @property
    def disabled_optimizers(self) -> tuple[str, ...]:
        """Graph optimizers of onnxruntime that the session switches off."""
        return self.variant.disabled_optimizers

    @property
    def provider(self) -> str:
        """Execution provider that it was made for; on others its `disabled_optimizers` say nothing."""
        return self.variant.provider

    @property
    def parameters(self) -> Mapping[str, int]:
        """Counts: "model", "layers", "layers_dense"."""
        return self.folder.parameters

    @property
    def parity(self) -> Mapping[str, Any] | None:
        """The exporter's comparison with PyTorch, as `Variant` has it; None only while a folder is being made."""
        return self.variant.parity

    @property
    def model_bytes(self) -> int:
        """Size of the graph and its weights."""
        return sum(self.files[name].bytes for name in self.model.names if name in self.files)

    @property
    def token_outputs(self) -> tuple[str, ...]:
        """The outputs with one entry a token: those whose first two axes are batch and sequence."""
        return self.signature.token_outputs


def select(folder: Folder, variant: str | None = None, graph: str | None = None) -> Metadata:
    """Choose one graph in one variant.

    Args:
        folder: the contents of `losparse.json`.
        variant: its name; None for the first.
        graph: its name; None for the first.

    Raises:
        InputError: the folder has none of that name.
    """
    return Metadata(folder, _choose("variant", variant, folder.variants), _choose("graph", graph, folder.graphs))


def _choose(kind: str, name: str | None, known: Mapping[str, Variant] | Mapping[str, Signature]) -> str:
    if name is None:
        return next(iter(known))
    if name not in known:
        raise InputError(f"{kind} must be one of those the folder has ({', '.join(known)}), got {name!r}")
    return name
