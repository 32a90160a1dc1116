"""What a folder does with texts before the tokens, and with numbers behind them: all that tensors do not show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..contract.config import ModelConfig
from ..contract.fields import read_json
from ..contract.task import TASKS, Task, meant_task
from ..errors import InputError, TokenizerError
from ..session import Session
from ..text.cuts import cuts_told_once

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Row = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids and token types of one text, special tokens included, padding not."""

Encode = Callable[[Sequence[str], Sequence[str] | None], list[Row]]


@dataclass(frozen=True)
class Preprocessing:
    """What one side of a comparison does with texts before the tokens, and with numbers behind them.

    Attributes:
        settings: of texts and numbers, as JSON values by what a message calls them.
        text_settings: those that matter only where there is a tokenizer.
        tokenizer: of its tokenizer.json; None where it has none.
        encode: texts, or pairs of texts, to tokens. Empty rows where it refuses a text.
    """

    settings: Mapping[str, Any]
    text_settings: Mapping[str, Any]
    tokenizer: Tokenizer | None
    encode: Encode


def config_settings(config: ModelConfig, task: Task, outputs: int | None) -> dict[str, Any]:
    """Return what config.json says of texts and numbers, by what a message calls it.

    Args:
        config: what is read of it.
        task: of the model.
        outputs: rows of its head; None where nobody knows.
    """
    # What is left out means one class a text, or one number: whoever spells it says nothing else.
    said = {**asdict(config), "problem_type": meant_task(task, config.problem_type, outputs).problem}
    return {f"{name} of config.json": value for name, value in said.items()}


def preprocessing_of(session: Session) -> Preprocessing:
    """Say how an ONNX folder reads texts."""
    metadata, encoder = session.metadata, session.encoder
    config = session.folder / "config.json"
    settings = {
        "labels": None if session.labels is None else list(session.labels),
        "pooling": metadata.pooling,
        "normalize": metadata.normalize,
        **{f"embedding.{name}": value for name, value in asdict(metadata.embedding).items()},
        **config_settings(session.config, TASKS[session.task], None if session.labels is None else len(session.labels)),
    }
    if session.labels is not None and config.is_file():
        settings["id2label of config.json"] = read_json(config).data.get("id2label")
    if not (session.folder / "tokenizer.json").is_file():
        return Preprocessing(settings, {}, None, lambda texts, pairs: [])
    try:
        pad_id = encoder.pad_id
    except TokenizerError:  # it names none
        pad_id = None
    text_settings = {
        "max_length": session.max_length,
        "type_ids": metadata.type_ids,
        "padding_side": encoder.padding_side,
        "truncation_side": encoder.truncation_side,
        "the id of the padding token": pad_id,
    }
    return Preprocessing(settings, text_settings, encoder.tokenizer, _session_encode(session))


def _session_encode(session: Session) -> Encode:
    def encode(texts: Sequence[str], pairs: Sequence[str] | None) -> list[Row]:
        try:
            with cuts_told_once(silent=True):  # that a text is cut is what is looked at here
                found = session.encoder.encodings(texts, pairs)
        except InputError:
            if len(texts) == 1:
                return [((), ())]
            return [row for i in range(len(texts)) for row in encode(texts[i : i + 1], pairs and pairs[i : i + 1])]
        blank = not session.metadata.type_ids
        return [(tuple(each.ids), tuple([0] * len(each.ids) if blank else each.type_ids)) for each in found]

    return encode
