"""Checks of what is fed to a model, before onnxruntime sees it: its messages name graph nodes, not the mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract.config import ModelConfig
from .contract.metadata import Metadata
from .contract.tensors import TensorSpec
from .errors import InputError

Arrays = dict[str, NDArray[Any]]

# Inputs that have an obvious value: every token is real, and all belong to the first text.
_DEFAULTS = {"attention_mask": 1, "token_type_ids": 0}


def check_inputs(given: Mapping[str, NDArray[Any]], metadata: Metadata, config: ModelConfig) -> Arrays:
    """Check the inputs of one run and add those that have a default.

    Args:
        given: arrays by input name; int64 (batch, sequence) for the token inputs. Only `attention_mask` (default
            ones) and `token_type_ids` (default zeros) may be left out.
        metadata: of the folder.
        config: of the model, for the ranges of ids.

    Returns:
        Arrays for every input of the model, in the model's order.

    Raises:
        InputError: a name, type, dtype, rank, size, length or value is wrong; the message says which.
    """
    if not isinstance(given, Mapping):
        raise InputError(
            f"inputs must be a dict of arrays by name, got {type(given).__name__}; encode(texts) makes one"
        )
    specs = {spec.name: spec for spec in metadata.inputs}
    unknown = [str(name) for name in given if name not in specs]
    if unknown:
        raise InputError(f"the model has no input {', '.join(unknown)}; its inputs are {', '.join(specs)}")
    missing = [name for name in specs if name not in given and not (name in _DEFAULTS and "input_ids" in given)]
    if missing:
        raise InputError(f"input {', '.join(missing)} is missing; the model's inputs are {', '.join(specs)}")
    axes: dict[str, tuple[int, str]] = {}
    for name, array in given.items():
        _check_array(specs[name], array, axes)
    ids = given["input_ids"]
    if ids.shape[1] > metadata.max_length:
        raise InputError(
            f"input_ids has {ids.shape[1]} tokens a row, the model has {metadata.max_length} positions; "
            f"cut the texts with encode(texts, max_length={metadata.max_length})"
        )
    _check_values(given, config)
    return {
        name: given[name] if name in given else np.full(ids.shape, _DEFAULTS[name], spec.dtype)
        for name, spec in specs.items()
    }


def _check_array(spec: TensorSpec, array: object, axes: dict[str, tuple[int, str]]) -> None:
    """Check one array against its description; `axes` collects the size of each named axis and who set it."""
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
        if size < 1:
            raise InputError(
                f"input {spec.name!r} must have at least one entry on axis {axis}, got shape {array.shape}"
            )
        expected, owner = (axis, "the model") if isinstance(axis, int) else axes.setdefault(axis, (size, spec.name))
        if size != expected:
            raise InputError(f"input {spec.name!r} has {axis} size {size}, {owner} has {expected}; they must be equal")


def _check_values(given: Mapping[str, NDArray[Any]], config: ModelConfig) -> None:
    """Check ids against the tables they index; a negative id would silently count from the end of the table."""
    limits = {"input_ids": config.vocab_size, "token_type_ids": config.type_vocab_size, "attention_mask": 2}
    for name, limit in limits.items():
        array = given.get(name)
        if array is None or limit is None or array.dtype.kind != "i":
            continue
        # One pass over the ids, on the path of every run: read as unsigned, a negative id is a very large one.
        if array.view(f"u{array.dtype.itemsize}").max() >= limit:
            wrong = (array < 0) | (array >= limit)
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise InputError(
                f"input {name!r} must be in 0..{limit - 1}, got {array[place]} at {place}; "
                "use the tokenizer of this folder (encode)"
            )
