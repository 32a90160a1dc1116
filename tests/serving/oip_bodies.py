"""Requests of the Open Inference Protocol, written as a client writes them, and what they ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.tensors import Arrays, TensorSpec, Vocabulary
from losparse_runtime.serving.oip.datatypes import DATATYPES
from losparse_runtime.serving.oip.request import parse_request

HEADER = "Inference-Header-Content-Length"
Body = tuple[bytes, int | None]
"""A body, and what the header Inference-Header-Content-Length says of it."""

TEXTS = Signature(
    tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask")),
    (TensorSpec("logits", "float32", ("batch", 2)), TensorSpec("hidden", "float32", ("batch", "sequence", 3))),
    vocabulary=Vocabulary(size=100, padding=0),
    longest=16,
)
IDS = np.array([[5, 6, 7], [8, 9, 0]], np.int64)


def one(array: NDArray[Any], shape: tuple[int | str, ...] | None = None) -> Signature:
    """A model of one input "x" of the type of an array, all axes free unless said."""
    axes = tuple(f"axis{place}" for place in range(array.ndim)) if shape is None else shape
    return Signature((TensorSpec("x", array.dtype.name, axes),), (TensorSpec("y", "float32", ("batch",)),))


def by_client(arrays: Mapping[str, NDArray[Any]], *, binary: bool, **options: Any) -> Body:
    """The body that tritonclient writes."""
    inputs = []
    for name, array in arrays.items():
        made = InferInput(name, list(array.shape), DATATYPES[array.dtype.name])
        made.set_data_from_numpy(array, binary_data=binary)
        inputs.append(made)
    body, length = InferenceServerClient.generate_request_body(inputs, **options)
    return body, length


def wanted(name: str, *, binary: bool) -> InferRequestedOutput:
    return InferRequestedOutput(name, binary_data=binary)


def entry(array: NDArray[Any], name: str = "input_ids", **changed: object) -> dict[str, object]:
    """An input as JSON, lists in lists; what is changed of it, or left out where the change is None."""
    said = {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name], "data": array.tolist()}
    return {key: value for key, value in {**said, **changed}.items() if value is not None}


def written(*inputs: object, **more: object) -> bytes:
    """A request of inputs as JSON; the spelling of NaN that Python has, and no other check."""
    return json.dumps({"inputs": list(inputs), **more}).encode()


def behind(sections: bytes, *inputs: object, **more: object) -> Body:
    """A request with bytes behind its JSON."""
    head = written(*inputs, **more)
    return head + sections, len(head)


def binary_entry(array: NDArray[Any], name: str = "input_ids", **changed: object) -> dict[str, object]:
    """An input whose data is behind the JSON."""
    return entry(array, name, **{"data": None, "parameters": {"binary_data_size": array.nbytes}, **changed})


def feeds(body: bytes, length: int | None, signature: Signature) -> Arrays:
    """What a model runs on: the inputs that a body has, checked and completed."""
    return signature.check(parse_request(body, length, signature).inputs)
