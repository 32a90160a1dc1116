"""Parity: how far two implementations of one model are apart on the same inputs.

With `a` the array under test, `r` the reference, and rows taken along the last axis:

    max_abs         largest |a - r| over everything
    max_rel         largest over the outputs of (largest |a - r|) / (largest |r|)
    cosine          smallest cosine of a row of `a` with the same row of `r`
    centred_cosine  smallest over the outputs of the cosine of all rows of `a`, laid end to end, with those of `r`,
                    both less the mean row of `r`: what an output says of every input is no sign of agreement
    top1_agreement  share of rows whose largest entry is in the same place
    flip_margin     largest, over the rows where it is not, of (largest entry of r) - (entry of r where a is largest)
    finite          neither side holds a NaN or an infinity; anything else never passes

`max_rel` sets the error against the scale of the output: an entry near zero has no meaningful relative error.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .session import Session

Array = NDArray[Any]
_ONE = "output"  # the name of a bare array


@dataclass(frozen=True)
class Parity:
    """The difference of two sets of outputs; the module says what each number means. No unit.

    Attributes:
        max_abs: infinite where an output is not finite.
        max_rel: infinite where an output is not finite, or the reference is all zero and the other is not.
        cosine: in -1..1; -1 where an output is not finite.
        centred_cosine: in -1..1; rows that are not finite are left out. Where the rows of the reference are all but
            equal the mean is not taken off: their differences are rounding.
        top1_agreement: in 0..1; rows that are not finite count as different.
        flip_margin: >= 0; 0 where no finite row has its largest entry elsewhere.
        finite: whether all numbers on both sides are.
        rows: rows compared.
        worst_output: the output that holds the largest difference, or the first number that is not finite.
        worst_index: its place in that output.
        worst_batch: which comparison, counted from 0, that output is from.
    """

    max_abs: float
    max_rel: float
    cosine: float
    centred_cosine: float
    top1_agreement: float
    flip_margin: float
    finite: bool
    rows: int
    worst_output: str
    worst_index: tuple[int, ...]
    worst_batch: int

    def passed(self, tolerance: float) -> bool:
        """Whether all outputs are finite and `max_abs` is at most `tolerance`.

        Raises:
            InputError: the tolerance is negative or not finite: everything, or nothing, would pass.
        """
        if not math.isfinite(tolerance) or tolerance < 0:
            raise InputError(f"tolerance must be a finite number >= 0, got {tolerance!r}")
        return self.finite and self.max_abs <= tolerance

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; an infinity becomes None, because JSON has none."""
        values = {**asdict(self), "worst_index": list(self.worst_index)}
        return {name: None if value == math.inf else value for name, value in values.items()}


def compare(
    actual: Array | Mapping[str, Array],
    reference: Array | Mapping[str, Array],
    names: Sequence[str] | None = None,
    *,
    mask: Array | None = None,
    masked: Collection[str] | None = None,
) -> Parity:
    """Compare two arrays, or two sets of outputs.

    Args:
        actual: the array, or the arrays by output name, under test.
        reference: the same from the implementation that is right by definition.
        names: the outputs to compare; all by default, and both sides must then have the same.
        mask: (batch, sequence); compare only where it is not 0: what a model says at padding is never read.
        masked: the outputs that `mask` is for, whose first two axes are batch and sequence; all by default.

    Returns:
        The differences.

    Raises:
        InputError: names or shapes differ, an array is empty or not numeric, or nothing is left to compare.
    """
    comparison = Comparison()
    comparison.add(actual, reference, names, mask=mask, masked=masked)
    return comparison.parity()


def compare_sessions(actual: Session, reference: Session, batches: Iterable[Mapping[str, Array]]) -> Parity:
    """Run two sessions on the same inputs and compare all outputs.

    Outputs of one value a token (axes batch and sequence first) are compared where the attention mask is not 0.

    Args:
        actual: the session under test.
        reference: the session that is right by definition.
        batches: inputs of one run each, as `Session.encode` makes them.

    Returns:
        The differences over all batches.

    Raises:
        InputError: there is no batch, a batch does not fit one of the models, or their outputs differ in name or shape.
        RunError: one of the models failed.
    """
    comparison = Comparison()
    signature = actual.signature
    for batch in batches:
        mask = signature.of(batch, "mask")
        comparison.add(actual.run(batch), reference.run(batch), mask=mask, masked=signature.token_outputs)
    return comparison.parity()


