"""Checks of what is fed to a model, before onnxruntime sees it: its messages name graph nodes, not the mistake."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .feeds import positions_of
from .tensors import PAST, SEQUENCE, TOTAL, Arrays, Role, TensorSpec, Vocabulary

_DEFAULTS: frozenset[Role] = frozenset(("mask", "types", "positions", "memory mask"))
"""Have an obvious value: every token is real, all belong to the first text, and they follow each other."""

_Sizes = dict[str, tuple[int, str]]
"""Of named axes: the size, and who set it."""


class FeedCheck:
    """The check of what one graph is fed; it is made once and used on the path of every run.

    Args:
        inputs: of the model.
        vocabulary: the ids that they may hold.
        states: names of the inputs that are states.
        longest: positions the model has.
    """

    def __init__(
        self,
        inputs: Collection[TensorSpec],
        vocabulary: Vocabulary,
        *,
        states: Collection[str] = (),
        longest: int | None = None,
    ) -> None:
        self._specs = {spec.name: spec for spec in inputs}
        self._states = frozenset(states)
        self._longest = longest
        self._tokens = next((spec.name for spec in inputs if spec.role == "tokens"), None)
        self._defaults = frozenset(spec.name for spec in inputs if spec.role in _DEFAULTS)
        bounds: Mapping[Role, int | None] = {
            "tokens": vocabulary.size,
            "types": vocabulary.types,
            "positions": longest,
            "mask": 2,
            "memory mask": 2,
        }
        limits = {spec.name: bounds.get(spec.role) for spec in inputs}
        self._limits = {name: limit for name, limit in limits.items() if limit is not None}

    def __call__(self, given: Mapping[str, NDArray[Any]]) -> Arrays:
        """Check the inputs of one run and add those that have a default; see `Signature.check`.

        Raises:
            InputError: something is wrong; the message says what.
        """
        if not isinstance(given, Mapping):
            raise InputError(
                f"inputs must be a dict of arrays by name, got {type(given).__name__}; encode(texts) makes one"
            )
        specs = self._specs
        unknown = [str(name) for name in given if name not in specs]
        if unknown:
            raise InputError(f"the model has no input {', '.join(unknown)}; its inputs are {', '.join(specs)}")
        absent = [name for name in specs if name not in given]
        self._require(given, absent)
        sizes: _Sizes = {}
        for name, array in given.items():
            _check_array(specs[name], array, sizes)
        if PAST not in sizes and any(PAST in specs[name].shape for name in absent if name in self._states):
            sizes[PAST] = (0, "an empty state")
        _check_total(sizes)
        self._check_length(given, sizes)
        for name, limit in self._limits.items():
            if name in given:
                _check_values(name, given[name], limit)
        mask = next((given[name] for name, spec in specs.items() if spec.role == "mask" and name in given), None)
        return {name: given[name] if name in given else _default(spec, sizes, mask) for name, spec in specs.items()}

    def _require(self, given: Mapping[str, object], absent: Collection[str]) -> None:
        """Refuse to go without an input: states are left out together, others with a default beside the tokens."""
        if not absent:
            return
        some = any(name in given for name in self._states)
        spared = self._defaults if self._tokens in given else frozenset()
        missing = [name for name in absent if (some if name in self._states else name not in spared)]
        if missing:
            raise InputError(f"input {', '.join(missing)} is missing; the model's inputs are {', '.join(self._specs)}")

    def _check_length(self, given: Mapping[str, NDArray[Any]], sizes: _Sizes) -> None:
        if self._longest is None or self._tokens is None or self._tokens not in given:
            return
        own, past = given[self._tokens].shape[1], sizes[PAST][0] if PAST in sizes else 0
        if own + past > self._longest:
            beside = f" after {past} of the past" if past else ""
            raise InputError(
                f"{self._tokens} has {own} tokens a row{beside}, the model has {self._longest} positions; "
                f"cut the texts with encode(texts, max_length={self._longest - past})"
            )


def _check_array(spec: TensorSpec, array: object, sizes: _Sizes) -> None:
    """Check one array against its description; `sizes` collects the named axes."""
    if not isinstance(array, np.ndarray):
        raise InputError(f"input {spec.name!r} must be a numpy array, got {type(array).__name__}; use np.asarray(...)")
    if array.dtype != np.dtype(spec.dtype):
        raise InputError(
            f"input {spec.name!r} must be {spec.dtype}, got {array.dtype}; cast it with .astype(np.{spec.dtype})"
        )
    if array.ndim != len(spec.shape):
        form = ", ".join(map(str, spec.shape))
        raise InputError(f"input {spec.name!r} must have the {len(spec.shape)} axes ({form}), got shape {array.shape}")
    for axis, size in zip(spec.shape, array.shape, strict=True):
        if size < 1 and axis != PAST:
            raise InputError(
                f"input {spec.name!r} must have at least one entry on axis {axis}, got shape {array.shape}"
            )
        expected, owner = (axis, "the model") if isinstance(axis, int) else sizes.setdefault(axis, (size, spec.name))
        if size != expected:
            raise InputError(f"input {spec.name!r} has {axis} size {size}, {owner} has {expected}; they must be equal")


def _check_total(sizes: _Sizes) -> None:
    if not {PAST, SEQUENCE, TOTAL} <= sizes.keys():
        return
    (total, name), past, own = sizes[TOTAL], sizes[PAST][0], sizes[SEQUENCE][0]
    if total != past + own:
        raise InputError(
            f"input {name!r} has {TOTAL} size {total}, {sizes[PAST][1]} has {past} and {sizes[SEQUENCE][1]} has {own}; "
            f"it must be their sum"
        )


def _check_values(name: str, array: NDArray[Any], limit: int) -> None:
    """Check ids against the tables they index; a negative id would silently count from the end of the table."""
    if array.dtype.kind != "i":
        return
    # One pass over the ids, on the path of every run: read as unsigned, a negative id is a very large one.
    if array.view(f"u{array.dtype.itemsize}").max() >= limit:
        wrong = (array < 0) | (array >= limit)
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise InputError(
            f"input {name!r} must be in 0..{limit - 1}, got {array[place]} at {place}; "
            "use the tokenizer of this folder (encode)"
        )


def _default(spec: TensorSpec, sizes: _Sizes, mask: NDArray[Any] | None) -> NDArray[Any]:
    """Return the value of an input that is left out.

    Args:
        spec: of the input.
        sizes: of the axes that are known.
        mask: of the tokens, where it is given.
    """
    known = {axis: size for axis, (size, _) in sizes.items()}
    if {PAST, SEQUENCE} <= known.keys():
        known.setdefault(TOTAL, known[PAST] + known[SEQUENCE])
    unknown = [axis for axis in spec.shape if isinstance(axis, str) and axis not in known]
    if unknown:
        raise InputError(f"input {spec.name} is missing, and no other input says the size of its axis {unknown[0]!r}")
    shape = spec.sized(known)
    if spec.role == "positions":
        past, own = known.get(PAST, 0), known[SEQUENCE]
        if mask is not None and mask.shape == (shape[0], past + own):
            return positions_of(mask, own).astype(spec.dtype)
        return np.broadcast_to(np.arange(past, past + own, dtype=spec.dtype), shape).copy()
    return np.full(shape, spec.role in ("mask", "memory mask"), spec.dtype)
