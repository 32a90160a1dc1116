"""What a run of a language model computed of its own tokens, one row a token, keys and values included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.tensors import Arrays


def tokenwise(
    signature: Signature, outputs: Mapping[str, NDArray[Any]], length: int, *, states: bool = True
) -> Arrays:
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
