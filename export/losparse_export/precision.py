"""Other precisions than fp32 for a finished graph, made by onnxruntime's own libraries.

    int8, int8-static    x -> MatMul(W) -> Add(bias)   ->   x -> quantise -> MatMul(int8 W) -> scale -> Add(bias)
    int8-, int4-weights  x -> MatMul(W) -> Add(bias)   ->   x -> MatMulNBits(blocks of W, scales) -> Add(bias)
    fp16                 every node but normalisations and softmax in half precision, inputs and outputs in fp32

Only MatMul nodes with a constant float matrix are quantised. A product that shall be quantised must therefore still be
MatMul and Add when it comes here: onnxruntime joins the bias, the scale and, where one product alone reads the input,
the quantisation into one kernel by itself. A Gemm and the tables of embeddings stay as they are.

The libraries work on files, so the graph goes through one in a temporary folder.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from losparse.errors import LosparseError

from .tolerances import PRECISIONS, WEIGHT_BITS, check_precision

__all__ = ["PRECISIONS", "apply_precision", "quantisable_nodes"]

logger = logging.getLogger(__name__)

Feeds = Mapping[str, NDArray[Any]]

# Weights that share one scale in the weight formats: the finest block that onnxruntime's kernels like on every
# provider, and the one that its tools take for accuracy.
BLOCK_SIZE = 32

# Of MatMulNBits: the product is computed on int8 activations, the only level that is fast on CPUs.
_ACCURACY_LEVEL = 4

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

_FP16_WARNING = (
    "fp16 is for GPU providers: onnxruntime's CPU provider has hardly a kernel for it and widens weights and numbers "
    "back to fp32, so there it saves neither time nor memory; for CPUs take int8"
)

_MODEL, _DATA, _RESULT = "model.onnx", "model.data", "result.onnx"
_HIDDEN = "losparse.hidden"
_ACTIVATION_NODES = ("DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear")


def apply_precision(
    model: ir.Model,
    precision: str,
    *,
    nodes: Collection[str] | None = None,
    calibration: Sequence[Feeds] | None = None,
) -> ir.Model:
    """Rewrite a finished graph in another precision.

    Args:
        model: a graph with named nodes, as `finish_model` leaves it; it is not changed.
        precision: one of `PRECISIONS`.
        nodes: names of the MatMul nodes to quantise; None for all of `quantisable_nodes`. fp32 and fp16 have no such
            choice and do not look at it.
        calibration: for int8-static, and for it only: inputs of runs in which the ranges of activations are measured;
            int64 (batch, sequence) by input name.

    Returns:
        The graph in the precision, with the operator set and file format of `model`; `model` itself for fp32.

    Raises:
        LosparseError: the precision is unknown, calibration is missing or not for it, or a node of `nodes` is not a
            MatMul with a constant float matrix, or the graph has none.
    """
    check_precision(precision, calibrated=calibration is not None)
    if precision == "fp32":
        return model
    if precision == "fp16":
        logger.warning(_FP16_WARNING)
    chosen = () if precision == "fp16" else _choose_nodes(model, precision, nodes)
    with tempfile.TemporaryDirectory(prefix="losparse.") as name, _contained():
        folder = Path(name)
        if precision == "int8":
            result = _quantize_dynamic(model, folder, chosen)
        elif precision == "int8-static":
            result = _quantize_static(model, folder, chosen, calibration or ())
        elif precision in WEIGHT_BITS:
            result = _quantize_weights(model, folder, chosen, bits=WEIGHT_BITS[precision])
        else:
            result = _to_fp16(model, folder)
        # The tensors of the result may lie in the folder, which goes.
        ir.external_data.load_to_model(result)
    _finish(result, model)
    _check_done(result, chosen)
    return result


def quantisable_nodes(model: ir.Model) -> tuple[str, ...]:
    """Name the MatMul nodes whose second input is a constant float matrix, in graph order."""
    return tuple(node.name or "" for node in model.graph if _has_constant_matrix(node))


def _has_constant_matrix(node: ir.Node) -> bool:
    if (node.domain, node.op_type) != ("", "MatMul"):
        return False
    first, weight = node.inputs
    if first is None or weight is None or first.const_value is not None or not weight.is_initializer():
        return False
    matrix = weight.const_value
    return matrix is not None and matrix.dtype == ir.DataType.FLOAT and len(matrix.shape) == 2


def _choose_nodes(model: ir.Model, precision: str, nodes: Collection[str] | None) -> tuple[str, ...]:
    allowed = quantisable_nodes(model)
    if nodes is None:
        wanted = allowed
    else:
        unknown = sorted(set(nodes) - set(allowed))
        if unknown:
            raise LosparseError(
                f"node {unknown[0]!r} cannot be quantised: it must be a MatMul with a constant float matrix, "
                f"the graph has {len(allowed)} of them"
            )
        wanted = tuple(name for name in allowed if name in set(nodes))
    if not wanted:
        raise LosparseError(
            f"precision {precision!r} needs a MatMul node with a constant float matrix to quantise, got none; "
            "fp32 and fp16 need none"
        )
    return wanted


def _quantize_dynamic(model: ir.Model, folder: Path, nodes: Sequence[str]) -> ir.Model:
    """Int8 weights, one scale an output, and activations whose scale is computed in every run."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    _save(model, folder, hide_gemms=True)
    quantize_dynamic(
        folder / _MODEL,
        folder / _RESULT,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        # 7 bits: the u8 x s8 kernel of a CPU with AVX2 and no VNNI adds pairs of products in 16 bits, which 8 bits
        # overflow without a word.
        reduce_range=True,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=list(nodes),
    )
    return _show_gemms(ir.load(folder / _RESULT))


