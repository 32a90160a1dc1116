"""What is counted of a piece of a graph, the calls it is for, and what machines take for it; no machine's numbers.

A lowering counts (`Counts`), a target has constants (`Costs`), a plan is for calls (`Call`, and several as `Traffic`).
The unit of a price is one multiply-add of a matrix product; everything else is converted into it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from losparse.errors import LosparseError, shown

Product = tuple[int, int]
"""Input and output features of a product with a constant."""

_MOST = 2**31 - 1  # of a size in a call: what onnxruntime itself can count in 32 bits


@dataclass(frozen=True)
class Counts:
    """What a few nodes do, per token but for the nodes themselves; the bias, which every form adds alike, is left out.

    Attributes:
        products: the matrix products.
        nodes: how many nodes run, per call.
        elements: floats an elementwise node or a copy (Add, Concat, Pad) writes.
        moved: floats that go through a Transpose of two axes, or a Gather on the first one.
        gathered: floats picked one at a time.
        quantised: features that are quantised beside those of the products.
        multiply_adds: beside those of the products.
    """

    products: Sequence[Product] = ()
    nodes: int = 0
    elements: int = 0
    moved: int = 0
    gathered: int = 0
    quantised: int = 0
    multiply_adds: int = 0


@dataclass(frozen=True)
class Call:
    """One call of a model.

    Attributes:
        batch: texts in a run.
        length: tokens in a text.
        past: tokens a text has had before, of models that keep what they computed of them.
        threads: of onnxruntime, inside one operator.
    """

    batch: int = 1
    length: int = 128
    past: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            LosparseError: one is no whole number, below 1 (`past`: below 0), or above 2**31 - 1.
        """
        for name, value in asdict(self).items():
            least = 0 if name == "past" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise LosparseError(f"{name} must be a whole number of at least {least}, got {shown(value)}")
            if value > _MOST:
                raise LosparseError(f"{name} must be a whole number of at most {_MOST:,}, got {shown(value)}")

    @property
    def tokens(self) -> int:
        """Tokens in a run."""
        return self.batch * self.length

    @property
    def words(self) -> str:
        """The call as messages say it."""
        past = f" after {self.past}" if self.past else ""
        return f"{self.batch} x {self.length} tokens{past}, threads: {self.threads}"


Calls = Call | Sequence[tuple[Call, float]]
"""One call, or several with a weight each: how often they come, in any unit."""


@dataclass(frozen=True)
class Traffic:
    """The calls that a model gets.

    Attributes:
        calls: each once.
        weights: how often each comes, in any unit.
    """

    calls: tuple[Call, ...] = (Call(),)
    weights: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Check calls and weights; the weights become floats.

        Raises:
            LosparseError: there is no call, one comes twice, or there is not one positive finite weight for each.
        """
        if not self.calls or not all(isinstance(call, Call) for call in self.calls):
            raise LosparseError("calls must be a Call, or at least one pair of a Call and its weight")
        twice = next((call for place, call in enumerate(self.calls) if call in self.calls[:place]), None)
        if twice is not None:
            raise LosparseError(f"calls must be different ones, got {twice.words} twice; add their weights up")
        if len(self.weights) != len(self.calls):
            raise LosparseError(
                f"every call must have one weight, got calls: {len(self.calls)}, weights: {len(self.weights)}"
            )
        object.__setattr__(self, "weights", tuple(_weight(weight) for weight in self.weights))

    @classmethod
    def of(cls, calls: Calls | Traffic | None) -> Traffic:
        """Take one call, or pairs of a call and its weight, as traffic; None for one text of 128 tokens.

        Raises:
            LosparseError: as the class.
        """
        if isinstance(calls, Traffic):
            return calls
        if calls is None or isinstance(calls, Call):
            return cls((calls or Call(),), (1.0,))
        if not isinstance(calls, Sequence) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in calls):
            raise LosparseError(
                f"calls must be a Call, or pairs of a Call and its weight, as [(Call(), 1.0)], got {shown(calls)}"
            )
        return cls(tuple(call for call, _ in calls), tuple(weight for _, weight in calls))

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of every call in all calls."""
        return _shares(self.weights)

    @property
    def words(self) -> str:
        """The calls as messages say them."""
        if len(self.calls) == 1:
            return self.calls[0].words
        return "; ".join(f"{call.words} ({share:.0%})" for call, share in zip(self.calls, self.shares, strict=True))

    def per_token(self, price: Callable[[Call], float]) -> float:
        """Average over all tokens of all calls what one token takes in each."""
        tokens = [weight * call.tokens for call, weight in zip(self.calls, _scaled(self.weights), strict=True)]
        shares = _shares(tokens)  # 1 for a single call: its price is not rounded
        return sum(share * price(call) for call, share in zip(self.calls, shares, strict=True))

    def per_call(self, times: Callable[[Call], float]) -> float:
        """Average over all calls what each takes."""
        return sum(share * times(call) for call, share in zip(self.calls, self.shares, strict=True))

    def to_list(self) -> list[dict[str, Any]]:
        """Return the calls as JSON values."""
        return [{**asdict(call), "weight": weight} for call, weight in zip(self.calls, self.weights, strict=True)]


