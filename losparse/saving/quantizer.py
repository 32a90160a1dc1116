"""Save and load: a quantiser registered with transformers, so that the ecosystem's own calls are the only loader.

A compressed folder is `config.json` with a `quantization_config` of method "losparse", which holds the shapes of
every factored layer, and safetensors with only their compact tensors. After `import losparse`,
`AutoModelFor...from_pretrained(folder)` puts empty factored layers in place and loads the tensors into them.

    quantization_config = {
      "quant_method": "losparse",
      "format": 1,                           2 when a layer has pivots, 3 when layers share a factor, 4 with embeddings,
                                             5 with fused products
      "form": "compact",                     "training" in checkpoints written while the masks still move
      "method": {"name": "losparse", "keep": 0.2, ...},
      "layers": {"bert.encoder.layer.0.attention.self.query":
                 {"in": 384, "out": 384, "rank": 10, "kept": 52, "axis": "out", "bias": true, "pivots": null}, ...},
      "embeddings": {"bert.embeddings.word_embeddings": {"rows": 30522, "width": 384, "rank": 0, "bits": 8}, ...},
      "fused": {"layers.0.attn.Wqkv": {"parts": [["q", 384], ["k", 384], ["v", 384]], "blocks": 1}, ...}
    }

`pivots` is "out" or "in" for a low-rank part stored by pivot outputs or inputs (`layers.factored`), null or absent
for plain factors; see `layers.spec`. An entry of an attention of equally wide heads says how many keep something, of
how many: "heads": [4, 12]. It is a note for people; nothing is built from it.
The header of the weights holds a record of the model's outputs (`outputs`); tensors have the model's own names.
An entry of a layer that shares the factor `v` of another one names it as `v_of`, and stores no `v` (`layers.joint`).
`embeddings` are the compact tables (`layers.table`), absent where there are none; a model may have compact tables and
no factored layer. What is tied to a table stores nothing: the model's class says what is.
`fused` are the products that the model keeps for several layers and that were taken apart (`layers.fused`), absent
where there are none: their parts are layers, factored or not. Folders of before have such a product as one layer.
In form "training" an entry also names its `trainer`, one of `TRAINING_FORMS`, and that form's settings.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..errors import LosparseError
from ..layers.embedding import CompactTable
from ..layers.factored import FactoredLinear
from ..layers.joint import layer_specs
from ..layers.training import TrainingForm
from ..models.fused import split_products
from ..models.report import model_heads
from ..models.tables import compact_tables
from .folder import stored_layers, stored_tables, with_headers
from .headers import read_notes
from .outputs import KEY as RECORD_KEY
from .outputs import record_outputs
from .placing import check_indices, check_scales, name_in, place_empty_layer, place_empty_parts, place_empty_table
from .schema import (
    FORMAT,
    FUSED_FORMAT,
    JOINT_FORMAT,
    OBJECT,
    PIVOT_FORMAT,
    TABLE_FORMAT,
    optional,
    parse_fused,
    parse_layers,
    parse_tables,
)

logger = logging.getLogger(__name__)

_OWN_NAMES = {"losparse_names": "model"}
"""In the header of weights that are written by the model's own names; see `LosparseQuantizer`."""