class Comparison:
    """Differences gathered over many comparisons: `add` for each, `parity` at the end."""

    def __init__(self) -> None:
        self._max_abs: dict[str, float] = {}
        self._scale: dict[str, float] = {}
        self._cosine = 1.0
        self._sums: dict[str, dict[int, _Sums]] = {}  # by output and by width of its rows
        self._agreeing = 0
        self._flip_margin = 0.0
        self._rows = 0
        self._finite = True
        self._worst: tuple[float, str, tuple[int, ...], int] = (-1.0, "", (), 0)
        self._batches = 0

    def add(
        self,
        actual: Array | Mapping[str, Array],
        reference: Array | Mapping[str, Array],
        names: Sequence[str] | None = None,
        *,
        mask: Array | None = None,
        masked: Collection[str] | None = None,
    ) -> None:
        """Compare once more; arguments and errors as for `compare`.

        Args:
            actual: the array, or the arrays by output name, under test.
            reference: the same from the implementation that is right by definition.
            names: the outputs to compare; all by default.
            mask: (batch, sequence); compare only where it is not 0.
            masked: the outputs that `mask` is for; all by default.

        Raises:
            InputError: see `compare`.
        """
        a, r = _by_name(actual), _by_name(reference)
        if names is None:
            _check_names(a, r)
        self._batches += 1
        for name in a if names is None else names:
            for side, arrays in (("first", a), ("second", r)):
                if name not in arrays:
                    raise InputError(f"the {side} side has no output {name!r}; it has {', '.join(arrays)}")
            own_mask = mask if masked is None or name in masked else None
            self._add_output(name, _numbers(name, a[name]), _numbers(name, r[name]), own_mask)

    def _add_output(self, name: str, a: Array, r: Array, mask: Array | None) -> None:
        if a.shape != r.shape:
            raise InputError(f"output {name!r} has shape {a.shape} on the first side and {r.shape} on the second")
        if mask is None:
            self._add_rows(name, a, r, lambda index: index)
            return
        if a.shape[:2] != mask.shape:
            raise InputError(f"output {name!r} has shape {a.shape}, which does not begin with the mask's {mask.shape}")
        # Text by text: the rows of a (batch, sequence) output are then the real tokens of one text.
        for text, real in enumerate(mask.astype(bool)):
            places = np.flatnonzero(real)
            if places.size:
                self._add_rows(
                    name, a[text, places], r[text, places], lambda i, t=text, p=places: (t, int(p[i[0]]), *i[1:])
                )

    def _add_rows(self, name: str, a: Array, r: Array, place: Any) -> None:
        """Add one block; `place` turns an index into the block into one into the output."""
        finite = np.isfinite(a) & np.isfinite(r)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.where(finite, np.abs(a - r), np.inf)
        worst = np.unravel_index(int(difference.argmax()), difference.shape)
        largest = float(difference[worst])
        if largest > self._worst[0]:
            self._worst = largest, name, place(tuple(int(i) for i in worst)), self._batches - 1
        self._finite &= bool(finite.all())
        self._max_abs[name] = max(self._max_abs.get(name, 0.0), largest)
        self._scale[name] = max(self._scale.get(name, 0.0), float(np.abs(np.where(finite, r, 0.0)).max()))
        width = a.shape[-1]
        whole = finite.reshape(-1, width).all(axis=1)
        a_rows, r_rows = a.reshape(-1, width)[whole], r.reshape(-1, width)[whole]
        self._rows += whole.size
        places, rights = a_rows.argmax(axis=1), r_rows.argmax(axis=1)
        self._agreeing += int((places == rights).sum())
        self._flip_margin = max(self._flip_margin, float(_lead(r_rows, places, rights).max(initial=0.0)))
        self._sums.setdefault(name, {}).setdefault(width, _Sums(width)).add(a_rows, r_rows)
        self._cosine = min(self._cosine, _cosine(a_rows, r_rows) if whole.all() else -1.0)

    def parity(self) -> Parity:
        """The differences so far.

        Raises:
            InputError: nothing was compared.
        """
        if not self._rows:
            raise InputError("nothing to compare: give at least one batch with at least one token that is not padding")
        _, output, index, batch = self._worst
        return Parity(
            max_abs=max(self._max_abs.values()),
            max_rel=max(_ratio(self._max_abs[name], self._scale[name]) for name in self._max_abs),
            cosine=self._cosine,
            centred_cosine=min(_centred_cosine(list(sums.values())) for sums in self._sums.values()),
            top1_agreement=self._agreeing / self._rows,
            flip_margin=self._flip_margin,
            finite=self._finite,
            rows=self._rows,
            worst_output=output,
            worst_index=index,
            worst_batch=batch,
        )


