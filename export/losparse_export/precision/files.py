"""The file through which a graph goes to a library."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common

MODEL, RESULT = "model.onnx", "result.onnx"

_DATA = "model.data"
_HIDDEN = "losparse.hidden"


def save_graph(model: ir.Model, folder: Path, *, hide: Collection[str] = ()) -> None:
    """Write a graph for a library; the graph is not changed.

    Args:
        model: the graph.
        folder: where to; the file is `MODEL`, and its weights are apart: with more than 2 GB there is no other way.
        hide: types of nodes that the library must not recognise; `show_hidden` gives them back.
    """
    copy = model.clone()
    # Before anything is hidden: the libraries skip what they find no type for.
    common.ShapeInferencePass()(copy)
    # They would also advise to optimise first, which would undo what the passes did.
    copy.metadata_props["onnx.quant.pre_process"] = "onnxruntime.quant"
    for node in copy.graph:
        if node.domain == "" and node.op_type in hide:
            node.domain, node.op_type = _HIDDEN, f"Hidden{node.op_type}"
            copy.graph.opset_imports[_HIDDEN] = 1
    ir.save(copy, folder / MODEL, external_data=_DATA)


def show_hidden(model: ir.Model) -> ir.Model:
    """Give the nodes that `save_graph` hid their types back; in place."""
    for node in model.graph:
        if node.domain == _HIDDEN:
            node.domain, node.op_type = "", node.op_type.removeprefix("Hidden")
    return model


def drop_repeated(messages: Any, name: Callable[[Any], str]) -> None:
    """Keep the first of several protobuf messages of one name."""
    seen: set[str] = set()
    repeated = []
    for index, message in enumerate(messages):
        if name(message) in seen:
            repeated.append(index)
        seen.add(name(message))
    for index in reversed(repeated):
        del messages[index]
