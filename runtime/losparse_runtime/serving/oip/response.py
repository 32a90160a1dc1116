"""The body of an answer: JSON, or JSON and behind it the bytes of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from ...contract.signature import Signature
from ...errors import RunError
from .datatypes import DATATYPES
from .request import InferRequest

_PIECE = 16_384
"""Numbers that are written at a time, in about 2 ms: other threads of the process may run in between."""
_JSON_BYTES = 64
"""Memory that a number takes while it becomes JSON: as an object of Python's, in a list, and as up to 24 digits."""


def answer_bytes(request: InferRequest, signature: Signature) -> int:
    """Return about how much memory the answer to a request takes, as its inputs and the model's outputs say.

    Args:
        request: that was read.
        signature: of the model; the size of an axis that no input has counts as 1.
    """
    sizes: dict[int | str, int] = {}
    for spec in signature.inputs:
        if spec.name in request.inputs:
            sizes.update(zip(spec.shape, request.inputs[spec.name].shape, strict=True))
    as_json = {wanted.name for wanted in request.outputs if not wanted.binary}
    total = 0
    for spec in signature.outputs:
        each = np.dtype(spec.dtype).itemsize + _JSON_BYTES * (spec.name in as_json)
        total += each * prod(axis if isinstance(axis, int) else sizes.get(axis, 1) for axis in spec.shape)
    return total


def render_response(
    outputs: Mapping[str, NDArray[Any]], request: InferRequest, name: str, version: str
) -> tuple[bytes, int | None]:
    """Write an answer.

    Args:
        outputs: of the model, by name; at least those asked for.
        request: what was asked.
        name: of the model.
        version: of the model.

    Returns:
        The body, and how many of its bytes are JSON where the bytes of tensors follow: what the header
        Inference-Header-Content-Length must say. None where all of it is JSON.

    Raises:
        RunError: an output that is wanted as JSON holds NaN or infinity, which JSON cannot say.
    """
    entries, sections = [], []
    for wanted in request.outputs:
        array = outputs[wanted.name]
        flat = np.ascontiguousarray(array).reshape(-1)
        entry = {"name": wanted.name, "datatype": DATATYPES[array.dtype.name], "shape": list(array.shape)}
        if wanted.binary:
            section = flat.astype(flat.dtype.newbyteorder("<"), copy=False).view(np.uint8)
            entries.append(to_json({**entry, "parameters": {"binary_data_size": section.size}}))
            sections.append(section.data)
        else:
            entries.append(b'%b,"data":[%b]}' % (to_json(entry)[:-1], _numbers(flat, wanted.name)))
    said = {} if request.id is None else {"id": request.id}
    head = b'%b,"outputs":[%b]}' % (
        to_json({"model_name": name, "model_version": version, **said})[:-1],
        b",".join(entries),
    )
    return (b"".join((head, *sections)), len(head)) if sections else (head, None)


def _numbers(flat: NDArray[Any], name: str) -> bytes:
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        raise RunError(f"output {name!r} holds NaN or infinity, which JSON cannot say; ask for it with binary_data")
    pieces = (flat[start : start + _PIECE].tolist() for start in range(0, flat.size, _PIECE))
    return b",".join(to_json(piece)[1:-1] for piece in pieces)
