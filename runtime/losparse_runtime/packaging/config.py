"""`config.pbtxt`: what Triton reads of a model, in the text form of its schema (`model_config.proto`).

Where the schema has no words for a setting of our sessions, the file's first lines say so.

References:
    triton-inference-server/common, protobuf/model_config.proto; triton-inference-server/onnxruntime_backend, README,
    for the names of parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from ..contract.signature import Signature
from ..contract.tensors import BATCH, TensorSpec
from ..contract.variant import MODEL_FILE
from ..errors import FolderError
from .settings import TritonSettings

CONFIG_FILE = "config.pbtxt"
_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "float64": "TYPE_FP64",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "bool": "TYPE_BOOL",
}
_FREE = -1
_KINDS = {"cpu": "KIND_CPU", "cuda": "KIND_GPU"}
_PARAMETERS = {"execution_mode": 0, "inter_op_thread_count": 1}
"""As our sessions run: operators one after the other."""


def is_batched(signature: Signature) -> bool:
    """Whether the first axis of all that a graph takes and gives is that of texts, so that requests can be joined."""
    return all(spec.shape[:1] == (BATCH,) for spec in (*signature.inputs, *signature.outputs))


def config_text(
    name: str, signature: Signature, settings: TritonSettings, *, joined: bool, remarks: Sequence[str] = ()
) -> str:
    """Return the contents of `config.pbtxt`.

    Args:
        name: of the model.
        signature: of its graph.
        settings: how it is to be served.
        joined: whether requests may be joined in one run; otherwise a run has one text.
        remarks: lines of comment for the top.

    Raises:
        FolderError: a tensor has no form in the schema.
    """
    batched = is_batched(signature)
    most = (settings.max_batch if joined else 1) if batched else 0
    lines = [
        *(f"# {line}" for line in remarks),
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        f"default_model_filename: {_quoted(MODEL_FILE)}",
        f"max_batch_size: {most}",
        *_tensors("input", signature.inputs, batched),
        *_tensors("output", signature.outputs, batched),
        "version_policy { latest { num_versions: 1 } }",
        *(_queue(settings, most) if batched else ()),
        f"instance_group [ {{ count: {settings.instances} kind: {_KINDS[settings.provider]} }} ]",
        *_parameters(settings),
    ]
    return "\n".join(lines) + "\n"


def _tensors(field: str, specs: Sequence[TensorSpec], batched: bool) -> Iterator[str]:
    yield f"{field} ["
    for place, spec in enumerate(specs):
        comma = "," if place + 1 < len(specs) else ""
        yield f"  {{ name: {_quoted(spec.name)} data_type: {_TYPES[spec.dtype]} {_dims(spec, batched)} }}{comma}"
    yield "]"


def _dims(spec: TensorSpec, batched: bool) -> str:
    """Return the axes of a tensor; that of texts is left out where Triton adds it."""
    axes = spec.shape[1:] if batched else spec.shape
    if axes:
        sizes = ", ".join(str(axis if isinstance(axis, int) else _FREE) for axis in axes)
        return f"dims: [ {sizes} ]"
    if not batched:
        raise FolderError(
            f"tensor {spec.name!r} has no axes, and Triton takes none without any; leave it out of the graph"
        )
    return "dims: [ 1 ] reshape { shape: [ ] }"  # the schema wants an axis; this takes it off again


def _queue(settings: TritonSettings, most: int) -> Iterator[str]:
    """What waits, and how long. Where a run has one text, it is there for the bounds of the queue alone."""
    yield "dynamic_batching {"
    yield f"  preferred_batch_size: [ {most} ]"
    yield f"  max_queue_delay_microseconds: {round(settings.max_wait_ms * 1000)}"
    yield "  default_queue_policy {"
    yield "    timeout_action: REJECT"
    yield f"    default_timeout_microseconds: {max(1, round(settings.deadline_s * 1_000_000))}"
    yield "    allow_timeout_override: true"
    yield f"    max_queue_size: {settings.queue}"
    yield "  }"
    yield "}"


def _parameters(settings: TritonSettings) -> Iterator[str]:
    threads = {} if settings.provider != "cpu" else {"intra_op_thread_count": settings.threads or 0}
    for key, value in {**threads, **_PARAMETERS}.items():
        yield f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def _quoted(text: str) -> str:
    """A string of the text form: its escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)
