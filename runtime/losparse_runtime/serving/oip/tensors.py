"""One tensor of a request, from JSON or from bytes. Its shape is checked against its data before memory is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...contract.tensors import TensorSpec
from ...errors import InputError
from .datatypes import DATATYPES, TEXTS

_MOST = 2**31 - 1  # of a size, as in a signature
_SHOWN = 60  # characters of what a caller sent

# What numbers of a kind of type (numpy's letter) may be in JSON, and how to say it. JSON has one kind of number: 3 is a
# float too, 3.0 is no whole number to most of its writers.
_JSON: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset((bool,)), "true and false"),
    "i": (frozenset((int,)), "whole numbers"),
    "u": (frozenset((int,)), "whole numbers"),
    "f": (frozenset((int, float)), "numbers"),
}
_JSON_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a fraction",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def shown(value: object) -> str:
    """Return what a caller sent as it stands in a message: one line, cut."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def parse_shape(entry: Mapping[str, object], spec: TensorSpec) -> tuple[int, ...]:
    """Check the datatype and the shape of an input.

    Args:
        entry: the input as it stands in the request.
        spec: what the model says of it.

    Raises:
        InputError: another datatype, no list of sizes, or not as many axes.
    """
    datatype, shape, wanted = entry.get("datatype"), entry.get("shape"), DATATYPES[spec.dtype]
    if datatype == TEXTS:
        raise InputError(
            f"input {spec.name!r} must be {wanted}, got {TEXTS}; "
            "send texts to the task's route: /v1/classify, /v1/tag, /v1/answer, /v1/rank or /v1/embeddings"
        )
    if datatype != wanted:
        raise InputError(f"input {spec.name!r} must have the datatype {wanted}, got {shown(datatype)}")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size <= _MOST for size in shape):
        raise InputError(f"input {spec.name!r} must have a shape of sizes in 0..{_MOST}, got {shown(shape)}")
    if len(shape) != len(spec.shape):
        form = ", ".join(map(str, spec.shape))
        raise InputError(f"input {spec.name!r} must have the {len(spec.shape)} axes ({form}), got shape {shown(shape)}")
    return tuple(shape)


def from_json(data: object, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    """Make an array of JSON data.

    Args:
        data: numbers in the order of the last axis first, as one list or as lists in lists.
        spec: what the model says of the input.
        shape: of the input; it has as many axes as the model says.

    Raises:
        InputError: the data does not fill the shape, or holds what the type has not.
    """
    flat = _flat(data, shape, spec.name)
    dtype = np.dtype(spec.dtype)
    allowed, words = _JSON[dtype.kind]
    others = set(map(type, flat)) - allowed
    if others:
        raise InputError(f"data of input {spec.name!r} must be {words}, got {_JSON_WORDS[others.pop()]}")
    return (_floats if dtype.kind == "f" else _whole)(flat, dtype, spec.name).reshape(shape)


def _whole(flat: Sequence[int], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    try:
        return np.array(flat, dtype)
    except OverflowError as error:
        limits = np.iinfo(dtype)
        raise InputError(f"data of input {name!r} must be in {limits.min}..{limits.max}") from error


def _floats(flat: Sequence[float], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Round to the nearest; what is beyond the type's largest number becomes infinite, which is refused."""
    try:
        with np.errstate(over="ignore"):
            array: NDArray[Any] = np.array(flat, np.float64).astype(dtype)
    except OverflowError as error:  # a whole number beyond every float
        raise _not_finite(name, dtype) from error
    return _finite(array, name)


def _finite(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _not_finite(name, array.dtype)
    return array


def _not_finite(name: str, dtype: np.dtype[Any]) -> InputError:
    most = np.finfo(dtype).max
    return InputError(f"data of input {name!r} must be finite numbers in {-most:.8g}..{most:.8g}, without NaN")


def _flat(data: object, shape: tuple[int, ...], name: str) -> list[Any]:
    """Return the numbers in one list, whichever way they came, and exactly as many as the shape needs."""
    if not isinstance(data, list):
        raise InputError(f"data of input {name!r} must be a list, got {_JSON_WORDS[type(data)]}")
    if len(shape) < 2 or not data or not isinstance(data[0], list):
        if len(data) != prod(shape):
            raise InputError(f"data of input {name!r} has {len(data)} entries, its shape {shape} has {prod(shape)}")
        return data
    level, lengths = data, {len(data)}
    for depth, size in enumerate(shape):
        if lengths - {size}:
            other = min(lengths - {size})
            raise InputError(
                f"data of input {name!r} has {other} entries on axis {depth}, its shape {shape} has {size}"
            )
        if depth == len(shape) - 1:
            break
        if set(map(type, level)) - {list}:
            raise InputError(f"data of input {name!r} must be one list, or lists in lists as its shape {shape} says")
        lengths = set(map(len, level))
        level = list(chain.from_iterable(level))
    return level


def from_bytes(body: bytes, start: int, size: int, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    """Make an array of a section of a body; it shares the memory where the place allows.

    Args:
        body: of the request.
        start: first byte of the section.
        size: bytes of the section, which lies within the body.
        spec: what the model says of the input.
        shape: of the input.

    Raises:
        InputError: the section does not fill the shape, or holds NaN, infinity, or a truth value that is not 0 or 1.
    """
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    count = prod(shape)
    if size != count * dtype.itemsize:
        raise InputError(
            f"input {spec.name!r} has binary_data_size {size}, its shape {shape} of {DATATYPES[spec.dtype]} has "
            f"{count * dtype.itemsize} bytes"
        )
    array = np.frombuffer(body, dtype, count, start) if count else np.empty(0, dtype)
    if dtype.kind == "b" and count and array.view(np.uint8).max() > 1:
        raise InputError(f"data of input {spec.name!r} must be bytes of 0 and 1")
    whole = array if array.flags.aligned else array.copy()  # kernels may read whole words
    return _finite(whole, spec.name).reshape(shape)