@register_quantization_config("losparse")
class LosparseConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """The `quantization_config` entry of a compressed model's config.json; see the module's docstring."""

    def __init__(
        self,
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        form: str = "compact",
        method: Mapping[str, Any] | None = None,
        format: int = FORMAT,
        embeddings: Mapping[str, Mapping[str, Any]] | None = None,
        fused: Mapping[str, Mapping[str, Any]] | None = None,
        **unknown: Any,
    ) -> None:
        """Check the entry.

        Raises:
            LosparseError: another format version, an unknown key or form, neither layers nor embeddings, or a
                malformed one.
        """
        unknown.pop("quant_method", None)
        if unknown:
            raise LosparseError(f"quantization_config has unknown keys {sorted(unknown)}; written by a newer losparse?")
        if isinstance(format, bool) or not isinstance(format, int) or not FORMAT <= format <= FUSED_FORMAT:
            raise LosparseError(
                f"quantization_config has format {format}, this losparse reads {FORMAT} to {FUSED_FORMAT}; upgrade it"
            )
        if form not in ("compact", "training"):
            raise LosparseError(f"quantization_config form must be 'compact' or 'training', got {form!r}")
        if not optional(OBJECT).fits(method):
            raise LosparseError(f"quantization_config method must be an object or null, got {method!r:.80}")
        parse_layers(layers, parse_tables(embeddings))
        assert layers is not None, "parse_layers refuses none"
        parse_fused(fused)
        self.quant_method = "losparse"
        self.format = format
        self.form = form
        self.method = dict(method) if method is not None else None
        self.layers = {name: dict(entry) for name, entry in layers.items()}
        self.embeddings = {name: dict(entry) for name, entry in (embeddings or {}).items()}
        self.fused = {name: dict(entry) for name, entry in (fused or {}).items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for config.json."""
        return {
            "quant_method": "losparse",
            "format": self.format,
            "form": self.form,
            "method": self.method,
            "layers": self.layers,
            **({"embeddings": self.embeddings} if self.embeddings else {}),
            **({"fused": self.fused} if self.fused else {}),
        }


@register_quantizer("losparse")
class LosparseQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts empty factored layers in place before transformers loads the weights."""

    requires_calibration = True  # a dense model is compressed by compress_, not while it loads
    quantization_config: LosparseConfig
    _own_names = False

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        """Replace the listed layers; their tensors are loaded by name afterwards.

        Raises:
            LosparseError: the files hold other tensors of these layers than the configuration says; transformers would
                leave out what it does not expect.
        """
        self._own_names = _has_own_names(checkpoint_files or ())
        stored = {"quantization_config": self.quantization_config.to_dict()}
        config = self.quantization_config
        config.fused = {name: entry for name, entry in config.fused.items() if not _left_out(model, name)}
        for name, fused in parse_fused(config.fused).items():
            place_empty_parts(model, name, fused)
        layers = {name: entry for name, entry in self.quantization_config.layers.items() if not _left_out(model, name)}
        self.quantization_config.layers = layers
        for name in sorted(layers, key=lambda name: "v_of" in layers[name]):  # those that share a factor last
            place_empty_layer(model, name, layers[name], self.quantization_config.form)
        files = [Path(file) for file in checkpoint_files or () if file.endswith(".safetensors")]
        headers = with_headers(files[0].parent, stored, files) if files else None
        tables = self.quantization_config.embeddings
        tables = {name: entry for name, entry in tables.items() if not _left_out(model, name)}
        self.quantization_config.embeddings = tables
        for name, spec in parse_tables(tables).items():
            place_empty_table(model, name, spec, () if headers is None else headers.shapes.keys())
        if headers is not None:
            stored_layers(headers, renamed=True)
            stored_tables(headers, renamed=True)

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        """Refuse indices that point nowhere, before anything is computed with them.

        And let the bare model be saved like the model with a head.
        """
        for name, module in model.named_modules():
            if isinstance(module, FactoredLinear) and not isinstance(module, TrainingForm):
                check_indices(name, module)
            if isinstance(module, CompactTable):
                check_scales(name, module)
        _attach(model, self)

    def get_state_dict_and_metadata(self, model: nn.Module) -> tuple[Mapping[str, Any] | None, dict[str, str]]:
        """Return what `save_pretrained` writes: the weights it was given, and a record of the model's outputs.

        And have it write the tensors by the model's own names. Families that join layers on disk (`Wqkv` of NomicBERT)
        could not: the factors of these layers are of different sizes.
        """
        model._weight_conversions = []  # type: ignore[assignment]
        # transformers takes what is returned here in place of its argument `state_dict`, and does not tell us of it.
        given: Mapping[str, Any] | None = sys._getframe(1).f_locals.get("state_dict")
        if given is not None and not _are_weights_of(given, model):
            logger.warning(
                "no outputs of %s are saved to check later loads by: the weights to save were given as state_dict=",
                type(model).__name__,
            )
            return given, dict(_OWN_NAMES)
        record = record_outputs(model)
        return given, _OWN_NAMES | ({} if record is None else {RECORD_KEY: json.dumps(record)})

    def update_weight_conversions(self, weight_conversions: list[Any], model: nn.Module) -> list[Any]:
        """Return how names on disk become the model's: not at all where they are its own; older folders may differ."""
        return [] if self._own_names else weight_conversions

    def is_serializable(self, **kwargs: Any) -> bool:
        """Return True: `save_pretrained` writes the compact tensors."""
        return True

    @property
    def is_trainable(self) -> bool:
        """A loaded model can be fine-tuned: its tensors are ordinary parameters."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """The same, in the word by which the Trainer asks whether it may train without adapters."""
        return True


def _has_own_names(files: Sequence[str]) -> bool:
    """Tell whether a folder's tensors have the names that the model gives them; every file of it says so."""
    if not files or not str(files[0]).endswith(".safetensors"):
        return False
    return _OWN_NAMES.items() <= read_notes(Path(files[0])).items()


def _left_out(model: nn.Module, name: str) -> bool:
    """Tell whether a layer is of a part that the model's class goes without, whose weights transformers passes over.

    T5EncoderModel opens checkpoints of whole T5 models, and leaves their decoders alone.
    """
    passed_over = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return name_in(model, name) is None and any(re.search(pattern, name) for pattern in passed_over)


def _are_weights_of(given: Mapping[str, Any], model: nn.Module) -> bool:
    """Tell whether a state dict holds the model's own tensors, as `model.state_dict()` gives them."""
    own = model.state_dict()
    return given.keys() == own.keys() and all(_is_same(given[name], own[name]) for name in own)


def _is_same(given: Any, own: Any) -> bool:
    """Tell whether two tensors are the same memory; those that are spread over processes have none to compare."""
    plain = (torch.Tensor, nn.Parameter)
    return type(given) in plain and type(own) in plain and bool(given.data_ptr() == own.data_ptr())


def _attach(model: nn.Module, quantizer: LosparseQuantizer) -> None:
    """Have transformers ask `quantizer` when it saves the model, or the bare model in it."""
    for module in model.modules():
        # Not by its type: this file is imported while transformers is.
        if hasattr(module, "save_pretrained") and getattr(module, "config", None) is model.config:
            module.hf_quantizer = quantizer


def _entries(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the `layers` of a model's `quantization_config`."""
    entries: dict[str, dict[str, Any]] = {}
    heads = model_heads(model)
    for name, spec in layer_specs(model).items():
        module = model.get_submodule(name)
        settings: dict[str, Any] = {}
        if isinstance(module, TrainingForm):
            settings = {"trainer": module.trainer} | {key: getattr(module, key) for key in module.settings}
        entries[name] = spec.to_entry() | settings
        if name in heads:
            entries[name]["heads"] = heads[name].to_entry()
    return entries


def mark_compressed(model: nn.Module, method: Mapping[str, Any] | None) -> None:
    """Write the model's factored layers and compact tables into its config, so that `save_pretrained` records them.

    Args:
        model: a model with such; without a transformers config nothing is done.
        method: the method as plain data, or None to keep the one that is recorded.
    """
    from transformers import PretrainedConfig  # here: this file is imported while transformers is

    config: Any = getattr(model, "config", None)
    if not isinstance(config, PretrainedConfig):
        return
    layers = _entries(model)
    tables = {name: table.spec.to_entry() for name, table in compact_tables(model).items()}
    fused = {name: spec.to_entry() for name, spec in split_products(model).items()}
    training = any(isinstance(module, TrainingForm) for module in model.modules())
    joint = any("v_of" in entry for entry in layers.values())
    pivots = any(entry["pivots"] for entry in layers.values())
    format = FORMAT
    for newer, needed in ((PIVOT_FORMAT, pivots), (JOINT_FORMAT, joint), (TABLE_FORMAT, tables), (FUSED_FORMAT, fused)):
        format = newer if needed else format
    if method is None:
        recorded = getattr(config, "quantization_config", None)
        method = recorded.method if isinstance(recorded, LosparseConfig) else None
    config.quantization_config = LosparseConfig(
        layers=layers,
        form="training" if training else "compact",
        method=method,
        format=format,
        embeddings=tables or None,
        fused=fused or None,
    )
    _attach(model, LosparseQuantizer(config.quantization_config))