def _weight(weight: object) -> float:
    """Return a weight as a float: of Python's or numpy's numbers."""
    try:
        number = math.nan if isinstance(weight, bool) or not isinstance(weight, numbers.Real) else float(weight)
    except OverflowError:  # more digits than a float holds
        number = math.inf
    if not 0 < number < math.inf:
        raise LosparseError(f"the weight of a call must be a finite number above 0, got {shown(weight)}")
    return number


def _scaled(weights: Sequence[float]) -> list[float]:
    """Divide by a power of two, so that the largest is below 1: sums do not overflow, and nothing large is rounded."""
    _, exponent = math.frexp(max(weights))
    return [math.ldexp(weight, -exponent) for weight in weights]


def _shares(weights: Sequence[float]) -> tuple[float, ...]:
    """Return what every weight is of the sum of all."""
    parts = _scaled(weights)
    return tuple(part / sum(parts) for part in parts)


ONE_TEXT = Traffic()
"""One text of 128 tokens at a time, on one thread."""


@dataclass(frozen=True)
class Costs:
    """What one thing takes on a machine, in multiply-adds of a matrix product in fp32.

    Where multiply-adds are nearly free (int8 with AMX), what a product quantises, reads and writes is its price.

    Attributes:
        node: starting one more node, per call of the model.
        element: reading and writing one float in an elementwise node or a copy.
        gather: picking one float by a Gather on the last axis.
        move: moving one float through a Transpose of two axes, or a Gather on the first one.
        int8: a multiply-add in int8.
        quantise: quantising one input feature of a product.
        scale: scaling one output of a product in int8 back, and writing it.
        panel: outputs below which a product takes as long as with this many.
        narrower: the least share of a head's dimensions that narrower heads must save to be worth their nodes.
        error: the factor by which an estimate is off at most; dearer forms than that need not be timed.
        read: reading one input feature of a product in fp32.
        write: writing one output of a product in fp32.
        byte: reading one byte of a product's weight, once per call: 4 bytes a number in fp32, 1 in int8.
        start: starting one product, beside its node, per call of the model.
        step: outputs that a kernel computes together: a product takes as long as with the next multiple of them.
    """

    node: float
    element: float
    gather: float
    move: float
    int8: float
    quantise: float
    scale: float
    panel: int
    narrower: float
    error: float
    read: float = 0.0
    write: float = 0.0
    byte: float = 0.0
    start: float = 0.0
    step: int = 1

    def width(self, outputs: int) -> int:
        """Return how many outputs a product takes as long as."""
        return max(self.panel, -(-outputs // self.step) * self.step)

    def product(self, product: Product, precision: str = "fp32", tokens: float = math.inf) -> float:
        """Return what a product takes per token; in int8 only where that is faster.

        Args:
            product: its input and output features.
            precision: "int8" where it may be quantised.
            tokens: in a call, by which what a call reads is divided.
        """
        full = self._full(product, tokens)
        return min(full, self._quantised(product, tokens)) if precision == "int8" else full

    def gains(self, product: Product, calls: Calls | Traffic | None = None) -> bool:
        """Tell whether a product is faster quantised dynamically, its input's quantisation included, over all calls."""
        return (
            Traffic.of(calls).per_token(
                lambda call: self._full(product, call.tokens) - self._quantised(product, call.tokens)
            )
            > 0
        )

    def _full(self, product: Product, tokens: float) -> float:
        inputs, outputs = product
        once = (4 * self.byte * inputs * outputs + self.start) / tokens
        return inputs * self.width(outputs) + self.read * inputs + self.write * outputs + once

    def _quantised(self, product: Product, tokens: float) -> float:
        inputs, outputs = product
        once = (self.byte * inputs * outputs + self.start) / tokens
        return self.int8 * inputs * self.width(outputs) + self.quantise * inputs + self.scale * outputs + once

    def price(self, counts: Counts, call: Call, precision: str = "fp32") -> float:
        """Return what is counted takes per token in a call.

        Args:
            counts: of a form of a layer, say.
            call: by whose tokens the starts of nodes, and what is read once, are divided.
            precision: "int8" for products that are quantised where that is faster.
        """
        taken = sum(self.product(product, precision, call.tokens) for product in counts.products)
        taken += counts.multiply_adds + self.quantise * counts.quantised
        copied = self.element * counts.elements + self.move * counts.moved
        return taken + (self.node * counts.nodes / call.tokens + copied + self.gather * counts.gathered)
