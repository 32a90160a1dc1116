"""How many bytes each weight of a model file takes, read off the file without the onnx package.

References:
    onnx.proto3, for the fields on the way to a tensor's bytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from ..errors import FolderError
from .protobuf import message_fields

_GRAPH, _INITIALIZER = 7, 5
_NAME, _EXTERNAL = 8, 13
_NUMBERS = (4, 5, 7, 9, 10, 11)  # floats, int32s, int64s, raw bytes, doubles, uint64s; packed
_KEY, _VALUE = 1, 2


def weight_sizes(model: Path) -> dict[str, int]:
    """Return the bytes of every weight of a graph, inside its file or beside it, by name.

    Constants inside nodes, and weights of the graphs of branches, are no weights here: they are part of the graph.

    Args:
        model: the file of a graph.

    Raises:
        FolderError: the file is not a model, or is cut short.
    """
    try:
        with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return dict(_sizes(data))
    except (OSError, ValueError, IndexError) as error:
        raise FolderError(
            f"{model}: is not an ONNX model or is cut short; copy it again, or export it again"
        ) from error


def _sizes(data: mmap.mmap) -> Iterator[tuple[str, int]]:
    for number, first, last in message_fields(data, 0, len(data)):
        if number != _GRAPH:
            continue
        for part, start, end in message_fields(data, first, last):
            if part == _INITIALIZER:
                yield _tensor(data, start, end)


def _tensor(data: mmap.mmap, start: int, end: int) -> tuple[str, int]:
    """Return name and bytes of a tensor."""
    name, size = "", 0
    for number, first, last in message_fields(data, start, end):
        if number == _NAME:
            name = data[first:last].decode()
        elif number in _NUMBERS:
            size += last - first
        elif number == _EXTERNAL:
            entry = {key: data[a:b].decode() for key, a, b in message_fields(data, first, last)}
            size += int(entry[_VALUE]) if entry.get(_KEY) == "length" else 0
    return name, size
