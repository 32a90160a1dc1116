"""Which files beside it a model file takes weights from, read off the file itself without the onnx package.

onnxruntime opens whatever the file names. A folder's metadata lists what the exporter wrote, with digests; weights in a
file that it does not list could be changed without anybody noticing.

References:
    onnx.proto3, for the fields on the way to `external_data`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..contract.inside import open_inside
from ..contract.protobuf import message_fields
from ..errors import FolderError

# Message -> number of a field that holds messages -> their kind. Only what can hold a tensor.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2


def external_files(model: Path) -> set[str]:
    """Return the locations, relative to its folder, that a model file takes weights from.

    Raises:
        FolderError: the file is not a model, or is cut short.
    """
    try:
        with (
            open_inside(model.parent, model.name) as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return set(_locations(data, "model", 0, len(data)))
    except (OSError, ValueError, IndexError, RecursionError) as error:
        raise FolderError(
            f"{model}: is not an ONNX model or is cut short; copy it again, or export it again"
        ) from error


def _locations(data: mmap.mmap, kind: str, start: int, end: int) -> Iterator[str]:
    """Yield the value of every `location` entry of a tensor below a message."""
    below = _FIELDS[kind]
    for number, first, last in message_fields(data, start, end):
        child = below.get(number)
        if child == "entry":
            entry = {
                key: data[a:b].decode() for key, a, b in message_fields(data, first, last) if key in (_KEY, _VALUE)
            }
            if entry.get(_KEY) == "location":
                yield entry.get(_VALUE, "")
        elif child is not None:
            yield from _locations(data, child, first, last)
