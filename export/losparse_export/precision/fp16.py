"""Half precision, but for reductions over many numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Conversion, Precision

if TYPE_CHECKING:
    import onnx_ir as ir


def _convert(model: ir.Model, with_: Conversion) -> ir.Model:
    from .half import convert_fp16

    return convert_fp16(model, with_.folder)


FP16 = Precision(
    "fp16",
    "GPUs: weights and activations in half the bytes",
    # Measured 0.0015 and 0.999995 or more; tiny random models reach 0.0064.
    difference=0.02,
    cosine=0.9999,
    convert=_convert,
    warning=(
        "fp16 is for GPU providers: onnxruntime's CPU provider widens its weights and numbers back to fp32, so there "
        "it saves neither time nor memory, only the size of the file; for CPUs take int8"
    ),
)
