"""Half precision by `onnxruntime.transformers.float16`."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnx_ir as ir

from .files import MODEL, drop_repeated, save_graph

# Reductions over many numbers, which half precision rounds away or overflows.
_KEPT_FP32 = (
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Softmax",
    "LogSoftmax",
)


def convert_fp16(model: ir.Model, folder: Path) -> ir.Model:
    """Half precision for all but `_KEPT_FP32`, and for the softmax inside Attention."""
    path = list(sys.path)
    from onnxruntime.transformers import float16

    sys.path[:] = path  # the package puts its own folder, with modules of common names, on the path
    save_graph(model, folder)
    proto = onnx.load(folder / MODEL)
    # The converter takes a weight whose type is also listed among the activations for half precision, whoever reads it.
    weights = {tensor.name for tensor in proto.graph.initializer}
    activations = [value for value in proto.graph.value_info if value.name not in weights]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(activations)
    proto = float16.convert_float_to_float16(
        proto,
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *_KEPT_FP32],
        node_block_list=sorted(_index_nodes(model)),
    )
    # A tensor that several fp32 nodes read is cast for each of them, under one name.
    drop_repeated(proto.graph.node, lambda node: node.output[0])
    result: ir.Model = ir.from_proto(proto)
    for node in result.graph:
        if (node.domain, node.op_type) == ("", "Attention"):
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", ir.DataType.FLOAT.value)
    return result


def _index_nodes(model: ir.Model) -> set[str]:
    """Name the float nodes whose numbers become integers, as the buckets of relative positions do.

    Half precision has no integers beyond 2048, and rounds across the borders of buckets.
    """
    casts = [node for node in model.graph if node.op_type == "Cast" and not _is_float(node.outputs[0])]
    pending = [value.producer() for node in casts for value in node.inputs if value is not None and _is_float(value)]
    found: set[str] = set()
    while pending:
        node = pending.pop()
        if node is not None and node.name not in found:
            found.add(node.name or "")
            pending += [value.producer() for value in node.inputs if value is not None and _is_float(value)]
    return found


def _is_float(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT
