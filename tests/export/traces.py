"""A tracer that remembers: a trace takes ten seconds, a copy of one nothing."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx_ir as ir

from losparse_export import TaskModel, trace_model


class Traces:
    """Traces a model once, whoever asks: a `Tracer` for `export_model`, and for tests that change graphs.

    Two models are one here if their class, configuration, layers, weights and task are.
    """

    def __init__(self) -> None:
        self._known: dict[str, ir.Model] = {}

    def __call__(self, model: TaskModel) -> ir.Model:
        """Return a graph that the caller may change."""
        key = _key(model)
        if key not in self._known:
            self._known[key] = trace_model(model)
        return self._known[key].clone()


def _key(model: TaskModel) -> str:
    inner = model.model
    about = {
        "task": model.task.name,
        "longest": model.longest,
        "attention": inner.config._attn_implementation,
        "config": inner.config.to_dict(),
        "layers": repr(inner),
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for name, tensor in inner.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().float().numpy()).tobytes())
    return digest.hexdigest()
