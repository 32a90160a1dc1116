"""What stands beside the model: tokenizer files, and how long a text may be."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from losparse.errors import LosparseError
from losparse.models.positions import as_limit, count_positions, text_limit
from losparse.saving.opening import embedding_rows, open_tokenizer
from losparse_runtime import TokenizerError
from losparse_runtime.contract.files import (
    CHAT_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    TOKENIZER_FILES,
    write_json,
)
from losparse_runtime.contract.tensors import TOKENS, TYPES
from losparse_runtime.text.encoder import TextEncoder
from losparse_runtime.text.panics import panics_caught

from ..opening.load import Loaded
from ..opening.sentence import Sentences, read_optional

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

# What configurations differ about: case, accents, spaces, punctuation, other scripts.
_TEXTS = ("Hello, World! It's 3.5 %.", "Crème brûlée  for\tNaïve ÅNGSTRÖM", "日本語 и кириллица")
_CLASS_OF_5, _CLASS_OF_4 = "TokenizersBackend", "PreTrainedTokenizerFast"
_ADDED = 16  # special tokens that are tried; T5 has a hundred


def copy_tokenizer(source: Path, folder: Path, *, lower_case: bool = False) -> bool:
    """Bring a tokenizer that the runtime can open into the folder.

    The files are copied, so that they stay byte for byte what the model was trained with; saving an opened tokenizer
    again may change them. Only a source without `tokenizer.json` (vocabulary files alone) is opened and saved, because
    the runtime reads that file.

    Args:
        source: the folder of the model.
        folder: the folder that is written.
        lower_case: let the tokenizer lower the case of texts first; tokenizer.json is then written anew.

    Returns:
        Whether the folder has a tokenizer now.
    """
    if not has_tokenizer(source):
        logger.warning("%s has no tokenizer; the exported folder takes token ids only", source)
        return False
    if not (source / TOKENIZER_FILE).is_file():
        if not _convert_tokenizer(source, folder):
            return False
    else:
        for name in (*TOKENIZER_FILES, CHAT_FILE):
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    if lower_case:
        tokenizer = TextEncoder(folder, max_length=1, pad_token_id=None).tokenizer
        lower_case_(tokenizer)
        tokenizer.save(str(folder / TOKENIZER_FILE))
    return True


def _convert_tokenizer(source: Path, folder: Path) -> bool:
    try:
        tokenizer = open_tokenizer(source)
        tokenizer.save_pretrained(folder)
    except (LosparseError, OSError, ValueError) as error:
        logger.warning("%s; the folder takes token ids only", error)
        return False
    return (folder / TOKENIZER_FILE).is_file()


def has_tokenizer(source: Path) -> bool:
    """Tell whether a checkpoint brings files of a tokenizer."""
    return any((source / name).is_file() for name in TOKENIZER_FILES)


def matching_tokenizer(source: Path, *, lower_case: bool = False) -> Any:
    """Open the tokenizer of a checkpoint with transformers, as a folder of it reads texts.

    Args:
        source: the folder of the checkpoint.
        lower_case: let it lower the case of texts first.

    Raises:
        LosparseError: it does not open.
    """
    tokenizer = open_tokenizer(source)
    if lower_case and tokenizer.is_fast:
        lower_case_(tokenizer.backend_tokenizer)
    return tokenizer


def check_tokenizer(loaded: Loaded) -> None:
    """Check the tokenizer that the exported folder will get, before anything is traced.

    Raises:
        LosparseError: it cannot be read, as when it was cut short, or has tokens that the model has no embedding of.
    """
    if loaded.folder is None or not (loaded.folder / TOKENIZER_FILE).is_file():
        return
    encoder = TextEncoder(loaded.folder, max_length=1, pad_token_id=None, vocab_size=embedding_rows(loaded.model))
    try:
        encoder.probe()
    except TokenizerError as error:
        raise LosparseError(f"{error}; without {TOKENIZER_FILE} the exported folder takes token ids only") from error


def check_reading(loaded: Loaded) -> None:
    """Check what else the folder says of how texts are read, before anything is traced.

    Raises:
        LosparseError: files of sentence-transformers, or the tokenizer's configuration, cannot be read, or hold what
            they cannot mean.
    """
    longest_text(loaded, loaded.sentences)


def endless_limit(loaded: Loaded) -> int | None:
    """Return where texts are cut for a model whose positions have no end; None for one that has its own limit."""
    return None if count_positions(loaded.model) else longest_text(loaded, loaded.sentences)


def longest_text(loaded: Loaded, sentences: Sentences | None) -> int:
    """Return how many tokens of a text a model reads: its positions, or fewer where its folder says so."""
    if sentences is not None and sentences.max_length is not None:
        return text_limit(loaded.model, sentences.max_length)  # the tokenizer's own limit does not count beside it
    return text_limit(loaded.model, None if loaded.folder is None else tokenizer_limit(loaded.folder))


def lower_case_(tokenizer: Tokenizer) -> None:
    """Let a tokenizer lower the case of texts first, as sentence-transformers does where a folder asks for it."""
    from tokenizers.normalizers import Lowercase, Sequence

    own, sequence = tokenizer.normalizer, cast(Any, Sequence)
    parts = list(own) if isinstance(own, sequence) else [] if own is None else [own]
    if not any(isinstance(part, Lowercase) for part in parts):
        tokenizer.normalizer = Sequence([Lowercase(), *parts])


def tokenizer_limit(source: Path) -> int | None:
    """Return the longest input the tokenizer's own configuration allows, in tokens; None where it says nothing."""
    limit = read_optional(source / TOKENIZER_CONFIG_FILE).get("model_max_length")
    return as_limit(limit)


