"""PyTorch, with transformers' own tokenizer, as the reference of a check."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer

from losparse_runtime.checking.numbers import Explain, Reference
from losparse_runtime.checking.preprocessing import Encode, Preprocessing, Row, config_settings
from losparse_runtime.contract.config import parse_model_config
from losparse_runtime.contract.embedding import Embedding
from losparse_runtime.contract.fields import Fields
from losparse_runtime.contract.tensors import TOKENS, TYPES
from losparse_runtime.text.panics import panics_caught

from ..folder.assets import has_tokenizer, longest_text, lower_case_, matching_tokenizer
from ..folder.metadata import model_config
from ..opening.load import Loaded, class_names, load_model
from ..opening.wrapping import wrap_model
from .locate import first_difference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from losparse_runtime import Session


def pytorch_reference(session: Session, folder: Path) -> Reference:
    """Open a checkpoint as the model that a session came from.

    Raises:
        LosparseError: the folder cannot be opened.
    """
    loaded = load_model(folder, session.metadata.task)
    model = wrap_model(loaded.model, loaded.task)

    def run(batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = model.reference({name: torch.from_numpy(array) for name, array in batch.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def explain_for(opened: Session) -> Explain:
        def explain(batch: dict[str, NDArray[Any]], tolerance: float) -> str | None:
            # In a copy: the search writes a graph with more outputs beside the model.
            with tempfile.TemporaryDirectory() as copy:
                shutil.copytree(opened.folder, copy, dirs_exist_ok=True)
                found = first_difference(model, Path(copy), batch, tolerance, file=opened.metadata.model.file)
            return None if found is None else found.layer

        return explain

    preprocessing = checkpoint_preprocessing(loaded)
    return Reference("PyTorch", run, preprocessing, explain=explain_for(session), explain_for=explain_for)


def checkpoint_preprocessing(loaded: Loaded) -> Preprocessing:
    """Say how a checkpoint reads texts: by transformers' tokenizer, and as an export of it would be described.

    Raises:
        LosparseError: transformers cannot open its tokenizer.
    """
    assert loaded.folder is not None, "it was opened from a folder"
    sentences, config = loaded.sentences, model_config(loaded)
    recorded = parse_model_config(Fields(loaded.folder / "config.json", config))
    embedding = Embedding() if sentences is None else sentences.embedding
    settings = {
        "labels": class_names(loaded.model.config) if loaded.task.names_classes else None,
        "pooling": None if sentences is None else sentences.pooling,
        "normalize": sentences is not None and sentences.normalize,
        **{f"embedding.{name}": value for name, value in asdict(embedding).items()},
        "id2label of config.json": config.get("id2label"),
        **config_settings(recorded, loaded.task, getattr(loaded.model.config, "num_labels", None)),
    }
    if not has_tokenizer(loaded.folder):
        return Preprocessing(settings, {}, None, lambda texts, pairs: [])
    lower_case = sentences is not None and sentences.lower_case
    tokenizer = matching_tokenizer(loaded.folder, lower_case=lower_case)
    pad_id = tokenizer.pad_token_id
    text_settings = {
        "max_length": longest_text(loaded, sentences),
        "type_ids": TYPES in tokenizer.model_input_names,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "the id of the padding token": recorded.pad_token_id if pad_id is None else pad_id,
    }
    file = loaded.folder / "tokenizer.json"
    inner = Tokenizer.from_file(str(file)) if file.is_file() else getattr(tokenizer, "backend_tokenizer", None)
    if lower_case and inner is not None:
        lower_case_(inner)
    return Preprocessing(settings, text_settings, inner, _encoding(tokenizer, longest_text(loaded, sentences)))


def _encoding(tokenizer: Any, longest: int) -> Encode:
    def encode(texts: Sequence[str], pairs: Sequence[str] | None) -> list[Row]:
        try:
            with panics_caught():
                found = tokenizer(
                    list(texts), None if pairs is None else list(pairs), truncation=True, max_length=longest
                )
        except Exception:  # the Rust side raises plain Exception
            if len(texts) == 1:
                return [((), ())]
            return [row for i in range(len(texts)) for row in encode(texts[i : i + 1], pairs and pairs[i : i + 1])]
        types = found.get(TYPES) or [[0] * len(ids) for ids in found[TOKENS]]
        return [(tuple(ids), tuple(row)) for ids, row in zip(found[TOKENS], types, strict=True)]

    return encode
