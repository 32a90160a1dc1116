"""Checks of what is fed to a model, before onnxruntime sees it: its messages name graph nodes, not the mistake."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .tensors import PAST, SEQUENCE, TOTAL, Arrays, Role, TensorSpec, Vocabulary

_DEFAULTS: frozenset[Role] = frozenset(("mask", "types", "positions", "memory mask"))
"""Have an obvious value: every token is real, all belong to the first text, and they follow each other."""

_Sizes = dict[str, tuple[int, str]]
"""Of named axes: the size, and who set it."""


def check_feeds(
    given: Mapping[str, NDArray[Any]],
    inputs: Collection[TensorSpec],
    vocabulary: Vocabulary,
    *,
    states: Collection[str] = (),
    longest: int | None = None,
) -> Arrays:
    """Check the inputs of one run and add those that have a default; see `Signature.check`.

    Args:
        given: arrays by input name.
        inputs: of the model.
        vocabulary: the ids that they may hold.
        states: names of the inputs that are states.
        longest: positions the model has.

    Raises:
        InputError: something is wrong; the message says what.
    """
    if not isinstance(given, Mapping):
        raise InputError(
            f"inputs must be a dict of arrays by name, got {type(given).__name__}; encode(texts) makes one"
        )
    specs = {spec.name: spec for spec in inputs}
    unknown = [str(name) for name in given if name not in specs]
    if unknown:
        raise InputError(f"the model has no input {', '.join(unknown)}; its inputs are {', '.join(specs)}")
    missing = _missing(given, specs, states)
    if missing:
        raise InputError(f"input {', '.join(missing)} is missing; the model's inputs are {', '.join(specs)}")
    sizes: _Sizes = {}
    for name, array in given.items():
        _check_array(specs[name], array, sizes)
    if PAST not in sizes and any(PAST in specs[name].shape for name in states if name not in given):
        sizes[PAST] = (0, "an empty state")
    _check_total(sizes)
    _check_length(given, specs, sizes, longest)
    limits: Mapping[Role, int | None] = {
        "tokens": vocabulary.size,
        "types": vocabulary.types,
        "positions": longest,
        "mask": 2,
        "memory mask": 2,
    }
    for spec in specs.values():
        if spec.name in given:
            _check_values(spec, given[spec.name], limits)
    return {name: given[name] if name in given else _default(spec, sizes) for name, spec in specs.items()}


def require_arrays(array: NDArray[Any] | None, name: str | None) -> NDArray[Any]:
    """Return an array that must be there.

    Raises:
        InputError: it is not.
    """
    if array is None:
        raise InputError("the model takes no tokens" if name is None else f"input {name} is missing")
    return array


def _missing(given: Mapping[str, object], specs: Mapping[str, TensorSpec], states: Collection[str]) -> list[str]:
    """List the inputs that are left out and must not be: states are left out together, others beside the tokens."""
    tokens = any(specs[name].role == "tokens" for name in given)
    some = any(name in given for name in states)
    left = (spec for name, spec in specs.items() if name not in given)
    return [spec.name for spec in left if (some if spec.name in states else not (tokens and spec.role in _DEFAULTS))]


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


def _check_length(
    given: Mapping[str, NDArray[Any]], specs: Mapping[str, TensorSpec], sizes: _Sizes, longest: int | None
) -> None:
    tokens = next((name for name in given if specs[name].role == "tokens"), None)
    if tokens is None or longest is None:
        return
    own, past = given[tokens].shape[1], sizes[PAST][0] if PAST in sizes else 0
    if own + past > longest:
        beside = f" after {past} of the past" if past else ""
        raise InputError(
            f"{tokens} has {own} tokens a row{beside}, the model has {longest} positions; "
            f"cut the texts with encode(texts, max_length={longest - past})"
        )


def _check_values(spec: TensorSpec, array: NDArray[Any], limits: Mapping[Role, int | None]) -> None:
    """Check ids against the tables they index; a negative id would silently count from the end of the table."""
    limit = limits.get(spec.role)
    if limit is None or array.dtype.kind != "i":
        return
    # One pass over the ids, on the path of every run: read as unsigned, a negative id is a very large one.
    if array.view(f"u{array.dtype.itemsize}").max() >= limit:
        wrong = (array < 0) | (array >= limit)
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise InputError(
            f"input {spec.name!r} must be in 0..{limit - 1}, got {array[place]} at {place}; "
            "use the tokenizer of this folder (encode)"
        )


def _default(spec: TensorSpec, sizes: _Sizes) -> NDArray[Any]:
    """Return the value of an input that is left out."""
    known = {axis: size for axis, (size, _) in sizes.items()}
    if {PAST, SEQUENCE} <= known.keys():
        known.setdefault(TOTAL, known[PAST] + known[SEQUENCE])
    unknown = [axis for axis in spec.shape if isinstance(axis, str) and axis not in known]
    if unknown:
        raise InputError(f"input {spec.name} is missing, and no other input says the size of its axis {unknown[0]!r}")
    shape = spec.sized(known)
    if spec.role == "positions":
        past = known.get(PAST, 0)
        return np.broadcast_to(np.arange(past, past + known[SEQUENCE], dtype=spec.dtype), shape).copy()
    return np.full(shape, spec.role in ("mask", "memory mask"), spec.dtype)
