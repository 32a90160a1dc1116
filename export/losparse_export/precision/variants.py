"""The variants that one folder may hold: what each is called, its file, and what is in it. Loads no torch, no onnx.

The names of the files are those that others look for: `file_name` of sentence-transformers and optimum, `dtype` of
transformers.js.
"""

from __future__ import annotations

from dataclasses import dataclass

from losparse.errors import LosparseError
from losparse_runtime.contract.variant import MODEL_FILE, WIDE_INT8

from .base import INT8_BITS
from .fp16 import FP16
from .fp32 import FP32
from .int4_weights import INT4_WEIGHTS
from .int8 import INT8
from .int8_rows import INT8_ROWS
from .int8_static import INT8_STATIC
from .int8_weights import INT8_WEIGHTS
from .table import PRECISION_TABLE


@dataclass(frozen=True)
class VariantForm:
    """One variant.

    Attributes:
        name: as users say it, and as a folder of several has it.
        file: of its graph, in a folder of several; in a folder of one it is "model.onnx".
        precision: a key of `PRECISION_TABLE`.
        weight_bits: of a weight in an int8 product; None where there is none, or settings may choose.
        purpose: what it is for, in a few words; None for what the precision says.
    """

    name: str
    file: str
    precision: str
    weight_bits: int | None = None
    purpose: str | None = None


_KNOWN = (
    VariantForm(FP32.name, MODEL_FILE, FP32.name),
    VariantForm(INT8.name, "model_quantized.onnx", INT8.name, INT8_BITS[0]),
    VariantForm(
        WIDE_INT8,
        "model_qint8_avx512_vnni.onnx",
        INT8.name,
        INT8_BITS[1],
        "as int8 with weights of 8 bits, which is more exact, for CPUs with VNNI and Arm's",
    ),
    VariantForm(INT8_ROWS.name, "model_int8_rows.onnx", INT8_ROWS.name),
    VariantForm(INT8_STATIC.name, "model_int8_static.onnx", INT8_STATIC.name),
    VariantForm(INT8_WEIGHTS.name, "model_int8_weights.onnx", INT8_WEIGHTS.name),
    VariantForm(INT4_WEIGHTS.name, "model_q4.onnx", INT4_WEIGHTS.name),
    VariantForm(FP16.name, "model_fp16.onnx", FP16.name),
)


def variant_forms() -> dict[str, VariantForm]:
    """Return all variants by name: those above, and one for every other precision of `PRECISION_TABLE`."""
    forms = {form.name: form for form in _KNOWN}
    for name in PRECISION_TABLE:
        if name not in forms:
            forms[name] = VariantForm(name, f"model_{name.replace('-', '_')}.onnx", name)
    return forms


def variant_purposes() -> dict[str, str]:
    """Return what each variant is for, by name."""
    return {name: form.purpose or PRECISION_TABLE[form.precision].purpose for name, form in variant_forms().items()}


def variant_form(name: str) -> VariantForm:
    """Find a variant.

    Raises:
        LosparseError: there is none of that name.
    """
    forms = variant_forms()
    if name not in forms:
        raise LosparseError(f"precision must be one of {', '.join(forms)}, got {name!r}")
    return forms[name]