def _by_name(value: Array | Mapping[str, Array]) -> Mapping[str, Array]:
    return value if isinstance(value, Mapping) else {_ONE: value}


def _check_names(actual: Mapping[str, Array], reference: Mapping[str, Array]) -> None:
    if set(actual) != set(reference):
        raise InputError(
            f"the outputs differ: {', '.join(actual)} on the first side, {', '.join(reference)} on the second; "
            "choose those to compare with names="
        )


def _numbers(name: str, value: object) -> Array:
    """An array as float64, with at least one axis and at least one entry."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" or array.size == 0:
        raise InputError(f"output {name!r} must hold numbers, at least one, got {array.dtype} of shape {array.shape}")
    return np.atleast_1d(array).astype(np.float64)


def _ratio(difference: float, scale: float) -> float:
    if difference == 0:
        return 0.0
    return difference / scale if scale > 0 and difference < math.inf else math.inf


def _lead(r: Array, places: Array, rights: Array) -> Array:
    """By how much each row of `r` is larger at its own place than at the other side's; (rows,), >= 0."""
    index = np.arange(len(r))
    with np.errstate(over="ignore"):
        lead: Array = r[index, rights] - r[index, places]
    return lead


# Share of the squares of the reference that its spread must have to be told from rounding: 1 % of the magnitude.
_SMALLEST_SPREAD = 1e-4


class _Sums:
    """Sums over the rows of one width, from which a mean can be taken off afterwards."""

    def __init__(self, width: int) -> None:
        self.rows = 0
        self.a, self.r = np.zeros(width), np.zeros(width)
        self.products = np.zeros(3)  # of a * r, a * a and r * r

    def add(self, a: Array, r: Array) -> None:
        self.rows += len(a)
        with np.errstate(over="ignore", invalid="ignore"):
            self.a += a.sum(axis=0)
            self.r += r.sum(axis=0)
            self.products += [(a * r).sum(), (a * a).sum(), (r * r).sum()]


def _centred_cosine(parts: list[_Sums]) -> float:
    """Cosine of rows less the mean row of the reference; less its mean number where the rows are not of one width."""
    with np.errstate(over="ignore", invalid="ignore"):
        products: Array = np.sum([part.products for part in parts], axis=0)
        if len(parts) == 1:
            count, a, r = parts[0].rows, parts[0].a, parts[0].r
        else:
            count = sum(part.rows * part.r.size for part in parts)
            a = np.sum([part.a.sum(keepdims=True) for part in parts], axis=0)
            r = np.sum([part.r.sum(keepdims=True) for part in parts], axis=0)
        mean = r / max(count, 1)
        both, mean_square = float(mean @ a), count * float(mean @ mean)
        centred = products - [both, 2 * both - mean_square, mean_square]
    return _cosine_of(centred if centred[2] > _SMALLEST_SPREAD * products[2] else products)


def _cosine_of(products: Array) -> float:
    """Cosine from the sums of a * r, a * a and r * r; 1 where both sides are zero, 0 where one is, or out of range."""
    product, a, r = (float(value) for value in products)
    if a <= 0 or r <= 0:
        return 1.0 if a == r else 0.0
    cosine = product / (math.sqrt(a) * math.sqrt(r))
    return min(max(cosine, -1.0), 1.0) if math.isfinite(cosine) else 0.0


def _cosine(a: Array, r: Array) -> float:
    """Smallest cosine of a row of `a` with the same row of `r`; 1 where both rows are zero, 0 where one is."""
    # Scaled by the largest entry first: squares of very large or very small numbers leave the range of a double.
    scale_a, scale_r = np.abs(a).max(axis=1, keepdims=True), np.abs(r).max(axis=1, keepdims=True)
    a, r = a / np.where(scale_a > 0, scale_a, 1), r / np.where(scale_r > 0, scale_r, 1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(r, axis=1)
    cosines = np.where(norms > 0, (a * r).sum(axis=1) / np.where(norms > 0, norms, 1), 0.0)
    cosines = np.where((scale_a + scale_r)[:, 0] == 0, 1.0, cosines)
    return float(np.clip(cosines, -1, 1).min())
