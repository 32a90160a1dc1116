"""Keep the graph's optimiser exact: an epsilon of 1e-8 is not 0, a factor of 1.000001 is not 1.

onnxscript takes `x + c` for `x` where c is within 1e-8 of 0, and `x * c` where it is within 1e-5 of 1. A norm loses its
epsilon that way, so that a row of zeros - what many models embed padding as - becomes NaN. Nodes of which that would
be true are put out of the optimiser's sight while it works.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir

_HIDDEN = "losparse.exact"
_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}

# Wider than onnxscript's own bounds, which are Python's `isclose` with 1e-5 and 1e-8.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-7


@contextmanager
def exact_constants(model: ir.Model) -> Iterator[None]:
    """Hide nodes that an optimiser would drop although they change their input a little."""
    hidden = [node for node in model.graph.all_nodes() if _nearly_neutral(node)]
    for node in hidden:
        node.domain = _HIDDEN
    try:
        yield
    finally:
        # Passes may have replaced the nodes by copies: by their domain they are found again.
        for node in model.graph.all_nodes():
            if node.domain == _HIDDEN:
                node.domain = ""


def _nearly_neutral(node: ir.Node) -> bool:
    neutral = _NEUTRAL.get(node.op_type)
    if neutral is None or node.domain not in ("", "ai.onnx"):
        return False
    return any(_close(_scalar(value), neutral) for value in node.inputs)


def _close(value: float | None, neutral: float) -> bool:
    return value is not None and value != neutral and bool(np.isclose(value, neutral, rtol=_RELATIVE, atol=_ABSOLUTE))


def _scalar(value: ir.Value | None) -> float | None:
    """Return the number that a value holds, also behind casts, which are folded later; None if it is not one number."""
    while value is not None and (producer := value.producer()) is not None and producer.op_type in ("Cast", "CastLike"):
        value = producer.inputs[0]
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size != 1:
        return None
    return float(tensor.numpy().reshape(()))
