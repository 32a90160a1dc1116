"""What the protocol says of the server and of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...contract.signature import Signature
from ...contract.tensors import TensorSpec
from .datatypes import DATATYPES

PLATFORM = "onnxruntime_onnx"
"""What the protocol calls a model that onnxruntime runs from an ONNX file."""
_EXTENSIONS = ["binary_tensor_data", "model_repository(index)"]


def server_metadata(version: str) -> dict[str, Any]:
    """Return what the server is, and what it can beyond the protocol."""
    return {"name": "losparse", "version": version, "extensions": _EXTENSIONS}


def model_metadata(name: str, versions: Sequence[str], signature: Signature) -> dict[str, Any]:
    """Return what a model takes and gives; the size of a free axis is -1."""
    return {
        "name": name,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": list(map(_tensor, signature.inputs)),
        "outputs": list(map(_tensor, signature.outputs)),
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [axis if isinstance(axis, int) else -1 for axis in spec.shape]
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": shape}
