"""What stands beside the model: tokenizer files, and what the source folder says about its use."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losparse.errors import LosparseError
from losparse_runtime.metadata import POOLINGS

from .load import Loaded
from .tasks import max_positions

logger = logging.getLogger(__name__)

TOKENIZER_FILE = "tokenizer.json"
_TOKENIZER_FILES = (
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spm.model",
    "sentencepiece.bpe.model",
)
_POOLING_MODULES = ("Transformer", "Pooling", "Normalize", "")

# What configurations differ about: case, accents, spaces, punctuation, other scripts.
_TEXTS = ("Hello, World! It's 3.5 %.", "Crème brûlée  for\tNaïve ÅNGSTRÖM", "日本語 и кириллица")
_ADDED = 16  # special tokens that are tried; T5 has a hundred


@dataclass(frozen=True)
class Pooling:
    """How token vectors become one vector a text.

    Attributes:
        mode: one of the runtime's `POOLINGS`, or None where the source asks for something else.
        normalize: whether the vector is scaled to length 1.
    """

    mode: str | None
    normalize: bool


def copy_tokenizer(source: Path, folder: Path) -> bool:
    """Bring a tokenizer that the runtime can open into the folder.

    The files are copied, so that they stay byte for byte what the model was trained with; saving an opened tokenizer
    again may change them. Only a source without `tokenizer.json` (vocabulary files alone) is opened and saved, because
    the runtime reads that file.

    Returns:
        Whether the folder has a tokenizer now.
    """
    if not has_tokenizer(source):
        logger.warning("%s has no tokenizer; the exported folder takes token ids only", source)
        return False
    if not (source / TOKENIZER_FILE).is_file():
        return _convert_tokenizer(source, folder)
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    return True


def _convert_tokenizer(source: Path, folder: Path) -> bool:
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        logger.warning("the tokenizer of %s cannot be opened (%s); the folder takes token ids only", source, error)
        return False
    return (folder / TOKENIZER_FILE).is_file()


def has_tokenizer(source: Path) -> bool:
    """Tell whether a checkpoint brings files of a tokenizer."""
    return any((source / name).is_file() for name in _TOKENIZER_FILES)


def open_tokenizer(source: Path) -> Any:
    """Open the tokenizer of a checkpoint with transformers.

    Raises:
        LosparseError: it does not open.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers raises unrelated types for what it cannot read
        reason = " ".join(str(error).split())[:200]
        raise LosparseError(f"{source}: transformers cannot open its tokenizer ({reason}); save it again") from error


def longest_text(loaded: Loaded) -> int:
    """Return how many tokens of a text a model reads: its positions, or fewer where its folder says so."""
    longest = max_positions(loaded.model)
    if loaded.folder is None:
        return longest
    longest = min(longest, tokenizer_limit(loaded.folder) or longest)
    if loaded.task.name == "feature-extraction":
        longest = min(longest, sentence_limit(loaded.folder) or longest)
    return longest


def pooling_of(loaded: Loaded) -> Pooling | None:
    """Return how a model's token vectors become one; None where that is not its task."""
    return read_pooling(loaded.folder) if loaded.task.name == "feature-extraction" else None


def tokenizer_limit(source: Path) -> int | None:
    """Return the longest input the tokenizer's own configuration allows, in tokens; None where it says nothing."""
    limit = _optional_json(source / "tokenizer_config.json").get("model_max_length")
    # Tokenizers without a limit write a number of thirty digits.
    return int(limit) if isinstance(limit, int | float) and 0 < limit < 1e9 else None


def sentence_limit(source: Path) -> int | None:
    """Return to how many tokens sentence-transformers cuts a text; None where the folder does not say."""
    settings = _optional_json(source / "sentence_bert_config.json")
    if settings.get("do_lower_case") is True:
        logger.warning("%s lowers the case of texts before its tokenizer does; the exported folder does not", source)
    limit = settings.get("max_seq_length")
    return limit if isinstance(limit, int) and limit > 0 else None


def compare_tokenizers(source: Path, folder: Path) -> bool:
    """Warn where the runtime, which reads tokenizer.json alone, gives other tokens than transformers does in training.

    Returns:
        Whether transformers tells the texts of a pair by token types; some tokenizers leave them out.
    """
    from losparse_runtime.encoder import TextEncoder

    try:
        tokenizer = open_tokenizer(source)
    except LosparseError as error:
        logger.warning("%s; it is not compared with the runtime's", error)
        return True
    texts = [*_TEXTS, " ".join(list(tokenizer.get_added_vocab())[:_ADDED])]
    encoder = TextEncoder(folder, max_length=1, pad_token_id=None).tokenizer  # as the runtime opens it
    for text in texts:
        try:
            found, wanted = encoder.encode(text).ids, tokenizer(text)["input_ids"]
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
    return "token_type_ids" in tokenizer.model_input_names


def read_pooling(source: Path | None) -> Pooling:
    """Read how a sentence-transformers folder pools, from `modules.json` and the pooling module's `config.json`.

    A folder without them, or no folder, gets the mean over the real tokens, not normalised.
    """
    if source is None:
        return Pooling("mean", False)
    modules = _optional_json(source / "modules.json", kind=list)
    entries = [entry for entry in modules if isinstance(entry, Mapping)]
    types = {str(entry.get("type", "")).rpartition(".")[2]: str(entry.get("path", "")) for entry in entries}
    normalize = "Normalize" in types
    others = sorted(name for name in types if name not in _POOLING_MODULES)
    if others:
        logger.warning(
            "%s puts %s behind its pooling, which is not exported: no pooling is recorded", source, others[0]
        )
        return Pooling(None, normalize)
    settings = _optional_json(source / types.get("Pooling", "1_Pooling") / "config.json")
    # Newer folders name the mode, older ones have a switch for each.
    switch = "pooling_mode_"
    modes = {key.removeprefix(switch) for key, on in settings.items() if key.startswith(switch) and on is True}
    named = settings.get("pooling_mode")
    modes |= {named} if isinstance(named, str) else set(named) if isinstance(named, list) else set()
    modes = {mode.removesuffix("_tokens").removesuffix("_token") for mode in modes}
    if not modes:
        return Pooling("mean", normalize)
    if len(modes) == 1 and modes <= set(POOLINGS):
        return Pooling(modes.pop(), normalize)
    asked, allowed = ", ".join(sorted(modes)), ", ".join(POOLINGS)
    logger.warning("%s pools by %s, losparse by one of %s: no pooling is recorded", source, asked, allowed)
    return Pooling(None, normalize)


def _optional_json(file: Path, kind: type = dict) -> Any:
    """Read a file that may be absent; then, and where it holds another kind of value, an empty one is returned."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError) as error:
        raise LosparseError(f"{file}: cannot be read as JSON ({error})") from error
    return data if isinstance(data, kind) else kind()
