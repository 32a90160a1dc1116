"""Every compressed layer of a build: what it stores, and how far it is from the dense weight and from PyTorch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losparse_runtime.contract.files import read_folder
from losparse_runtime.contract.variant import PLAN_FILE

from ..models.roles import in_attention, role_of
from ..reporting.details import LayerDetail
from .work import Work, task_of

if TYPE_CHECKING:
    from torch import Tensor, nn

_BLOCK = re.compile(r"\.(\d+)\.")
_SEED = 0
"""Of the token ids that layers are compared on."""
_BATCH, _LENGTH = 2, 24
"""Texts and tokens that layers are compared on."""
_EXACT = "fp32"
"""The variant whose layers are compared: in others rounding hides what is wrong."""


def describe_layers(work: Work) -> list[LayerDetail]:
    """Describe every compressed layer of a build.

    Args:
        work: a build whose variants are exported.

    Returns:
        See `LayerDetail`; a layer each.
    """
    from losparse.layers.factored import FactoredLinear
    from losparse.models.fused import split_fused_
    from losparse_export.opening.load import load_model

    compressed = load_model(work.compressed, task_of(work))
    layers = {name: module for name, module in compressed.model.named_modules() if isinstance(module, FactoredLinear)}
    original = load_model(work.dense, task_of(work)).model
    split_fused_(original)  # as compress_ does
    dense, blocks = dict(original.named_modules()), _origin_of_blocks(compressed.model.config, original.config)
    forms, parities = _lowerings(work.candidates), _parities(work, compressed)
    found: list[LayerDetail] = []
    for name, layer in layers.items():
        weight = weight_before(name, dense, blocks)
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
                "error": relative_error(layer.dense_weight(), weight),
                "parity": parities.get(name),
            }
        )
    return found


def _block(name: str) -> int | None:
    found = _BLOCK.search(f"{name}.")
    return None if found is None else int(found[1])


def _origin_of_blocks(config: Any, original: Any) -> list[int] | None:
    """Return the number that each block had in the dense model; None where they are the same.

    Both configurations count in the model from which blocks were first dropped, which may be another one still.
    """
    kept = getattr(config, "losparse_kept_layers", None)
    before = getattr(original, "losparse_kept_layers", None)
    if kept is None or before is None:
        return kept
    return [before.index(number) for number in kept]


def weight_before(name: str, dense: Mapping[str, nn.Module], blocks: Sequence[int] | None) -> Tensor | None:
    """Return the dense weight that a layer was made from; (out, in), or None where there is none.

    Args:
        name: of the layer now.
        dense: modules of the dense model, by name.
        blocks: number in the dense model of every block; None where none was dropped.
    """
    from losparse.layers.linear import weight_of

    found = _BLOCK.search(name)
    if found is not None and blocks is not None:
        name = f"{name[: found.start(1)]}{blocks[int(found[1])]}{name[found.end(1) :]}"
    module = dense.get(name)
    if module is None or getattr(module, "weight", None) is None:
        return None
    return weight_of(module).detach()


def _role(name: str) -> str:
    """Return what a layer is for, in the words of the page."""
    role = role_of(name)
    if role == "writer":
        return "out" if in_attention(name) else "down"
    return role or "other"


def relative_error(weight: Tensor, original: Tensor | None) -> float | None:
    """Return |weight - original| / |original|, Frobenius norms; None where there is nothing of that shape.

    Args:
        weight: u v + sparse; (out, in).
        original: the dense weight.
    """
    if original is None or original.shape != weight.shape:
        return None
    norm = float(original.float().norm())
    return float((weight.detach().float() - original.float()).norm()) / norm if norm else None


def _lowerings(folder: Path) -> Mapping[str, str]:
    plan = json.loads((folder / PLAN_FILE).read_bytes())
    return {name: str(layer["lowering"]) for name, layer in plan.get("layers", {}).items()}


def _parities(work: Work, compressed: Any) -> dict[str, float]:
    """Return how far the outputs of layers are from PyTorch's in the fp32 graph; nothing where there is none."""
    from losparse_export.opening.evaluation import evaluation
    from losparse_export.opening.wrapping import wrap_model
    from losparse_export.parity.locate import layer_differences
    from losparse_runtime import Draw, Session

    variants = read_folder(work.candidates).variants
    if _EXACT not in variants:
        return {}
    exact = variants[_EXACT]
    if len(exact.models) > 1:  # encoder and decoder apart: which of them a layer is in, names alone do not say
        return {}
    (model,) = exact.models.values()
    session = Session(work.candidates, variant=_EXACT, providers=(exact.provider,))
    feeds = session.signature.random_feeds(Draw(_BATCH, min(_LENGTH, session.max_length), seed=_SEED))
    found: dict[str, float] = {}
    with evaluation(compressed.model):
        wrapped = wrap_model(compressed.model, compressed.task)
        for each, _ in layer_differences(wrapped, work.candidates, feeds, exact.provider, file=model.file):
            if math.isfinite(each.max_abs):
                found[each.layer] = max(found.get(each.layer, 0.0), each.max_abs)
    return found
