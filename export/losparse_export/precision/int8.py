"""Int8 products whose activations are scaled in every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import INT8_BITS, Conversion, Precision

if TYPE_CHECKING:
    import onnx_ir as ir


def _convert(model: ir.Model, with_: Conversion) -> ir.Model:
    from .quantize import quantize_dynamic_int8

    return quantize_dynamic_int8(model, with_.folder, with_.nodes, bits=with_.weight_bits)


INT8 = Precision(
    "int8",
    "CPUs, calls of many tokens: int8 products, activations scaled in every run",
    # Measured 0.62 and 0.947.
    difference=1.0,
    cosine=0.92,
    convert=_convert,
    planned="int8",
    marked="int8",
    weight_bits=INT8_BITS,
    mixes_texts=True,
    embeddings="int8",
)
