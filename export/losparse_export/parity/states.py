"""Runs of a language model behind earlier ones: what they are fed, and what they computed of their own tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.tensors import SEQUENCE, TOTAL, Arrays


def tokenwise(signature: Signature, outputs: Mapping[str, NDArray[Any]], length: int, *, states: bool = True) -> Arrays:
    """Return the outputs of a run with one row a token of this run.

    Args:
        signature: of the graph.
        outputs: by name; keys and values are (batch, heads, past+sequence, width).
        length: tokens of this run.
        states: whether to return keys and values, as (batch, sequence, heads * width).
    """
    kept = {state.present for state in signature.states}
    found = {name: array for name, array in outputs.items() if name not in kept}
    if states:
        for name in (name for name in outputs if name in kept):
            rows = outputs[name][:, :, -length:].transpose(0, 2, 1, 3)
            found[name] = rows.reshape(*rows.shape[:2], -1)
    return found


def behind(signature: Signature, feeds: Arrays, past: int, run: Callable[[Arrays], Arrays]) -> Arrays:
    """Split one run into two; returns the feeds of the second.

    Keys and values are those that the model computes of the first tokens: made-up ones are none that it was trained
    for, and rounding then grows beyond all bounds.

    Args:
        signature: of the graph.
        feeds: of a run without a past.
        past: tokens of the first run.
        run: what a run leaves for the next one, by the names of the inputs that take it.
    """
    tokens = {
        spec.name: place for spec in signature.inputs for place, axis in enumerate(spec.shape) if axis == SEQUENCE
    }
    whole = {spec.name: place for spec in signature.inputs for place, axis in enumerate(spec.shape) if axis == TOTAL}

    def part(name: str, array: NDArray[Any], taken: slice, *, first: bool) -> NDArray[Any]:
        place = tokens.get(name, whole.get(name) if first else None)
        return array if place is None else np.ascontiguousarray(array[(slice(None),) * place + (taken,)])

    states = run({name: part(name, array, slice(0, past), first=True) for name, array in feeds.items()})
    rest = {name: part(name, array, slice(past, None), first=False) for name, array in feeds.items()}
    return {**rest, **states}
