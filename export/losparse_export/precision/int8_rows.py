"""Int8 products whose activations have a scale a row, computed in every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import INT8_BITS, Conversion, Precision

if TYPE_CHECKING:
    import onnx_ir as ir


def _convert(model: ir.Model, with_: Conversion) -> ir.Model:
    from .rows import quantize_rows_int8

    return quantize_rows_int8(model, with_.nodes, bits=with_.weight_bits)


INT8_ROWS = Precision(
    "int8-rows",
    "as int8, with a scale a token: more exact, and no text changes what is said of another",
    difference=1.0,
    cosine=0.92,
    convert=_convert,
    planned="int8",
    marked="int8",
    weight_bits=INT8_BITS,
    embeddings="int8",
)
