"""Empty factored layers in the places of dense ones, for a checkpoint's tensors to be loaded into."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import LosparseError
from ..layers.embedding import CompactTable
from ..layers.factored import FactoredLinear
from ..layers.fused import FusedSpec
from ..layers.joint import empty_layer
from ..layers.linear import is_linear, replace_module, weight_of
from ..layers.spec import LayerSpec
from ..layers.table import TableSpec
from ..methods.forms import TRAINING_FORMS
from ..methods.losparse.layer import FactoredLinearTraining
from ..models.fused import place_split
from ..models.tables import place_table, tied_readers
from .names import local_name


def place_empty_layer(model: nn.Module, name: str, entry: Mapping[str, Any], form: str) -> None:
    """Replace one linear layer by an empty factored one of the sizes in `entry`.

    Raises:
        LosparseError: the entry is malformed, or the model has no linear layer of that name and size.
    """
    spec = LayerSpec.from_entry(name, entry)
    found = name_in(model, name)
    old = model.get_submodule(found) if found is not None else None
    if old is None or not is_linear(old):
        raise LosparseError(f"quantization_config lists {name!r}, which is no linear layer of {type(model).__name__}")
    weight = weight_of(old)
    if tuple(weight.shape) != (spec.out_features, spec.in_features):
        raise LosparseError(
            f"quantization_config says {name!r} is {spec.out_features}x{spec.in_features}, the model has "
            f"{weight.shape[0]}x{weight.shape[1]}; config.json does not fit its own architecture"
        )
    if form == "training":
        empty = _training_form(name, entry)
        layer = empty(
            spec.in_features,
            spec.out_features,
            rank=spec.rank,
            bias=spec.bias,
            device=weight.device,
            dtype=weight.dtype,
        )
    else:
        owner = None if spec.v_of is None else _owner(model, name, spec)
        layer = empty_layer(spec, owner, device=weight.device, dtype=weight.dtype)
    # The module above is not marked as initialised: it may hold tables that are computed anew at every load.
    replace_module(model, old, layer)


def place_empty_parts(model: nn.Module, name: str, fused: FusedSpec) -> None:
    """Put the empty layers of its parts in the place of one linear layer.

    Args:
        model: the layer's, dense there.
        name: of the layer where it was saved.
        fused: which rows are whose.

    Raises:
        LosparseError: the model has no linear layer of that name and size.
    """
    found = name_in(model, name)
    old = model.get_submodule(found) if found is not None else None
    if found is None or old is None or not is_linear(old):
        raise LosparseError(
            f"quantization_config lists the parts of {name!r}, which is no linear layer of {type(model).__name__}"
        )
    if len(weight_of(old)) != fused.out_features:
        raise LosparseError(
            f"quantization_config says the parts of {name!r} have {fused.out_features} outputs, the model has "
            f"{len(weight_of(old))}; config.json does not fit its own architecture"
        )
    place_split(model, found, fused)


def place_empty_table(model: nn.Module, name: str, spec: TableSpec, stored: Collection[str]) -> None:
    """Replace one embedding table by an empty compact one, and what is tied to it by readers of its rows.

    Args:
        model: the table's, dense there.
        name: of the table where it was saved.
        spec: its sizes.
        stored: names of the tensors that will be loaded: what has a weight of its own there is not tied.

    Raises:
        LosparseError: the model has no table of that name and size.
    """
    found = name_in(model, name)
    old = model.get_submodule(found) if found is not None else None
    if found is None or not isinstance(old, nn.Embedding):
        raise LosparseError(
            f"quantization_config lists {name!r}, which is no embedding table of {type(model).__name__}; config.json "
            "does not fit its own architecture"
        )
    if tuple(old.weight.shape) != (spec.rows, spec.width):
        raise LosparseError(
            f"quantization_config says {name!r} is {spec.rows}x{spec.width}, the model has "
            f"{old.weight.shape[0]}x{old.weight.shape[1]}; config.json does not fit its own architecture"
        )
    prefix = getattr(model, "base_model_prefix", "")
    tied = {
        each: reader
        for each, reader in tied_readers(model, found).items()
        if local_name(f"{each}.weight", prefix, stored) is None
    }
    table = CompactTable(spec, padding_idx=old.padding_idx, device=old.weight.device, dtype=old.weight.dtype)
    place_table(model, found, table, tied)


@torch.no_grad()
def check_scales(name: str, table: CompactTable) -> None:
    """Check what the rows of a table in 8 bits are multiplied by.

    Raises:
        LosparseError: it is not finite, or not above 0.
    """
    scale = table.scale
    if scale is None or scale.is_meta:
        return
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise LosparseError(
            f"table {name!r}: its scales must be finite numbers above 0, and the weights hold others; the folder is "
            "damaged: copy it again, or compress the model again"
        )


@torch.no_grad()
def check_indices(name: str, layer: FactoredLinear) -> None:
    """Check the indices of a compact layer: int64, sorted, none twice, all within the layer.

    Raises:
        LosparseError: they are not; a product with them would fail, or be wrong without a word.
    """
    for part, side, indices in (("kept", layer.axis, layer.kept), ("pivots", layer.pivot_side, layer.pivots)):
        if indices is None or indices.is_meta:
            continue
        size = layer.out_features if side == "out" else layer.in_features
        ascending = indices.dtype == torch.int64 and bool((indices.diff() > 0).all())
        if not ascending or int(indices[0]) < 0 or int(indices[-1]) >= size:
            raise LosparseError(
                f"layer {name!r}: its {part} must be int64 numbers in 0..{size - 1}, ascending and none twice, and the "
                "weights hold others; the folder is damaged: copy it again, or compress the model again"
            )


def _owner(model: nn.Module, name: str, spec: LayerSpec) -> FactoredLinear:
    """Return the layer whose factor `spec` says it shares."""
    found = name_in(model, str(spec.v_of))
    owner = model.get_submodule(found) if found is not None else None
    if not isinstance(owner, FactoredLinear) or (owner.rank, owner.in_features) != (spec.rank, spec.in_features):
        raise LosparseError(
            f"quantization_config says {name!r} shares the {spec.rank}x{spec.in_features} factor of {spec.v_of!r}, "
            "which has none of that size; the config is damaged"
        )
    return owner


def _training_form(name: str, entry: Mapping[str, Any]) -> Callable[..., FactoredLinear]:
    """Return the constructor of the entry's training form, with the form's settings."""
    trainer = entry.get("trainer", FactoredLinearTraining.trainer)  # older checkpoints do not say
    if not isinstance(trainer, str) or trainer not in TRAINING_FORMS:
        allowed = ", ".join(sorted(TRAINING_FORMS))
        raise LosparseError(f"quantization_config trainer of {name!r} must be one of {allowed}, got {trainer!r}")
    kind = TRAINING_FORMS[trainer]
    return partial(kind, **{key: entry[key] for key in kind.settings if key in entry})


def name_in(model: nn.Module, name: str) -> str | None:
    """Return what a saved layer is called in a model, with or without a head; None if it has none of that name."""
    names = {n for n, _ in model.named_modules()}
    return local_name(name, getattr(model, "base_model_prefix", ""), names)
