"""Which files beside it a model file takes weights from, read off the file itself without the onnx package.

onnxruntime opens whatever the file names. A folder's metadata lists what the exporter wrote, with digests; weights in a
file that it does not list could be changed without anybody noticing.

References:
    The wire format of protocol buffers, and onnx.proto3, for the fields on the way to `external_data`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

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
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def external_files(model: Path) -> set[str]:
    """Return the locations, relative to its folder, that a model file takes weights from.

    Raises:
        FolderError: the file is not a model, or is cut short.
    """
    try:
        with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return set(_locations(data, "model", 0, len(data)))
    except (OSError, ValueError, IndexError, RecursionError) as error:
        raise FolderError(
            f"{model}: is not an ONNX model or is cut short; copy it again, or export it again"
        ) from error


def _locations(data: mmap.mmap, kind: str, start: int, end: int) -> Iterator[str]:
    """Yield the value of every `location` entry of a tensor below a message."""
    below = _FIELDS[kind]
    for number, first, last in _fields(data, start, end):
        child = below.get(number)
        if child == "entry":
            entry = {key: data[a:b].decode() for key, a, b in _fields(data, first, last) if key in (_KEY, _VALUE)}
            if entry.get(_KEY) == "location":
                yield entry.get(_VALUE, "")
        elif child is not None:
            yield from _locations(data, child, first, last)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, first byte and end of every field of a message that has a length of its own."""
    while start < end:
        tag, start = _varint(data, start)
        kind = tag & 7
        if kind == _VARINT:
            _, start = _varint(data, start)
        elif kind in (_FIXED64, _FIXED32):
            start += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            size, start = _varint(data, start)
            yield tag >> 3, start, start + size
            start += size
        else:
            raise ValueError(f"wire type {kind}")
    if start > end:
        raise ValueError("a field ends behind its message")


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    """Return a number of the wire format and where it ends."""
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
        shift += 7
        if shift > 63:
            raise ValueError("a number without end")
