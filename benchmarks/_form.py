"""The form of a compressed model: what every layer keeps. It decides the time, so a model that is gone can be timed.

Models of one shape share traces here: their factored layers differ, and all else is equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from losparse import LoSparse
from losparse.layers.factored import FactoredLinear
from losparse.layers.linear import replace_module
from losparse.layers.spec import LayerSpec
from losparse.methods import Method, method_from_dict, method_to_dict
from losparse.models.roles import place_of
from losparse.saving.quantizer import mark_compressed
from losparse_export import TaskModel, export_model, trace_model
from losparse_export.tracing.factors import replace_factors

SPREAD = 0.02  # standard deviation of a random weight: BERT's


def form_of(model: PreTrainedModel) -> dict[str, Any]:
    """Return what the layers of a compact model keep, and what its attentions are.

    Returns:
        "layers": the entry of every layer in config.json, by qualified name; "attention": by the name of the part, how
        many "heads" keep anything, and the most query/key ("dk") and value ("dv") dimensions that one of them keeps.
    """
    layers: dict[str, Any] = {}
    attention: dict[str, dict[str, int]] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, FactoredLinear):
            continue
        layers[name] = layer.spec.to_entry()
        place = place_of(name)
        if place is not None and place.role in ("query", "value"):
            kept = torch.zeros(0, dtype=torch.int64) if layer.kept is None else layer.kept
            counts = torch.bincount(kept // (layer.out_features // model.config.num_attention_heads), minlength=1)
            part = attention.setdefault(place.part, {"heads": 0, "dk": 0, "dv": 0})
            part["dk" if place.role == "query" else "dv"] = int(counts.max())
            part["heads"] = max(part["heads"], int((counts > 0).sum()))
    return {"layers": layers, "attention": attention}


@torch.no_grad()
def place_form_(model: PreTrainedModel, form: Mapping[str, Any], method: Method, *, seed: int = 0) -> None:
    """Give a dense model a form, with random weights, in place.

    Which neurons and dimensions are kept is not part of a form, and costs no time: the first ones are.

    Args:
        model: of the sizes that the form is of.
        form: as `form_of` returns it.
        method: that is recorded.
        seed: of the weights.
    """
    random = torch.Generator().manual_seed(seed)
    narrow = isinstance(method, LoSparse) and method.structure == "narrow"
    for name, entry in form["layers"].items():
        layer = FactoredLinear.from_spec(LayerSpec.from_entry(name, entry))
        for part, parameter in layer.named_parameters():
            own = (SPREAD / max(layer.rank, 1) ** 0.5) ** 0.5 if part in ("u", "v") else SPREAD
            parameter.normal_(0.0, own, generator=random)
        live = _live(name, layer.spec, form, model.config.num_attention_heads)
        if layer.kept_count:
            layer.copy_(kept=torch.arange(layer.kept_count) if live is None else live[1])
        if narrow and live is not None:
            _silence_(layer, live[0])
        replace_module(model, model.get_submodule(name), layer)
    same_biases_(model)
    mark_compressed(model, method_to_dict(method))


@torch.no_grad()
def same_biases_(model: PreTrainedModel, *, seed: int = 1) -> None:
    """Give the factored layers the biases that every model of this shape has: graphs that share a trace share them."""
    random = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, FactoredLinear) and layer.bias is not None:
            layer.bias.normal_(0.0, SPREAD, generator=random)


class Traces:
    """Makes graphs of models of one shape from two traces, one dense and one factored: a trace takes ten seconds.

    The models must be equal but for their factored layers, and those have equal biases, which a trace holds.
    """

    def __init__(self) -> None:
        self._traces: dict[bool, ir.Model] = {}

    def __call__(self, model: TaskModel) -> ir.Model:
        """Return the graph of a model, as `trace_model` does."""
        found = model.model.named_modules()
        factors = {name: layer for name, layer in found if isinstance(layer, FactoredLinear)}
        trace = self._traces.get(bool(factors))
        if trace is None:
            trace = self._traces[bool(factors)] = trace_model(model)
        return replace_factors(trace, factors)


def _live(name: str, spec: LayerSpec, form: Mapping[str, Any], heads: int) -> tuple[Tensor, Tensor] | None:
    """Return all features of the live heads that a layer of an attention writes or reads, and those it keeps."""
    place = place_of(name)
    part = form["attention"].get(place.part) if place is not None else None
    if part is None or place is None or place.role == "up":
        return None
    kept = part["dk"] if place.role in ("query", "key") else part["dv"]
    if kept * part["heads"] != spec.kept:  # layers that decide head by head: no common width
        return None
    width = spec.groups // heads
    starts = (torch.arange(part["heads"]) * width)[:, None]
    return (starts + torch.arange(width)).flatten(), (starts + torch.arange(kept)).flatten()


def _silence_(layer: FactoredLinear, live: Tensor) -> None:
    """Set what the low-rank part of a layer says of heads that are gone to zero, as a narrow model has it."""
    factor, features = (layer.u, 0) if layer.axis == "out" else (layer.v, 1)
    if factor is not None:
        gone = torch.ones(factor.shape[features], dtype=torch.bool)
        gone[live] = False
        factor[gone if features == 0 else (slice(None), gone)] = 0.0


def exported_forms(
    rows: Iterable[Mapping[str, Any]], source: Path, work: Path, weight_bits: int
) -> Iterator[tuple[Mapping[str, Any], str, Path]]:
    """Export a classifier of random weights for every row of a table; each is compared with PyTorch.

    Args:
        rows: with "form" and "method_settings"; the dense row has none of them.
        source: folder of the model, of whose configuration they are.
        work: an empty folder.
        weight_bits: of int8.

    Yields:
        A row, a precision and the folder.
    """
    config, traces = AutoConfig.from_pretrained(source), Traces()
    for number, row in enumerate(rows):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(deepcopy(config)).eval()
        if "form" in row:
            place_form_(model, row["form"], method_from_dict(row["method_settings"]))
        for precision, bits in (("fp32", {}), ("int8", {"weight_bits": weight_bits})):
            out = work / f"{number}-{precision}"
            report = export_model(model, out, task="text-classification", precision=precision, tracer=traces, **bits)
            print(f"{row['method']} {row['keep']:g} {precision}: off by {report.parity.max_abs:.1e}", flush=True)
            yield row, precision, out
