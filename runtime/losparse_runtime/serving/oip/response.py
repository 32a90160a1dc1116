"""The body of an answer: JSON, or JSON and behind it the bytes of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from ...errors import RunError
from .datatypes import DATATYPES
from .request import InferRequest


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
        entry: dict[str, Any] = {
            "name": wanted.name,
            "datatype": DATATYPES[array.dtype.name],
            "shape": list(array.shape),
        }
        if wanted.binary:
            section = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
            entry["parameters"] = {"binary_data_size": len(section)}
            sections.append(section)
        else:
            entry["data"] = _numbers(array, wanted.name)
        entries.append(entry)
    said = {} if request.id is None else {"id": request.id}
    head = to_json({"model_name": name, "model_version": version, **said, "outputs": entries})
    return (b"".join((head, *sections)), len(head)) if sections else (head, None)


def _numbers(array: NDArray[Any], name: str) -> list[Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RunError(f"output {name!r} holds NaN or infinity, which JSON cannot say; ask for it with binary_data")
    numbers: list[Any] = array.ravel().tolist()
    return numbers
