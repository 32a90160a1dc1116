"""`config.json`: the Hugging Face configuration, of which the runtime uses a few fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .fields import Fields, read_json
from .tensors import Vocabulary

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
"""How a language model generates by default, as transformers writes it."""


@dataclass(frozen=True)
class ModelConfig:
    """What the runtime needs of `config.json`; None where the file or the field is not there.

    Attributes:
        vocab_size: rows of the token embedding: ids are below it.
        type_vocab_size: rows of the token-type embedding.
        pad_token_id: the id the model takes for padding.
        problem_type: what the logits of a text mean, in transformers' words; see `Task.problem`.
        activation: what a cross-encoder's output goes through, as in "torch.nn.modules.linear.Identity".
        end_token_id: the id that ends a text of an encoder-decoder, whose classification head reads its place (BART).
    """

    vocab_size: int | None = None
    type_vocab_size: int | None = None
    pad_token_id: int | None = None
    problem_type: str | None = None
    activation: str | None = None
    end_token_id: int | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """The ids that the model takes."""
        return Vocabulary(self.vocab_size, self.type_vocab_size, self.pad_token_id, self.end_token_id)


@dataclass(frozen=True)
class TextEnds:
    """The tokens that a language model's texts begin and end with.

    Attributes:
        begin: begins a text; None for none.
        ends: end a text, each of them; () for none.
    """

    begin: int | None = None
    ends: tuple[int, ...] = ()


def read_text_ends(folder: Path) -> TextEnds:
    """Read what `generation_config.json` says, and where it says nothing, or is not there, `config.json`.

    Ids below 0 are none: some configurations have -1 for that.

    Raises:
        FolderError: a file is damaged, or a field is of the wrong type.
    """
    found = [read_json(folder / name) for name in (GENERATION_FILE, CONFIG_FILE) if (folder / name).is_file()]

    def said(name: str) -> tuple[int, ...]:
        return next((_tokens(each, name) for each in found if each.data.get(name) is not None), ())

    return TextEnds(next(iter(said("bos_token_id")), None), said("eos_token_id"))


def _tokens(fields: Fields, name: str) -> tuple[int, ...]:
    value = fields.data[name]
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in listed):
        fields.fail(name, "a token id, or a list of them")
    return tuple(each for each in listed if each >= 0)


def read_model_config(folder: Path) -> ModelConfig:
    """Read the fields of `config.json` that the runtime uses.

    Raises:
        FolderError: the file is damaged or a field is of the wrong type.
    """
    file = folder / CONFIG_FILE
    return parse_model_config(read_json(file)) if file.exists() else ModelConfig()


def parse_model_config(fields: Fields) -> ModelConfig:
    """Take the fields that the runtime uses out of a configuration.

    Raises:
        FolderError: a field is of the wrong type.
    """

    def count(name: str, minimum: int) -> int | None:
        return None if fields.data.get(name) is None else fields.integer(name, minimum)

    return ModelConfig(
        vocab_size=count("vocab_size", 1),
        # 0 (DeBERTa) means that there is no such embedding: nothing to check.
        type_vocab_size=count("type_vocab_size", 0) or None,
        pad_token_id=count("pad_token_id", 0),
        problem_type=_text(fields.data.get("problem_type")),
        activation=_activation(fields.data),
        end_token_id=_end_token(fields.data),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _activation(data: Mapping[str, Any]) -> str | None:
    settings = data.get("sentence_transformers")
    said = settings.get("activation_fn") if isinstance(settings, dict) else None
    return _text(said) or _text(data.get("sbert_ce_default_activation_function"))  # the second: before version 4


def _end_token(data: Mapping[str, Any]) -> int | None:
    end = data.get("eos_token_id")  # generation may have several, as a list; a head that reads a place has one
    ends = data.get("is_encoder_decoder") is True and isinstance(end, int) and not isinstance(end, bool)
    return end if ends else None