def settle_length(folder: Path, max_length: int) -> None:
    """Say in tokenizer_config.json how long a text may be: clients that read nothing else of a folder cut there.

    Args:
        folder: that is written.
        max_length: tokens of a text that the model reads, as the folder says it.
    """
    file = folder / TOKENIZER_CONFIG_FILE
    settings = read_optional(file)
    if (folder / TOKENIZER_FILE).is_file() and settings.get("model_max_length") != max_length:
        write_json(file, {**settings, "model_max_length": max_length})


def match_tokenizers(source: Path, folder: Path, *, lower_case: bool = False) -> bool:
    """Let the runtime, which knows no classes of tokenizers, read texts as transformers does in training.

    What a class says by itself is written into the folder's tokenizer_config.json (Llama's, Gemma's and XLNet's pad on
    the left). Where tokenizer.json gives other tokens a warning is logged.

    Args:
        source: the folder of the model.
        folder: the folder that is written, with the files of a tokenizer.
        lower_case: whether texts are lowered first.

    Returns:
        Whether transformers tells the texts of a pair by token types; some tokenizers leave them out.
    """
    try:
        tokenizer = matching_tokenizer(source, lower_case=lower_case)
    except LosparseError as error:
        logger.warning("%s; it is not compared with the runtime's", error)
        return True
    _settle(tokenizer, folder / TOKENIZER_CONFIG_FILE)
    texts = [*_TEXTS, " ".join(list(tokenizer.get_added_vocab())[:_ADDED])]
    encoder = TextEncoder(folder, max_length=1, pad_token_id=None).tokenizer  # as the runtime opens it
    for text in texts:
        try:
            with panics_caught():
                found, wanted = encoder.encode(text).ids, tokenizer(text)[TOKENS]
        except Exception as error:  # the Rust side raises plain Exception, for words it has no token for say
            logger.info("%s: %r is not compared: %s", source, text, error)
            continue
        if found != wanted:
            logger.warning(
                "%s: tokenizer.json gives other tokens than transformers for %r (%s, %s): tokenizer_config.json "
                "contradicts it; save the tokenizer again with save_pretrained",
                source,
                text[:60],
                found[:8],
                wanted[:8],
            )
            break
    return TYPES in tokenizer.model_input_names


def _settle(tokenizer: Any, file: Path) -> None:
    """Write what a tokenizer's class says and the file does not: where it pads and cuts, with which token, its inputs.

    transformers 5 calls a tokenizer without a class of its own by a name that 4, and with it optimum, does not know; by
    the older name, which both know, 4 tells the texts of a pair by token types unless the file says its inputs.
    """
    settings = read_optional(file)
    told = {name: settings.get(name, "right") for name in ("padding_side", "truncation_side")}
    token = settings.get("pad_token")
    told["pad_token"] = token.get("content") if isinstance(token, dict) else token
    known = {name: getattr(tokenizer, name, None) for name in told}
    changed: dict[str, Any] = {
        name: str(value) for name, value in known.items() if value is not None and value != told[name]
    }
    if settings.get("tokenizer_class") == _CLASS_OF_5:
        names = settings.get("model_input_names") or tokenizer.model_input_names
        changed |= {"tokenizer_class": _CLASS_OF_4, "model_input_names": list(names)}
    if changed:
        settings |= changed
        file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
