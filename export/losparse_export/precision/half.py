"""Half precision by `onnxruntime.transformers.float16`."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from losparse_runtime.dependencies import import_onnxruntime

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
    float16 = import_onnxruntime("transformers.float16")

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
    _join_casts(result)
    for node in result.graph:
        if (node.domain, node.op_type) == ("", "Attention"):
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", ir.DataType.FLOAT.value)
    return result


def _join_casts(model: ir.Model) -> None:
    """Let fp32 nodes read each other's numbers as they are: the converter passes them on in half precision."""
    for node in model.graph:
        before = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] is not None else None
        if before is None or before.op_type != "Cast" or _target(node) != ir.DataType.FLOAT:
            continue
        original = before.inputs[0]
        if _target(before) == ir.DataType.FLOAT16 and original is not None and original.dtype == ir.DataType.FLOAT:
            for user, index in tuple(node.outputs[0].uses()):
                user.replace_input_with(index, original)


def _target(cast: ir.Node) -> int:
    return cast.attributes["to"].as_int()


def _index_nodes(model: ir.Model) -> set[str]:
    """Name the nodes through which floats become integers, as the buckets of relative positions do.

    Half precision has no integers beyond 2048, and rounds across the borders of buckets.
    """
    found: set[str] = set()
    pending = [node for node in model.graph if node.op_type == "Cast" and not _is_float(node.outputs[0])]
    while pending:
        node = pending.pop()
        if node.name not in found:
            found.add(node.name or "")
            made = [value.producer() for value in node.inputs if value is not None and _is_float(value)]
            pending += [producer for producer in made if producer is not None]
    return found


def _is_float(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT
