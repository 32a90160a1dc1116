"""How many bytes each weight of a model file takes, read off the file without the onnx package.

References:
    onnx.proto3, for the fields on the way to a tensor's bytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import FolderError
from .inside import open_inside
from .protobuf import Messages

_GRAPH, _INITIALIZER = 7, 5
_NAME, _EXTERNAL = 8, 13
_NUMBERS = (4, 5, 7, 9, 10, 11)  # floats, int32s, int64s, raw bytes, doubles, uint64s; packed
_KEY, _VALUE = 1, 2


@dataclass(frozen=True)
class StoredWeight:
    """One weight of a graph.

    Attributes:
        name: of the weight.
        bytes: its size.
        file: name of the file beside the graph's that it lies in; None where it is in the graph's.
        offset: where it begins in that file; None where it is in the graph's.
    """

    name: str
    bytes: int
    file: str | None = None
    offset: int | None = None


def weight_sizes(model: Path) -> dict[str, int]:
    """Return the bytes of every weight of a graph, inside its file or beside it, by name; see `stored_weights`."""
    return {weight.name: weight.bytes for weight in stored_weights(model)}


def stored_weights(model: Path) -> list[StoredWeight]:
    """Return every weight of a graph, and where it is stored.

    Constants inside nodes, and weights of the graphs of branches, are no weights here: they are part of the graph.

    Args:
        model: the file of a graph.

    Raises:
        FolderError: the file is not a model, or is cut short.
    """
    try:
        with (
            open_inside(model.parent, model.name) as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return list(_weights(data, Messages(data)))
    except (OSError, ValueError, IndexError) as error:
        raise FolderError(
            f"{model}: is not an ONNX model or is cut short; copy it again, or export it again"
        ) from error


def _weights(data: mmap.mmap, messages: Messages) -> Iterator[StoredWeight]:
    for number, first, last in messages.fields(0, len(data)):
        if number != _GRAPH:
            continue
        for part, start, end in messages.fields(first, last):
            if part == _INITIALIZER:
                yield _tensor(data, messages, start, end)


def _tensor(data: mmap.mmap, messages: Messages, start: int, end: int) -> StoredWeight:
    """Return what a tensor says of itself."""
    name, size = "", 0
    beside: dict[bytes, str] = {}
    for number, first, last in messages.fields(start, end):
        if number == _NAME:
            name = data[first:last].decode()
        elif number in _NUMBERS:
            size += last - first
        elif number == _EXTERNAL:
            entry = {key: data[a:b] for key, a, b in messages.fields(first, last)}
            beside[entry.get(_KEY, b"")] = entry.get(_VALUE, b"").decode()
    if not beside:
        return StoredWeight(name, size)
    offset = int(beside.get(b"offset", 0))
    return StoredWeight(name, int(beside.get(b"length", 0)), beside.get(b"location", ""), offset)
