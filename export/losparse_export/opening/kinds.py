"""Which class opens a checkpoint, and what is no model of texts: read off names, before any weight."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from losparse.errors import LosparseError
from losparse.models.signature import padding_token
from losparse.saving.opening import open_tokenizer
from losparse_runtime.contract.task import FEATURE_EXTRACTION, Task
from losparse_runtime.contract.tensors import TOKENS

logger = logging.getLogger(__name__)

# Parts of a configuration that belong to another sense; the forward pass of such a model wants its inputs too.
_OTHER_SENSES = {"vision_config": "images", "audio_config": "sounds", "image_config": "images"}


def check_reads_text(kind: type | None, config: Mapping[str, Any], source: str) -> None:
    """Refuse models of images and sounds: what is exported takes the token ids of a text.

    Args:
        kind: the model's class; None where transformers has none of its name.
        config: the model's configuration.
        source: what to call the model in messages.

    Raises:
        LosparseError: it takes something else, or something else as well.
    """
    needed = getattr(kind, "main_input_name", TOKENS)
    if kind is not None and needed != TOKENS:
        raise LosparseError(
            f"{source}: {kind.__name__} reads {needed}, must read the token ids of a text; models of images and sounds "
            "are not exported"
        )
    beside = next((sense for part, sense in _OTHER_SENSES.items() if config.get(part)), None)
    if beside is not None:
        name = "the model" if kind is None else kind.__name__
        raise LosparseError(
            f"{source}: {name} reads {beside} beside texts, must read the token ids of a text alone; save its text "
            "model by itself (as CLIPTextModel is)"
        )


def check_task_fits(task: str | None, architecture: str | None, source: str) -> None:
    """Refuse to read the task off the name of a model that generates text: MarianMTModel ends as BertModel does.

    Raises:
        LosparseError: no task is given, and the architecture is one that generates.
    """
    from transformers.models.auto import modeling_auto as auto

    generating = _names(auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    if task is None and architecture in generating:
        raise LosparseError(
            f"{source}: {architecture} generates text, which is not exported yet; for the vectors of its tokens give "
            f"task={FEATURE_EXTRACTION.name!r} (--task)"
        )


def class_of(architecture: str | None) -> type | None:
    """Return transformers' model class of this name; None if it has none."""
    import transformers

    found = getattr(transformers, architecture, None) if architecture and architecture.isidentifier() else None
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None


def opening_class(task: Task, architecture: str | None, config: Mapping[str, Any]) -> Any:
    """Choose the class that opens a checkpoint for a task.

    Features are those of the model that was saved: a T5EncoderModel has no decoder, which AutoModel would ask for. Of
    an encoder-decoder that has an encoder class of its own, they are those of the encoder.

    Args:
        task: what it is opened for.
        architecture: class name of the saved model.
        config: its configuration.
    """
    import transformers
    from transformers.models.auto import modeling_auto as auto

    kind = class_of(architecture)
    model_type = config.get("model_type")
    own = getattr(getattr(kind, "config_class", None), "model_type", None)
    if task.embeds:
        if kind is not None and own == model_type and str(architecture).endswith(("EncoderModel", "TextModel")):
            return kind
        encoder = auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(str(model_type), "")
        if encoder.endswith("EncoderModel"):
            return getattr(transformers, encoder)
    return getattr(transformers, task.auto_class)


def fit_padding(model: Any, folder: Path) -> None:
    """Tell a model which token pads where its tokenizer alone knows; classification heads find the last token by it."""
    if padding_token(model.config) is not None:
        return
    model.config.pad_token_id = None  # and not -1, which a head would look for, and take padding for text
    if not (folder / "tokenizer.json").is_file():
        return
    try:
        padding = open_tokenizer(folder).pad_token_id
    except LosparseError as error:  # what the folder gets is judged where it is copied
        logger.info("%s, so it cannot say which token pads", error)
        return
    if padding is not None and 0 <= padding < (getattr(model.config, "vocab_size", None) or 0):
        model.config.pad_token_id = padding


def _names(mapping: Mapping[str, str | Iterable[str]]) -> set[str]:
    return {name for names in mapping.values() for name in ((names,) if isinstance(names, str) else names)}