def _quantize_static(model: ir.Model, folder: Path, nodes: Sequence[str], calibration: Sequence[Feeds]) -> ir.Model:
    """As int8, with the scales of activations measured once."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    _save(model, folder)
    quantize_static(
        folder / _MODEL,
        folder / _RESULT,
        _Reader(calibration),
        quant_format=QuantFormat.QDQ,
        calibrate_method=CalibrationMethod.MinMax,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=list(nodes),
        # What follows a product - bias, Gelu, residual - is float: its output is better left float too.
        extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )
    return ir.load(folder / _RESULT)


def _quantize_weights(model: ir.Model, folder: Path, nodes: Sequence[str], *, bits: int) -> ir.Model:
    """Weights in blocks of `BLOCK_SIZE` that share a scale; activations stay float outside the kernel."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    _save(model, folder)
    quantizer = MatMulNBitsQuantizer(
        str(folder / _MODEL),
        bits=bits,
        block_size=BLOCK_SIZE,
        is_symmetric=True,
        accuracy_level=_ACCURACY_LEVEL,
        op_types_to_quantize=("MatMul",),
        # Leaving out is the only choice it follows: what it is told to include comes on top of all MatMul nodes.
        nodes_to_exclude=[node.name for node in model.graph if node.op_type == "MatMul" and node.name not in nodes],
    )
    quantizer.process()
    proto = quantizer.model.model
    # A weight that two products read is quantised twice, under one name.
    _drop_repeated(proto.graph.initializer, lambda tensor: tensor.name)
    return ir.from_proto(proto)


def _to_fp16(model: ir.Model, folder: Path) -> ir.Model:
    """Half precision for all but `_KEPT_FP32`, and for the softmax inside Attention."""
    path = list(sys.path)
    from onnxruntime.transformers import float16

    sys.path[:] = path  # the package puts its own folder, with modules of common names, on the path
    _save(model, folder)
    onnx.shape_inference.infer_shapes_path(str(folder / _MODEL), str(folder / _RESULT))
    proto = onnx.load(folder / _RESULT)
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
    _drop_repeated(proto.graph.node, lambda node: node.output[0])
    result = ir.from_proto(proto)
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


class _Reader:
    """Hands one feed after the other to the calibration."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next inputs, or None at the end."""
        feed = next(self._feeds, None)
        return None if feed is None else dict(feed)


def _save(model: ir.Model, folder: Path, *, hide_gemms: bool = False) -> None:
    """Write the graph for a quantiser, weights apart: beyond 2 GB a graph with its weights is no file."""
    copy = model.clone()
    # The quantisers would advise to optimise first, which would undo what the passes did.
    copy.metadata_props["onnx.quant.pre_process"] = "onnxruntime.quant"
    if hide_gemms:
        # quantize_dynamic makes MatMul and Add of every Gemm, and transposes a weight that others may read.
        for node in copy.graph:
            if (node.domain, node.op_type) == ("", "Gemm"):
                node.domain, node.op_type = _HIDDEN, "Hidden"
        copy.graph.opset_imports[_HIDDEN] = 1
    ir.save(copy, folder / _MODEL, external_data=_DATA)


def _show_gemms(model: ir.Model) -> ir.Model:
    for node in model.graph:
        if node.domain == _HIDDEN:
            node.domain, node.op_type = "", "Gemm"
    return model


def _drop_repeated(messages: Any, name: Callable[[Any], str]) -> None:
    """Keep the first of several messages of one name."""
    seen: set[str] = set()
    for index in [i for i, message in enumerate(messages) if name(message) in seen or seen.add(name(message))][::-1]:
        del messages[index]


def _finish(result: ir.Model, model: ir.Model) -> None:
    """Give the result what the libraries changed beside the nodes: header, order, names of the glue."""
    result.ir_version, result.graph.name = model.ir_version, model.graph.name
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    result.metadata_props.clear()
    result.metadata_props.update(model.metadata_props)
    common.TopologicalSortPass()(result)
    common.RemoveUnusedNodesPass()(result)
    common.RemoveUnusedOpsetsPass()(result)
    version = model.graph.opset_imports[""]
    assert result.graph.opset_imports[""] == version, "the quantisers were made for this operator set"
    counts: Counter[str] = Counter()
    for node in result.graph:
        if node.op_type in _ACTIVATION_NODES and not any(value.is_initializer() for value in node.inputs[:1]):
            # Named by the library after the layer that made the activation, whose output would seem to be int8.
            node.name = f"/{node.op_type}_{counts[node.op_type]}"
            counts[node.op_type] += 1


def _check_done(result: ir.Model, nodes: Sequence[str]) -> None:
    """Refuse a result in which a chosen node is as it was: the quantisers skip what they cannot type, without a word.

    Raises:
        LosparseError: a node was skipped.
    """
    skipped = sorted(set(nodes) & set(quantisable_nodes(result)))
    if skipped:
        raise LosparseError(
            f"onnxruntime did not quantise node {skipped[0]!r} ({len(skipped)} in all); leave it out with nodes="
        )


@contextmanager
def _contained() -> Iterator[None]:
    """Keep the libraries from configuring the root logger, which they do when it has no handler."""
    root = logging.getLogger()
    guard = (logging.lastResort or logging.NullHandler()) if not root.handlers else logging.NullHandler()
    root.addHandler(guard)
    try:
        yield
    finally:
        root.removeHandler(guard)
