"""Every compressed layer of a build: what it stores, and how far it is from the dense weight and from PyTorch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from losparse_runtime.contract.files import read_folder
from losparse_runtime.contract.variant import PLAN_FILE

from ..models.roles import in_attention, role_of
from .work import Work, task_of

_BLOCK = re.compile(r"\.(\d+)\.")
_SEED = 0
"""Of the token ids that layers are compared on."""
_BATCH, _LENGTH = 2, 24
"""Texts and tokens that layers are compared on."""
_EXACT = "fp32"
"""The variant whose layers are compared: in others rounding hides what is wrong."""


def describe_layers(work: Work) -> list[dict[str, Any]]:
    """Describe every compressed layer of a build.

    Args:
        work: a build whose variants are exported.

    Returns:
        JSON values, a layer each: "name"; "block", its number, or None outside blocks; "role"; "shape" of the dense
        weight; "rank"; "kept" and "axis" of its sparse part; "parameters" and "dense_parameters"; "lowering", its form
        in the first variant's plan; "error", the Frobenius norm of its weight less the dense one over the norm of that
        (with fine-tuning, what training moved counts too), None where the dense model has no weight of that shape; and
        "parity", the largest difference of its output between PyTorch and the fp32 graph, None where the graph has no
        such place.
    """
    from losparse.layers.factored import FactoredLinear
    from losparse_export.opening.load import load_model

    compressed = load_model(work.compressed, task_of(work))
    layers = {name: module for name, module in compressed.model.named_modules() if isinstance(module, FactoredLinear)}
    dense = dict(load_model(work.dense, task_of(work)).model.named_modules())
    kept_blocks = getattr(compressed.model.config, "losparse_kept_layers", None)
    forms, parities = _lowerings(work.candidates), _parities(work, compressed)
    found = []
    for name, layer in layers.items():
        original = getattr(dense.get(_before(name, kept_blocks)), "weight", None)
        found.append(
            {
                "name": name,
                "block": _block(name),
                "role": _role(name),
                "shape": [layer.out_features, layer.in_features],
                "rank": layer.rank,
                "kept": layer.kept_count,
                "axis": layer.axis,
                "parameters": layer.parameter_count(),
                "dense_parameters": layer.out_features * layer.in_features,
                "lowering": forms.get(name),
                "error": _error(layer.dense_weight(), original),
                "parity": parities.get(name),
            }
        )
    return found


def _block(name: str) -> int | None:
    found = _BLOCK.search(f"{name}.")
    return None if found is None else int(found[1])


def _before(name: str, kept_blocks: Any) -> str:
    """Return what a layer was called before blocks were dropped."""
    found = _BLOCK.search(name)
    if found is None or not isinstance(kept_blocks, list | tuple):
        return name
    return f"{name[: found.start(1)]}{kept_blocks[int(found[1])]}{name[found.end(1) :]}"


def _role(name: str) -> str:
    """Return what a layer is for, in the words of the page."""
    role = role_of(name)
    if role == "writer":
        return "out" if in_attention(name) else "down"
    return role or "other"


def _error(weight: Any, original: Any) -> float | None:
    if original is None or original.shape != weight.shape:
        return None
    norm = float(original.detach().float().norm())
    return float((weight.detach().float() - original.detach().float()).norm()) / norm if norm else None


def _lowerings(folder: Path) -> Mapping[str, str]:
    plan = json.loads((folder / PLAN_FILE).read_bytes())
    return {name: str(layer["lowering"]) for name, layer in plan.get("layers", {}).items()}


def _parities(work: Work, compressed: Any) -> dict[str, float]:
    """Return how far the outputs of layers are from PyTorch's in the fp32 graph; nothing where there is none."""
    from losparse_export.opening.evaluation import evaluation
    from losparse_export.opening.task_model import TaskModel
    from losparse_export.parity.locate import layer_differences
    from losparse_runtime import Draw, Session

    variants = read_folder(work.candidates).variants
    if _EXACT not in variants:
        return {}
    exact = variants[_EXACT]
    (model,) = exact.models.values()
    session = Session(work.candidates, variant=_EXACT, providers=(exact.provider,))
    feeds = session.signature.random_feeds(Draw(_BATCH, min(_LENGTH, session.max_length), seed=_SEED))
    found: dict[str, float] = {}
    with evaluation(compressed.model):
        wrapped = TaskModel(compressed.model, compressed.task)
        for each, _ in layer_differences(wrapped, work.candidates, feeds, exact.provider, file=model.file):
            if math.isfinite(each.max_abs):
                found[each.layer] = max(found.get(each.layer, 0.0), each.max_abs)
    return found
