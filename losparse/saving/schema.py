"""What `config.json` may say, checked field by field before a model is built from it; loads no torch.

transformers checks the types of most fields itself; here stand those that it does not check, those that it would build
without end or without sense from, and the list of layers in losparse's own `quantization_config`, which
`quantizer` describes; what each layer's entry may say stands in `layers.spec`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losparse_runtime.contract.task import TASK_FIELD, TASKS

from ..errors import LosparseError, shown
from ..layers.fused import FusedSpec
from ..layers.spec import COPY_AGAIN, LARGEST_SIZE, LayerSpec, is_whole
from ..layers.table import TableSpec

# Without pivots a folder is what losparse wrote before it had them, and older versions go on reading it.
FORMAT, PIVOT_FORMAT, JOINT_FORMAT, TABLE_FORMAT, FUSED_FORMAT = 1, 2, 3, 4, 5

_MOST_BLOCKS = 10_000


@dataclass(frozen=True)
class Rule:
    """What a field must be: in words, and as a test."""

    wanted: str
    fits: Callable[[Any], bool]


def _whole(least: int) -> Rule:
    return Rule(f"a whole number in {least}..{LARGEST_SIZE}", lambda value: is_whole(value, least))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _class_map(value: Any) -> bool:
    """Tell whether a value maps the numbers 0, 1, ... to plain values."""
    if not isinstance(value, dict) or any(isinstance(name, dict | list) for name in value.values()):
        return False
    return set(value) == {str(number) for number in range(len(value))}


def optional(rule: Rule) -> Rule:
    """Return the rule that takes null as well."""
    return Rule(f"{rule.wanted}, or null", lambda value: value is None or rule.fits(value))


TEXT = Rule("a text that is not empty", lambda value: isinstance(value, str) and bool(value))
OBJECT = Rule("an object", lambda value: isinstance(value, dict))

# A decoder's sizes may be lists, one entry a block: those are left to its own configuration.
_SIZE = Rule("a whole number of 1 or more", lambda value: isinstance(value, list | dict) or is_whole(value, 1))
_BLOCKS = Rule(
    f"a whole number in 0..{_MOST_BLOCKS}",
    lambda value: isinstance(value, list | dict) or is_whole(value, 0, _MOST_BLOCKS),
)
_SIZES = ("vocab_size", "hidden_size", "d_model", "n_embd", "dim", "intermediate_size", "type_vocab_size")
_HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads", "num_key_value_heads", "max_position_embeddings")
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_decoder_layers")
_EPSILONS = ("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps", "norm_epsilon")

_CONFIG: dict[str, Rule] = {
    "model_type": TEXT,
    "architectures": optional(Rule("a list of class names", _texts)),
    "id2label": optional(Rule("an object that names the classes 0, 1, ...", _class_map)),
    "label2id": optional(OBJECT),
    "quantization_config": optional(OBJECT),
    "pad_token_id": optional(Rule("a whole number", lambda value: is_whole(value, -LARGEST_SIZE))),
    **dict.fromkeys((*_SIZES, *_HEADS), optional(_SIZE)),
    **dict.fromkeys(_DEPTHS, optional(_BLOCKS)),
    **dict.fromkeys(_EPSILONS, optional(Rule("a finite number of 0 or more", _finite))),
    # 0 means that there are no such embeddings (DeBERTa), -1 that there is no limit (MPT's relatives).
    "type_vocab_size": optional(_whole(0)),
    "max_position_embeddings": optional(_whole(-1)),
}


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        LosparseError: it cannot be read, is not valid JSON, or not an object.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"), parse_constant=_constant)
    except OSError as error:
        raise LosparseError(f"'{file}' cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise LosparseError(f"'{file}' is not valid JSON: {shown(error)}; {COPY_AGAIN}") from None
    if not isinstance(data, dict):
        raise LosparseError(f"'{file}' must hold a JSON object, got {type(data).__name__}; {COPY_AGAIN}")
    return data


def _constant(name: str) -> float:
    """Refuse NaN, which is within no range; Python and transformers write infinities, as of Mamba's time steps."""
    if name == "NaN":
        raise ValueError("NaN is not a JSON number")
    return float(name)


def check_config(config: Mapping[str, Any], file: Path) -> None:
    """Check the fields of a model's configuration that everything else relies on.

    Args:
        config: contents of config.json.
        file: where they are from.

    Raises:
        LosparseError: a field is of another type or out of range.
    """
    if config.get("model_type") is None:
        raise LosparseError(f"'{file}' has no model_type; it is not a transformers model")
    for name, rule in _CONFIG.items():
        if name in config and not rule.fits(config[name]):
            raise LosparseError(f"'{file}': '{name}' must be {rule.wanted}, got {shown(config[name])}; {COPY_AGAIN}")
    _check_task(config, file)
    words, padding = config.get("vocab_size"), config.get("pad_token_id")
    if isinstance(words, int) and padding is not None and not -words <= padding < words:
        raise LosparseError(
            f"'{file}': 'pad_token_id' must be below the {words} tokens of 'vocab_size', got {padding}; set it to the "
            "token that pads, after model.resize_token_embeddings where that one is new"
        )


def _check_task(config: Mapping[str, Any], file: Path) -> None:
    """Refuse the name of a task that is none, which a losparse that has it wrote."""
    named = config.get(TASK_FIELD)
    if named is not None and not (isinstance(named, str) and named in TASKS):
        raise LosparseError(
            f"'{file}': '{TASK_FIELD}' must be one of {', '.join(TASKS)}, got {shown(named)}; register that task, or "
            "take the field out and name another with task= (--task)"
        )


def parse_tables(tables: Any) -> dict[str, TableSpec]:
    """Check the `embeddings` of `quantization_config`, by name; there are none where a folder does not say.

    Raises:
        LosparseError: it is no object, or an entry is malformed.
    """
    if not optional(OBJECT).fits(tables):
        raise LosparseError(f"quantization_config 'embeddings' must be an object or null, got {shown(tables)}")
    return {name: TableSpec.from_entry(name, entry) for name, entry in (tables or {}).items()}


def parse_fused(fused: Any) -> dict[str, FusedSpec]:
    """Check the `fused` of `quantization_config`, by name; there are none where a folder does not say.

    Raises:
        LosparseError: it is no object, or an entry is malformed.
    """
    if not optional(OBJECT).fits(fused):
        raise LosparseError(f"quantization_config 'fused' must be an object or null, got {shown(fused)}")
    return {name: FusedSpec.from_entry(name, entry) for name, entry in (fused or {}).items()}


def parse_layers(layers: Any, tables: Mapping[str, TableSpec]) -> dict[str, LayerSpec]:
    """Check the `layers` of `quantization_config`, by name.

    Args:
        layers: what it says.
        tables: its compact tables; without any there must be layers.

    Raises:
        LosparseError: it lists none, an entry is malformed, or one shares the factor of a layer that stores none.
    """
    if not isinstance(layers, Mapping) or not (layers or tables):
        raise LosparseError("quantization_config of method 'losparse' lists no layers; the config is damaged")
    entries = {name: LayerSpec.from_entry(name, entry) for name, entry in layers.items()}
    for name, entry in entries.items():
        if entry.v_of is not None:
            owner = entries.get(entry.v_of)
            if owner is None or owner.v_of is not None:
                raise LosparseError(
                    f"quantization_config says {name!r} shares the factor of {entry.v_of!r}, which stores none; "
                    "the config is damaged"
                )
    return entries
