"""Weights that several graphs of one folder hold alike, stored once in a file beside them.

    model.onnx, model_quantized.onnx  ->  each with the offset of a table in model_shared.onnx.data

There is one such file for every set of graphs that have something in common, so that a graph names no weights but its
own, and a file goes when the last graph that names it does. Tensors begin at pages, which onnxruntime maps. A name of a
tensor says nothing: what counts is that type, shape and bytes are equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from losparse_runtime.contract.variant import data_file

SHARED_FROM = 2**20
"""Smaller tensors are stored with every graph that has them: what they take is nothing, and a file less is opened."""
_PAGE = 4096
_Key = tuple[str, tuple[int, ...], str]


@dataclass(frozen=True)
class _Place:
    """Where a tensor is stored."""

    file: str
    offset: int
    length: int


def share_weights(
    graphs: Mapping[str, ir.Model], folder: Path, *, shared_from: int = SHARED_FROM
) -> dict[str, tuple[str, ...]]:
    """Write what several graphs have in common into files beside them, and let the graphs name those; in place.

    Args:
        graphs: by name; not written yet.
        folder: where their files will be.
        shared_from: bytes of the smallest tensor that is stored so.

    Returns:
        The files that each graph names, by its name.
    """
    holders: dict[_Key, list[str]] = {}
    found: dict[_Key, ir.Value] = {}
    keys: dict[str, dict[str, _Key]] = {name: {} for name in graphs}
    for name, graph in graphs.items():
        for value, tensor in _large(graph, shared_from):
            key = (tensor.dtype.name, tuple(int(size) for size in tensor.shape.numpy()), _digest(tensor))
            keys[name][str(value.name)] = key
            found.setdefault(key, value)
            if name not in holders.setdefault(key, []):
                holders[key].append(name)
    places = _write({key: value for key, value in found.items() if len(holders[key]) > 1}, holders, folder)
    for name, graph in graphs.items():
        for value_name, key in keys[name].items():
            if key in places:
                _refer(graph.graph.initializers[value_name], places[key], folder)
    return {
        name: tuple(dict.fromkeys(places[key].file for key in mine.values() if key in places))
        for name, mine in keys.items()
    }


def _large(graph: ir.Model, least: int) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for value in graph.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= least:
            yield value, tensor


def _digest(tensor: ir.TensorProtocol) -> str:
    return hashlib.sha256(tensor.tobytes()).hexdigest()


def _write(shared: Mapping[_Key, ir.Value], holders: Mapping[_Key, list[str]], folder: Path) -> dict[_Key, _Place]:
    """Write every tensor once, into the file of the graphs that hold it."""
    files: dict[tuple[str, ...], str] = {}
    places: dict[_Key, _Place] = {}
    for key, value in shared.items():
        owners = tuple(holders[key])
        number = "" if not files else f"_{len(files) + 1}"
        file = files.setdefault(owners, data_file(f"model_shared{number}.onnx"))
        tensor = value.const_value
        assert tensor is not None, "as `_large` looked at"
        with (folder / file).open("ab") as sink:
            sink.write(bytes(-sink.tell() % _PAGE))
            places[key] = _Place(file, sink.tell(), tensor.nbytes)
            sink.write(tensor.tobytes())
    return places


def _refer(value: ir.Value, place: _Place, folder: Path) -> None:
    tensor = value.const_value
    assert tensor is not None, "as `_large` looked at"
    value.const_value = ir.ExternalTensor(
        place.file,
        place.offset,
        place.length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=str(value.name),
        base_dir=folder,
    )
