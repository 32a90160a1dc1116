"""What a mask of attention lets a token see, found by computing it: models write one mask in many ways.

The part of the graph that makes a mask reads sizes and the mask of the tokens alone: it runs in no time. What it says
for a few sizes is compared with what the operator does: all tokens before, or the last so many of them, no padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from losparse_runtime.contract.tensors import PAST, SEQUENCE, TOTAL, present_of, role_of
from losparse_runtime.contract.variant import DEFAULT_PROVIDER
from losparse_runtime.dependencies import import_onnxruntime

# Tokens behind which a token looks for the end of its window: longer ones are taken for none, as by models whose
# positions end there.
_FAR = 40_000
_SIZES = ((0, 6), (3, 4), (5, 1))  # earlier tokens and new ones


@dataclass(frozen=True)
class Sight:
    """What a mask lets a token see.

    Attributes:
        causal: whether that is tokens before it and itself, without padding; False where it is something else.
        window: the last so many of them; None for all.
    """

    causal: bool
    window: int | None = None


class MaskReader:
    """Reads the masks of a model.

    Args:
        model: a trace; it is not changed.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._known: dict[ir.Value, Sight] = {}

    def window(self, mask: ir.Value | None) -> Sight:
        """Return what a mask lets a token see."""
        if mask is None or mask.name is None or mask.dtype != ir.DataType.BOOL:
            return Sight(causal=False)
        if mask not in self._known:
            self._known[mask] = self._read(mask.name)
        return self._known[mask]

    def _read(self, name: str) -> Sight:
        try:
            run = _Part(self._model, name)
            far = run(_FAR, 1, np.ones((1, _FAR + 1), np.int64))[0, 0, 0]
        except Exception:  # onnxruntime's own errors have no common base: a mask of something else than sizes
            return Sight(causal=False)
        seen = int(far.sum())
        window = None if seen == len(far) else seen
        right = all(_agrees(run, past, own, window) for past, own in _SIZES)
        in_order = bool(far[len(far) - seen :].all())
        if window is not None:
            right = right and _agrees(run, 0, min(window + 3, 600), window)
        return Sight(right and in_order, window)


def _agrees(run: _Part, past: int, own: int, window: int | None) -> bool:
    """Tell whether a mask says what the operator does, of a text alone and of one that is padded on the left."""
    total = past + own
    mask = np.ones((2, total), np.int64)
    mask[1, : total // 3] = 0
    found = np.broadcast_to(run(past, own, mask), (2, 1, own, total))[:, 0]
    query, key = np.arange(past, total)[:, None], np.arange(total)[None]
    allowed = (key <= query) & (query - key < (window or total))
    expected = allowed[None] & (mask[:, None] == 1)
    real = mask[:, past:] == 1
    return bool((found == expected)[real].all())


class _Part:
    """The part of a model that makes a mask, ready to run."""

    def __init__(self, model: ir.Model, name: str) -> None:
        part = model.clone()
        mask = next(value for node in part.graph for value in node.outputs if value.name == name)
        part.graph.outputs[:] = [mask]
        common.RemoveUnusedNodesPass()(part)
        inputs = [value for value in part.graph.inputs if value.uses()]
        self._states = [str(value.name) for value in inputs if present_of(value.name or "") is not None]
        self._others = [value for value in inputs if present_of(value.name or "") is None]
        for value in inputs:
            if value.name in self._states:  # only the number of earlier tokens matters
                value.shape = ir.Shape([None, None, None, None])
        for node in part.graph:
            for value in node.outputs:
                value.shape = None if value is not mask else value.shape
        part.graph.inputs[:] = inputs
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(
            ir.to_proto(part).SerializeToString(), options, providers=[DEFAULT_PROVIDER]
        )

    def __call__(self, past: int, own: int, mask: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the mask, (batch, 1, sequence, past+sequence), for so many earlier and new tokens."""
        sizes = {SEQUENCE: own, PAST: past, TOTAL: past + own}
        feeds: dict[str, Any] = {name: np.zeros((len(mask), 1, past, 1), np.float32) for name in self._states}
        for value in self._others:
            places = [len(mask), sizes[SEQUENCE]]
            feeds[str(value.name)] = mask if role_of(value.name or "") == "mask" else np.zeros(places, np.int64)
        (found,) = self._session.run(None, feeds)
        return np.asarray(found)
