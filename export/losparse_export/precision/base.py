"""What a precision is: what it is for, how far from PyTorch it may be, and how a graph is made in it.

Every precision is one value of `Precision` in a file of its own, listed in `table`. None loads torch or onnx before a
graph is made.

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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losparse_runtime.checking.bounds import Bounds
from losparse_runtime.contract.variant import SAFE_WEIGHT_BITS

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from losparse_runtime import Parity

# Bits that a weight in an int8 product may have. The first is right on every CPU; 8 is more exact, and overflows on
# x86-64 without VNNI.
INT8_BITS = (SAFE_WEIGHT_BITS, 8)

# What becomes of embedding tables: what the precision says, nothing, or int8 rows with a scale each (`tables`).
EMBEDDINGS = ("auto", "float", "int8")


@dataclass(frozen=True)
class Conversion:
    """What a graph is made in a precision with.

    Attributes:
        folder: an empty one, for the files through which a graph goes to a library.
        nodes: names of the MatMul nodes to convert, where the precision marks any.
        calibration: inputs of runs, where the precision is calibrated: int64 (batch, sequence) by input name.
        weight_bits: of a weight, where the precision leaves a choice.
    """

    folder: Path
    nodes: Sequence[str] = ()
    calibration: Sequence[Mapping[str, NDArray[Any]]] = ()
    weight_bits: int = INT8_BITS[0]


@dataclass(frozen=True)
class Precision:
    """One precision.

    Attributes:
        name: as in "int8".
        purpose: what it is for, in a few words.
        difference: largest difference allowed of outputs of magnitude 1; scaled with the largest output.
        cosine: smallest centred cosine allowed; None where the difference alone says it.
        convert: makes a finished fp32 graph one in this precision; None where it is that graph.
        planned: what a plan decides for it, layer by layer: "int8" for products that are quantised where that is
            faster, "fp32" for nothing.
        marked: which products are converted: "int8" for those that are faster for it, "all", or "fp32" where nodes are
            no choice.
        weight_bits: that a weight may have, where there is a choice; the first is the default.
        calibrated: whether scales are measured on inputs that are given.
        mixes_texts: whether a text's numbers hang on the others of its run.
        embeddings: what embedding tables become where nobody chooses: "float" or "int8".
        warning: what is to be said whenever a graph is made in it.
    """

    name: str
    purpose: str
    difference: float
    cosine: float | None
    convert: Callable[[ir.Model, Conversion], ir.Model] | None = None
    planned: str = "fp32"
    marked: str = "fp32"
    weight_bits: tuple[int, ...] = ()
    calibrated: bool = False
    mixes_texts: bool = False
    embeddings: str = "float"
    warning: str | None = None

    @property
    def bounds(self) -> Bounds:
        """By what its numbers are judged."""
        return Bounds(self.name, self.difference, self.cosine)

    def failure(self, parity: Parity, allowed: float, *, classifies: bool) -> tuple[str, str] | None:
        """Say what is wrong with a comparison and what is allowed, or None.

        Args:
            parity: the comparison.
            allowed: largest difference allowed, for the outputs at hand.
            classifies: whether the largest entry of a row is the answer.
        """
        return self.bounds.failure(parity, allowed, classifies=classifies)
