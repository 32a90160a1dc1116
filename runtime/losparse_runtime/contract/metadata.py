"""`losparse.json`: what an exported folder says about itself, read strictly.

A field that is missing or of the wrong type is an error. A field this version does not know is skipped: writers may add
fields within a format version, and raise the version when an older reader would go wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FolderError
from .embedding import Embedding, parse_embedding, parse_pooling
from .fields import Fields
from .task import TASKS

FORMATS = (1, 2, 3)
MODEL_FILE = "model.onnx"
MODEL_FILES = (MODEL_FILE, "model.onnx.data")
FINGERPRINT_KEY = "losparse.fingerprint"
DESCRIPTION_KEY = "losparse.description"  # what the graph itself carries of losparse.json, as JSON

# Element types by the name numpy gives them, and by the name onnxruntime gives them.
ORT_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}
_DTYPES = tuple(ORT_DTYPES.values())


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of the model.

    Attributes:
        name: its name in the graph.
        dtype: the numpy name of its element type.
        shape: one entry an axis: a size, or the name of an axis whose size is free ("batch", "sequence").
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (64 hexadecimal digits) of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """The model that was exported.

    Attributes:
        model: folder name or hub id.
        model_type: the configuration's word for the family, as in "bert".
        architecture: class name of the PyTorch model.
        compressed: whether it had factored layers.
        method: the compression method and its settings; None for a dense model.
    """

    model: str
    model_type: str
    architecture: str
    compressed: bool
    method: Mapping[str, Any] | None


@dataclass(frozen=True)
class Metadata:
    """The contents of `losparse.json`.

    Attributes:
        format: version of the folder format.
        task: a key of `TASKS`, of a task that is exported.
        source: the model that was exported.
        precision: as in "fp32" or "int8".
        weight_bits: bits of a weight in an int8 product; None where there is none, or an earlier writer did not say.
        opset: ONNX operator-set version.
        ir_version: ONNX file-format version.
        fingerprint: SHA-256 of the graph and its weights; the model file carries the same.
        files: every file of the folder but this one, by name; earlier writers listed the model's files alone.
        inputs: in the order of the file.
        outputs: in the order of the file.
        labels: class names by class id; None where the task has none.
        max_length: positions the model has, in tokens.
        type_ids: whether the second text of a pair has other token types than the first, as it had in training.
        pooling: how feature extraction turns tokens into one vector: as `scoring.pool` names it, or None.
        embedding: what else it does to make a vector of a text.
        normalize: whether that vector is scaled to length 1.
        disabled_optimizers: onnxruntime graph optimizers the session switches off.
        parameters: counts: "model", "layers", "layers_dense".
        parity: the exporter's comparison with PyTorch: "max_abs", "max_rel", "tolerance", "cases"; and "cosine",
            "top1_agreement", "batch_mates" and "vectors" where the exporter wrote them.
        versions: of the packages that wrote the folder.
    """

    format: int
    task: str
    source: Source
    precision: str
    weight_bits: int | None
    opset: int
    ir_version: int
    fingerprint: str
    files: Mapping[str, FileRecord]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] | None
    max_length: int
    type_ids: bool
    pooling: str | None
    embedding: Embedding
    normalize: bool
    disabled_optimizers: tuple[str, ...]
    parameters: Mapping[str, int]
    parity: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def model_bytes(self) -> int:
        """Size of the graph and its weights."""
        return sum(record.bytes for name, record in self.files.items() if name in MODEL_FILES)

    @property
    def token_outputs(self) -> tuple[str, ...]:
        """The outputs with one entry a token: those whose first two axes are batch and sequence."""
        return tuple(spec.name for spec in self.outputs if spec.shape[:2] == ("batch", "sequence"))


def parse_metadata(fields: Fields) -> Metadata:
    """Check every field of `losparse.json` and the agreement between them.

    Args:
        fields: the file's object.

    Returns:
        The checked metadata.

    Raises:
        FolderError: the format version is not this one; a field is missing, of the wrong type, or contradicts another.
    """
    metadata = Metadata(
        format=_format(fields),
        task=fields.choice("task", tuple(name for name, task in TASKS.items() if task.exported)),
        source=_source(fields.object("source")),
        precision=fields.text("precision"),
        weight_bits=fields.integer("weight_bits", 1) if "weight_bits" in fields.data else None,
        opset=fields.integer("opset", 1),
        ir_version=fields.integer("ir_version", 1),
        fingerprint=fields.digest("fingerprint"),
        files=_files(fields.object("files")),
        inputs=_tensors(fields, "inputs"),
        outputs=_tensors(fields, "outputs"),
        labels=None if fields.is_null("labels") else fields.texts("labels"),
        max_length=fields.integer("max_length", 1),
        type_ids=fields.flag("type_ids") if "type_ids" in fields.data else True,
        pooling=parse_pooling(fields),
        embedding=parse_embedding(fields.object("embedding")) if "embedding" in fields.data else Embedding(),
        normalize=fields.flag("normalize"),
        disabled_optimizers=fields.object("session").texts("disabled_optimizers"),
        parameters=_parameters(fields.object("parameters")),
        parity=_parity(fields.object("parity")),
        versions=_versions(fields.object("versions")),
    )
    _check_agreement(metadata, fields.file)
    return metadata


def _format(fields: Fields) -> int:
    version = fields.integer("format", 1)
    if version not in FORMATS:
        known = f"{FORMATS[0]} to {FORMATS[-1]}"
        raise FolderError(
            f"{fields.file}: field 'format' is {version}, this losparse_runtime reads {known}: "
            "a newer losparse wrote the folder; pip install --upgrade losparse, or export it again with this version"
        )
    return version


def _source(fields: Fields) -> Source:
    return Source(
        model=fields.text("model"),
        model_type=fields.text("model_type"),
        architecture=fields.text("architecture"),
        compressed=fields.flag("compressed"),
        method=None if fields.is_null("method") else fields.object("method").data,
    )


def _files(fields: Fields) -> dict[str, FileRecord]:
    records = {}
    for name in fields.data:
        # A name with a separator could point outside the folder.
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise FolderError(f"{fields.file}: field 'files' must name files inside the folder, got {name!r}")
        record = fields.object(name)
        records[name] = FileRecord(record.integer("bytes", 0), record.digest("sha256"))
    if MODEL_FILE not in records:
        fields.fail(MODEL_FILE, "an object")
    return records


def _tensors(fields: Fields, name: str) -> tuple[TensorSpec, ...]:
    specs = tuple(
        TensorSpec(tensor.text("name"), tensor.choice("dtype", _DTYPES), _shape(tensor))
        for tensor in fields.objects(name)
    )
    if not specs or len({spec.name for spec in specs}) != len(specs):
        fields.fail(name, "a list of at least one tensor, each name once")
    return specs


def _shape(fields: Fields) -> tuple[int | str, ...]:
    shape = fields.data.get("shape")
    if not isinstance(shape, list) or not all(_is_axis(axis) for axis in shape):
        fields.fail("shape", "a list of axis names and sizes >= 1")
    return tuple(shape)


def _is_axis(axis: object) -> bool:
    if isinstance(axis, str):
        return bool(axis)
    return isinstance(axis, int) and not isinstance(axis, bool) and axis >= 1


def _parameters(fields: Fields) -> dict[str, int]:
    return {name: fields.integer(name, 0) for name in ("model", "layers", "layers_dense")}


# Of the parts of "parity": the least that each of their numbers can be.
_AGREEMENTS = {
    "batch_mates": {"max_abs": 0.0, "cosine": -1.0, "top1_agreement": 0.0},
    "vectors": {"mean_cosine": -1.0, "worst_cosine": -1.0, "rank_agreement": -1.0},
}


def _parity(fields: Fields) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: fields.number(name) for name in ("max_abs", "max_rel", "tolerance")}
    for name, minimum in (("cosine", -1.0), ("top1_agreement", 0.0)):
        if name in fields.data:  # earlier writers had neither
            numbers[name] = fields.number(name, minimum)
    for name, least in _AGREEMENTS.items():
        if name in fields.data:
            part = fields.object(name)
            counted = {"texts": part.integer("texts", 1)}
            numbers[name] = {key: part.number(key, minimum) for key, minimum in least.items()} | counted
    return {**numbers, "cases": [case.data for case in fields.objects("cases")]}


def _versions(fields: Fields) -> dict[str, str]:
    return {name: fields.text(name) for name in fields.data}


def _check_agreement(metadata: Metadata, file: Path) -> None:
    """Refuse fields that are right one by one and wrong together."""
    outputs = {spec.name: spec for spec in metadata.outputs}
    task = TASKS[metadata.task]
    for name in task.outputs:
        if name not in outputs:
            raise FolderError(
                f"{file}: field 'outputs' must have {name!r} for task {metadata.task}, got {', '.join(outputs)}"
            )
    ids = next((spec for spec in metadata.inputs if spec.name == "input_ids"), None)
    if ids is None or len(ids.shape) != 2:
        raise FolderError(f"{file}: field 'inputs' must have 'input_ids' with the two axes batch and sequence")
    if not task.names_classes:
        return
    (logits,) = task.outputs
    classes = outputs[logits].shape[-1:]
    if metadata.labels is None or classes != (len(metadata.labels),):
        got = "none" if metadata.labels is None else f"{len(metadata.labels)}"
        raise FolderError(
            f"{file}: field 'labels' must name every class of output {logits!r}, whose shape is "
            f"{list(outputs[logits].shape)}, got {got}"
        )
