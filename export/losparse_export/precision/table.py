"""The precisions a folder can have, what each is for, and how far from PyTorch it may be. Loads no torch, no onnx.

A graph in fp32 must be PyTorch up to rounding. A graph in another precision is made from one that passed that test, so
what is left to judge is whether the model bears the precision; three numbers are looked at:

    difference   largest difference of a number, against the largest output
    cosine       of all rows of an output laid end to end, less their mean row. So a row counts by its length - the
                 direction of a row near zero, two logits of a text the model cannot decide, says nothing - and what the
                 model says of every text counts for nothing
    flips        classification: another class than PyTorch's is allowed only where PyTorch itself prefers its class by
                 no more than the largest difference allowed; rows it is less sure of are reported, not judged

The bounds are for the comparison with random tokens, which are harder than texts: a classifier has not seen any, and
its logits change by jumps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from losparse.errors import LosparseError

if TYPE_CHECKING:
    from losparse_runtime import Parity

# Outputs smaller than this are compared as if they were of this magnitude: they are differences of larger numbers.
_SMALLEST_SCALE = 0.1

# Bits of a weight in the formats that store weights alone in fewer bits.
WEIGHT_BITS = {"int8-weights": 8, "int4-weights": 4}

# Precisions with int8 products, and the bits a weight of theirs may have. 7 is right on every CPU; 8 is more exact, and
# overflows on x86-64 without VNNI.
INT8_PRODUCTS, INT8_BITS = ("int8", "int8-static"), (7, 8)


@dataclass(frozen=True)
class Precision:
    """One precision.

    Attributes:
        name: as in "int8".
        purpose: what it is for, in a few words.
        difference: largest difference allowed of outputs of magnitude 1; scaled with the largest output.
        cosine: smallest centred cosine allowed; None where the difference alone says it.
    """

    name: str
    purpose: str
    difference: float
    cosine: float | None

    def failure(self, parity: Parity, allowed: float, *, classifies: bool) -> tuple[str, str] | None:
        """Say what is wrong with a comparison and what is allowed, or None.

        Args:
            parity: the comparison.
            allowed: largest difference allowed, for the outputs at hand.
            classifies: whether the largest entry of a row is the answer.
        """
        if not parity.passed(allowed):
            return (f"{parity.max_abs:.2e}" if parity.finite else "NaN or infinity"), f"{allowed:.1e}"
        if self.cosine is None:
            return None
        if parity.centred_cosine < self.cosine:
            return f"a cosine of {parity.centred_cosine:.4f}", f"{self.cosine} or more"
        if classifies and parity.flip_margin > allowed:
            return f"another class than one that leads by {parity.flip_margin:.2e}", f"{allowed:.1e}"
        return None


# Measured against PyTorch as `check_parity` does, four seeds, on two trained models (6 layers, 384 wide: sentence
# vectors, and a classifier of two classes), each dense and with all layers as rank 160 plus 40 rows: largest difference
# and smallest cosine of all runs. The bound on the cosine allows about one and a half times the measured 1 - cosine,
# and more where that is small. What it must catch: int8 with 8-bit weights on a CPU whose kernel saturates gave a
# cosine of 0.01 in the factored models, one scale for a whole matrix 0.72..0.78.
_ALL = (
    # One product of a few thousand terms rounds to about 1e-6, and a dozen layers of them in another order of summation
    # to 1e-5 at most; a wrong weight, mask or position shows from 1e-3 up.
    Precision("fp32", "exact: the numbers of PyTorch", 1e-4, None),
    # Measured 0.62 and 0.947.
    Precision("int8", "CPUs, calls of many tokens: int8 products, activations scaled in every run", 1.0, 0.92),
    # Measured 0.40 and 0.919.
    Precision("int8-static", "as int8, with scales measured once on texts of yours", 1.0, 0.88),
    # Measured 0.07 and 0.9988.
    Precision("int8-weights", "decoding one token at a time, small files: weights in 8 bits", 0.3, 0.99),
    # Measured 0.48 and 0.932.
    Precision("int4-weights", "decoding one token at a time, smallest files: weights in 4 bits", 1.0, 0.89),
    # Measured 0.0015 and 0.999995 or more; tiny random models reach 0.0064.
    Precision("fp16", "GPUs: weights and activations in half the bytes", 0.02, 0.9999),
)
PRECISION_TABLE = {precision.name: precision for precision in _ALL}
PRECISIONS = tuple(PRECISION_TABLE)


def allowed_difference(tolerance: float, *magnitudes: float) -> float:
    """Scale a tolerance for outputs of magnitude 1 to the largest of some magnitudes."""
    return tolerance * max(_SMALLEST_SCALE, *magnitudes)


def relative_tolerance(allowed: float, *magnitudes: float) -> float:
    """Return the tolerance for outputs of magnitude 1 from which `allowed_difference` makes this difference."""
    return allowed / max(_SMALLEST_SCALE, *magnitudes)


def coarser_precision(*names: str) -> Precision:
    """Return the precision of these that bears most; one that this version does not know is judged as fp32."""
    known = [PRECISION_TABLE.get(name, PRECISION_TABLE["fp32"]) for name in names]
    return min(known, key=lambda precision: 1.0 if precision.cosine is None else precision.cosine)


def check_precision(precision: str, *, calibrated: bool) -> Precision:
    """Refuse a precision there is not, and calibration where none is used or none is given.

    Args:
        precision: its name.
        calibrated: whether there is something to calibrate with.

    Raises:
        LosparseError: see above.
    """
    if precision not in PRECISION_TABLE:
        raise LosparseError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if calibrated and precision != "int8-static":
        raise LosparseError(
            f"calibration is for precision 'int8-static', got it with {precision!r}; "
            "leave calibration= (--calibration) out"
        )
    if precision == "int8-static" and not calibrated:
        raise LosparseError(
            "precision 'int8-static' needs texts to measure its scales on, got none; give them with calibration= "
            "(--calibration FILE), or choose 'int8'"
        )
    return PRECISION_TABLE[precision]


def check_weight_bits(bits: int, precision: str) -> None:
    """Refuse a number of bits that int8 products cannot have, and another than the default where there are none.

    Raises:
        LosparseError: see above.
    """
    if bits not in INT8_BITS:
        raise LosparseError(f"weight_bits must be {' or '.join(map(str, INT8_BITS))}, got {bits!r}")
    if bits != INT8_BITS[0] and precision not in INT8_PRODUCTS:
        raise LosparseError(
            f"weight_bits={bits} is for precision {' and '.join(map(repr, INT8_PRODUCTS))}, got it with {precision!r}; "
            "leave weight_bits= (--weight-bits) out"
        )
