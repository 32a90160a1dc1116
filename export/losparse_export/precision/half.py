"""Half precision by `onnxruntime.transformers.float16`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

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


# Bytes of a weight that is converted in parts, and numbers in a part.
_LARGE = 2**22


def convert_fp16(model: ir.Model, folder: Path) -> ir.Model:
    """Half precision for all but `_KEPT_FP32`, and for the softmax inside Attention."""
    float16 = import_onnxruntime("transformers.float16")

    save_graph(model, folder)
    proto = onnx.load(folder / MODEL)
    large = _take_out(proto)
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
        node_block_list=sorted(_index_nodes(model) | _norm_nodes(model)),
    )
    _put_back(proto, large, float16.convert_np_to_float16)
    # A tensor that several fp32 nodes read is cast for each of them, under one name.
    drop_repeated(proto.graph.node, lambda node: node.output[0])
    result: ir.Model = ir.from_proto(proto)
    _join_casts(result)
    for node in result.graph:
        if (node.domain, node.op_type) == ("", "Attention"):
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", ir.DataType.FLOAT.value)
    return result


_Stored = tuple[list[int], bytes]


def _take_out(proto: onnx.ModelProto) -> dict[str, _Stored]:
    """Put one number in the place of large weights: the converter needs ten times the memory of one.

    Returns:
        Sizes and numbers of what was taken out, by name.
    """
    large: dict[str, _Stored] = {}
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.raw_data) > _LARGE:
            large[tensor.name] = list(tensor.dims), tensor.raw_data
            tensor.dims[:], tensor.raw_data = [1], np.ones(1, np.float32).tobytes()
    return large


def _put_back(proto: onnx.ModelProto, large: dict[str, _Stored], convert: Callable[[Any], NDArray[Any]]) -> None:
    """Fill the weights that were taken out, in the precision that the converter chose for each, a part at a time."""
    for tensor in proto.graph.initializer:
        if tensor.name not in large:
            continue
        sizes, numbers = large[tensor.name]
        if tensor.data_type == onnx.TensorProto.FLOAT16:
            whole = np.frombuffer(numbers, np.float32)
            parts = [convert(whole[first : first + _LARGE]) for first in range(0, len(whole), _LARGE)]
            numbers = np.concatenate(parts).tobytes()
        tensor.dims[:], tensor.raw_data = sizes, numbers
    # What was made of the one number was described as one number.
    made = {output for node in proto.graph.node if large.keys() & set(node.input) for output in node.output}
    for value in proto.graph.value_info:
        if value.name in large or (value.name in made and _is_one(value)):
            value.type.tensor_type.ClearField("shape")


def _is_one(value: onnx.ValueInfoProto) -> bool:
    return [axis.dim_value for axis in value.type.tensor_type.shape.dim] == [1]


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


def _norm_nodes(model: ir.Model) -> set[str]:
    """Name the nodes of a norm that is written in parts, as opset 18 has it: x / Sqrt(ReduceMean(x^2) + epsilon).

    In half precision the squares of numbers beyond 255 are infinite.
    """
    found: set[str] = set()
    for root in model.graph:
        parts = [root]
        for op_type in ("Add", "ReduceMean", "Pow"):
            before = parts[-1].inputs[0]
            node = None if before is None else before.producer()
            if node is None or node.op_type != op_type:
                break
            parts.append(node)
        if root.op_type == "Sqrt" and len(parts) == 4:
            found |= {node.name or "" for node in (*parts, *(user for user, _ in root.outputs[0].uses()))}
    return found


def _is_float(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT
