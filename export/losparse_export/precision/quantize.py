"""Integers by `onnxruntime.quantization`: int8 products scaled in every run, and weights in blocks of 8 or 4 bits.

The library writes graphs too, the one it measures ranges with and its result. Their weights go into files of their own:
a protobuf message ends at 2 GB, and tables of embeddings, which stay in fp32, may take half of that alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from losparse_runtime.dependencies import import_onnxruntime

from .files import MODEL, RESULT, drop_repeated, save_graph, show_hidden

Feeds = Mapping[str, NDArray[Any]]

# Weights of a column that share one scale in the weight formats. The library's own default, 128, rounds more coarsely.
BLOCK_SIZE = 32

# Of MatMulNBits: the kernel may take the activations in int8.
_ACCURACY_LEVEL = 4


def quantize_dynamic_int8(model: ir.Model, folder: Path, nodes: Sequence[str], *, bits: int) -> ir.Model:
    """Int8 weights of 7 or 8 bits, one scale an output, and activations whose scale is computed in every run."""
    quantization = import_onnxruntime("quantization")

    # The library makes MatMul and Add of every Gemm, and transposes its weight also where others read it.
    save_graph(model, folder, hide=("Gemm",))
    quantization.quantize_dynamic(
        folder / MODEL,
        folder / RESULT,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        # The u8 x s8 kernel of a CPU with AVX2 and no VNNI adds pairs of products in 16 bits, which 8 bits overflow
        # without a word.
        reduce_range=bits == 7,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_quantize=list(nodes),
        use_external_data_format=True,
    )
    return show_hidden(ir.load(folder / RESULT))


def quantize_weights(model: ir.Model, folder: Path, nodes: Sequence[str], *, bits: int) -> ir.Model:
    """Weights in blocks of `BLOCK_SIZE` that share a scale; activations stay float outside the kernel."""
    nbits = import_onnxruntime("quantization.matmul_nbits_quantizer")

    save_graph(model, folder)
    quantizer = nbits.MatMulNBitsQuantizer(
        str(folder / MODEL),
        bits=bits,
        block_size=BLOCK_SIZE,
        is_symmetric=True,
        accuracy_level=_ACCURACY_LEVEL,
        op_types_to_quantize=("MatMul",),
        # Leaving out is the only choice it follows: what it is told to include comes on top of all MatMul nodes.
        nodes_to_exclude=[node.name for node in model.graph if node.op_type == "MatMul" and node.name not in nodes],
    )
    quantizer.process()
    proto: onnx.ModelProto = quantizer.model.model
    # A weight that two products read is quantised twice, under one name.
    drop_repeated(proto.graph.initializer, lambda tensor: tensor.name)
    return ir.from_proto(proto)
