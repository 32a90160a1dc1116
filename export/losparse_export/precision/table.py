"""The precisions a folder can have. Loads no torch, no onnx."""

from __future__ import annotations

import logging
from collections.abc import Callable

from losparse.errors import LosparseError
from losparse_runtime.contract.variant import INT8_EMBEDDINGS
from losparse_runtime.engine.cpus import int8_overflows

from .base import EMBEDDINGS, INT8_BITS, Precision
from .fp16 import FP16
from .fp32 import FP32, FP32_INT8_TABLES
from .int4_weights import INT4_WEIGHTS
from .int8 import INT8
from .int8_rows import INT8_ROWS
from .int8_static import INT8_STATIC
from .int8_weights import INT8_WEIGHTS

logger = logging.getLogger(__name__)

# Their bounds were measured against PyTorch as `check_parity` does, four seeds, on two trained models (6 layers, 384
# wide: sentence vectors, and a classifier of two classes), each dense and with all layers as rank 160 plus 40 rows:
# largest difference and smallest cosine of all runs. The bound on the cosine allows about one and a half times the
# measured 1 - cosine, and more where that is small. What it must catch: int8 with 8-bit weights on a CPU whose kernel
# saturates gave a cosine of 0.01 in the factored models, one scale for a whole matrix 0.72..0.78.
PRECISION_TABLE: dict[str, Precision] = {
    FP32.name: FP32,
    INT8.name: INT8,
    INT8_ROWS.name: INT8_ROWS,
    INT8_STATIC.name: INT8_STATIC,
    INT8_WEIGHTS.name: INT8_WEIGHTS,
    INT4_WEIGHTS.name: INT4_WEIGHTS,
    FP16.name: FP16,
}
PRECISIONS = tuple(PRECISION_TABLE)


def judge_of(name: str) -> Precision:
    """Return the bounds that a graph is judged by; one that this version does not know is judged as fp32.

    Args:
        name: of its arithmetic, as `Variant.arithmetic` says it.
    """
    if name == FP32_INT8_TABLES.name:
        return FP32_INT8_TABLES
    return PRECISION_TABLE.get(name.removesuffix(INT8_EMBEDDINGS), PRECISION_TABLE["fp32"])


def coarser_precision(*names: str) -> Precision:
    """Return the precision of these that bears most, each named as `judge_of` takes it."""
    known = [judge_of(name) for name in names]
    return min(known, key=lambda precision: 1.0 if precision.cosine is None else precision.cosine)


def check_precision(precision: str, *, calibrated: bool, labelled: bool = False) -> Precision:
    """Refuse a precision there is not, and calibration where none is used or none is given.

    Args:
        precision: its name.
        calibrated: whether there is something to calibrate with.
        labelled: whether there are labelled texts, which do where nothing else is given to calibrate with.

    Raises:
        LosparseError: see above.
    """
    if precision not in PRECISION_TABLE:
        raise LosparseError(f"precision must be one of {', '.join(PRECISION_TABLE)}, got {precision!r}")
    found = PRECISION_TABLE[precision]
    if calibrated and not found.calibrated:
        able = " and ".join(repr(each.name) for each in PRECISION_TABLE.values() if each.calibrated)
        raise LosparseError(
            f"calibration is for precision {able}, got it with {precision!r}; leave calibration= (--calibration) out"
        )
    if found.calibrated and not calibrated and not labelled:
        raise LosparseError(
            f"precision {precision!r} needs texts to measure its scales on, got none; give them with calibration= "
            "(--calibration FILE), or labelled ones with data= (--data FILE), or choose 'int8'"
        )
    return found


def check_weight_bits(bits: int, precision: str) -> None:
    """Refuse a number of bits that the weights of a precision cannot have, and another than the default of others.

    Raises:
        LosparseError: see above.
    """
    if bits not in INT8_BITS:
        raise LosparseError(f"weight_bits must be {' or '.join(map(str, INT8_BITS))}, got {bits!r}")
    if bits != INT8_BITS[0] and not PRECISION_TABLE[precision].weight_bits:
        able = ", ".join(repr(each.name) for each in PRECISION_TABLE.values() if each.weight_bits)
        raise LosparseError(
            f"weight_bits={bits} is for precision {able}, got it with {precision!r}; "
            "leave weight_bits= (--weight-bits) out"
        )


class NotComparableError(LosparseError):
    """A form that this machine cannot compare with PyTorch, though others could."""


def check_overflow(bits: int, *, overflows: Callable[[], bool] = int8_overflows) -> None:
    """Refuse weights of more bits than this CPU multiplies exactly: what is written could not be compared with PyTorch.

    Args:
        bits: of the weights.
        overflows: tells whether int8 products with weights of 8 bits overflow on this CPU.

    Raises:
        NotComparableError: they overflow.
    """
    if bits > INT8_BITS[0] and overflows():
        raise NotComparableError(
            f"weight_bits={bits} is for CPUs with VNNI, and this one has none, so the export could not be "
            f"compared with PyTorch; export on one that has, or with weight_bits={INT8_BITS[0]} (--weight-bits)"
        )


def warn_of_amx(bits: int | None, *, older: bool) -> None:
    """Say what older runtimes do with int8 products; nothing in a graph can mend it.

    Args:
        bits: of a weight in such a product; None where there is none.
        older: whether the export is for them, by its operator set.
    """
    if older and bits is not None:
        logger.warning(
            "onnxruntime below 1.25 multiplies int8 wrongly on CPUs with AMX (32 tokens or more in a run, widths that "
            "are no multiple of 16); there run fp32, or a newer onnxruntime"
        )


def choose_embeddings(embeddings: str, precision: str) -> str:
    """Return what embedding tables become in a precision: "float" or "int8".

    Args:
        embeddings: what was asked for, one of `EMBEDDINGS`.
        precision: a key of `PRECISION_TABLE`.

    Raises:
        LosparseError: there is no such choice, or fp16 with int8 tables.
    """
    if embeddings not in EMBEDDINGS:
        raise LosparseError(f"embeddings must be one of {', '.join(EMBEDDINGS)}, got {embeddings!r}")
    if embeddings == "int8" and precision == FP16.name:
        raise LosparseError(
            "embeddings='int8' is not for precision 'fp16', whose tables are in half precision; "
            "leave embeddings= (--embeddings) out, or choose another precision"
        )
    return PRECISION_TABLE[precision].embeddings if embeddings == "auto" else embeddings
