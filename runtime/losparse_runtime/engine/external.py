"""What a model file asks onnxruntime for, read off the file itself without the onnx package: files and operators.

onnxruntime opens whatever the file names. A folder's metadata lists what the exporter wrote, with digests; weights in a
file that it does not list could be changed without anybody noticing.

References:
    onnx.proto3, for the fields on the way to `external_data`, and for those of nodes and functions.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..contract.inside import open_inside
from ..contract.protobuf import Messages
from ..errors import FolderError

# Message -> number of a field that holds messages -> their kind. Only what can hold a tensor or a node.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
# Message -> numbers of the fields with its domain and its name.
_NAMED: Mapping[str, tuple[int, int]] = {"node": (7, 4), "function": (10, 1)}
_KEY, _VALUE = 1, 2
_MOST_BYTES = 2**31 - 1  # of a protobuf message: what is larger, no runtime opens
_OWN = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Domains whose operators are part of onnxruntime."""
_BLOB = ("com.microsoft", "EPContext")
"""The operator that hands a compiled blob, or the path of one, to the library of a device."""

Operator = tuple[str, str]
"""Domain and name."""


@dataclass
class Asked:
    """What a model file asks for.

    Attributes:
        files: locations of weights, relative to the folder of the model.
        operators: that its nodes are.
        functions: that it defines itself, of nodes.
    """

    files: set[str] = field(default_factory=set)
    operators: set[Operator] = field(default_factory=set)
    functions: set[Operator] = field(default_factory=set)

    @property
    def foreign(self) -> list[str]:
        """Operators that are neither onnxruntime's nor made of those, as "domain.Name": they need other code."""
        others = {each for each in self.operators - self.functions if each[0] not in _OWN}
        others |= self.operators & {_BLOB}
        return sorted(f"{domain}.{name}" for domain, name in others)


def read_asked(model: Path) -> Asked:
    """Read what a model file asks for.

    Raises:
        FolderError: the file is not a model, is cut short, or is larger than a model can be.
    """
    try:
        with open_inside(model.parent, model.name) as stream:
            if os.fstat(stream.fileno()).st_size > _MOST_BYTES:
                raise ValueError("more bytes than an ONNX file can have")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                asked = Asked()
                _collect(data, Messages(data), "model", (0, len(data)), asked)
                return asked
    except (OSError, ValueError, IndexError, RecursionError) as error:
        raise FolderError(
            f"{model}: is not an ONNX model or is cut short; copy it again, or export it again"
        ) from error


def external_files(model: Path) -> set[str]:
    """Return the locations, relative to its folder, that a model file takes weights from.

    Raises:
        FolderError: see `read_asked`.
    """
    return read_asked(model).files


def _collect(data: mmap.mmap, messages: Messages, kind: str, span: tuple[int, int], asked: Asked) -> None:
    """Add what a message and those below it ask for."""
    below, named = _FIELDS[kind], _NAMED.get(kind, ())
    names: dict[int, str] = {}
    for number, first, last in messages.fields(*span):
        child = below.get(number)
        if child == "entry":
            entry = {key: data[a:b].decode() for key, a, b in messages.fields(first, last) if key in (_KEY, _VALUE)}
            if entry.get(_KEY) == "location":
                asked.files.add(entry.get(_VALUE, ""))
        elif child is not None:
            _collect(data, messages, child, (first, last), asked)
        elif number in named:
            names[number] = data[first:last].decode()
    if named:
        domain, name = named
        operator = names.get(domain, ""), names.get(name, "")
        (asked.operators if kind == "node" else asked.functions).add(operator)
