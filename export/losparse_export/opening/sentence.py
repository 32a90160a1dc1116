"""What a sentence-transformers folder says about making vectors of texts.

    modules.json                        the modules in their order: Transformer, Pooling, and perhaps Normalize
    config_sentence_transformers.json   prompts, the default one, how many numbers of a vector are kept
    sentence_bert_config.json           how long a text may be, and how it is read (older folders have other names)
    1_Pooling/config.json               how tokens become one vector

What a setting means is what sentence-transformers 6.2 does with it (`make test-sentence-transformers`). A folder that
asks for what the runtime does not do gets a warning and no pooling: its vectors would not be those of its makers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from losparse.errors import LosparseError
from losparse_runtime.contract.embedding import POOLINGS, SIMILARITIES, Embedding

logger = logging.getLogger(__name__)

MODULES_FILE = "modules.json"
CONFIG_FILE = "config_sentence_transformers.json"
TRANSFORMER_FILES = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_MAKERS = "sentence_transformers."

# Switches of older pooling configurations, in the order in which their vectors are laid end to end.
SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

_POOLING_SETTINGS = ("word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt")

# Settings of the transformer module with the values that change no number. Others are not followed.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "transformer_task": ("feature-extraction",),
    "modality_config": ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
    "module_output_name": ("token_embeddings",),
    "processing_kwargs": ({},),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
    **{f"{of}_{kind}": ({},) for of in ("tokenizer", "processor", "config") for kind in ("args", "kwargs")},
}
_FOLLOWED = ("max_seq_length", "do_lower_case", "unpad_inputs", "model_args", "model_kwargs")
_NEUTRAL_MODEL_SETTINGS = {"add_pooling_layer", "attn_implementation", "dtype", "torch_dtype", "use_safetensors"}


@dataclass(frozen=True)
class Sentences:
    """How token vectors become one vector a text, and what is done before and after.

    Attributes:
        pooling: one of the runtime's `POOLINGS`, or several joined by "+"; None where the source asks for what the
            runtime does not do.
        normalize: whether the vector is scaled to length 1.
        embedding: prompts, and how many numbers are kept.
        max_length: tokens that are read of a text; None where the folder does not say.
        lower_case: whether texts are lowered before the tokenizer reads them.
    """

    pooling: str | None = "mean"
    normalize: bool = False
    embedding: Embedding = field(default_factory=Embedding)
    max_length: int | None = None
    lower_case: bool = False


class _NotFollowed(Exception):  # noqa: N818 - never leaves this module
    """The folder asks for what the runtime does not do; the message says what."""


def read_sentences(source: Path | None, *, causal: bool = False) -> Sentences:
    """Read how a folder makes vectors of texts.

    A folder without `modules.json`, or no folder, gets what sentence-transformers gives it: the mean over the real
    tokens, or the last token of a causal model, not scaled.

    Args:
        source: the folder.
        causal: whether it is of a causal model.

    Raises:
        LosparseError: a file cannot be read, or a setting contradicts another.
    """
    plain = Sentences(pooling="lasttoken" if causal else "mean")
    if source is None:
        return plain
    _check_place(source)
    if not (source / MODULES_FILE).is_file():
        return plain
    config = read_optional(source / CONFIG_FILE)
    own = _transformer_settings(source)
    limit = own.get("max_seq_length")
    found = Sentences(
        pooling=None,
        embedding=_embedding(config, source),
        max_length=limit if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0 else None,
        lower_case=own.get("do_lower_case") is True,
    )
    try:
        _check_kind(config)
        pooling, normalize = _modules(source)
        _check_transformer(own)
        modes, include_prompt = _pooling(source / pooling)
    except _NotFollowed as reason:
        logger.warning("%s %s, which is not exported: no pooling is recorded", source, reason)
        return found
    embedding = replace(found.embedding, include_prompt=include_prompt)
    return replace(found, pooling="+".join(modes), normalize=normalize, embedding=embedding)


def read_activation(source: Path | None) -> str | None:
    """Return which function makes a score of a cross-encoder's output, from where sentence-transformers 6 says it.

    Earlier releases say it in config.json, which loses to this.

    Args:
        source: the folder of the model; None for a model in memory.

    Returns:
        Its dotted name; None where the folder does not say it there.

    Raises:
        LosparseError: the file cannot be read.
    """
    config = {} if source is None else read_optional(source / CONFIG_FILE)
    if config.get("model_type") != "CrossEncoder":
        return None
    prompts, default = config.get("prompts"), config.get("default_prompt_name")
    if isinstance(prompts, dict) and prompts.get(default):
        logger.warning("%s puts prompt %r in front of texts, which is not exported; do it yourself", source, default)
    said = config.get("activation_fn")
    return said if isinstance(said, str) else None


def _check_place(source: Path) -> None:
    """Refuse the two halves of a folder whose transformer lies in a folder of its own: one lacks the other."""
    for root in (source, source.resolve().parent):
        for entry in _entries(root):
            path = str(entry.get("path") or "")
            if _kind(entry) == "Transformer" and path and (root / path).resolve() == source.resolve():
                raise LosparseError(
                    f"{source}: is the transformer of '{root}', whose {MODULES_FILE} says what is made of its tokens; "
                    "open that folder with sentence-transformers and save it, then both are in one folder"
                )


def _entries(source: Path) -> list[Mapping[str, Any]]:
    entries = [entry for entry in read_optional(source / MODULES_FILE, kind=list) if isinstance(entry, Mapping)]
    for entry in entries:
        place = Path(str(entry.get("path") or ""))
        if place.is_absolute() or ".." in place.parts:
            raise LosparseError(f"{source / MODULES_FILE}: a path must be inside the folder, got '{place}'")
    return entries


def _kind(entry: Mapping[str, Any]) -> str:
    """Return the class name of a module of sentence-transformers itself; the whole name of any other."""
    name = str(entry.get("type", ""))
    return name.rpartition(".")[2] if name.startswith(_MAKERS) else name


def _modules(source: Path) -> tuple[str, bool]:
    """Return the folder of the pooling module, and whether vectors are scaled to length 1."""
    entries = _entries(source)
    kinds = [_kind(entry) for entry in entries]
    for kind in kinds:
        if kind not in ("Transformer", "Pooling", "Normalize", "Dropout"):
            raise _NotFollowed(f"has a module {kind!r}")
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize", "Dropout"}:
        raise _NotFollowed(f"has the modules {', '.join(kinds) or 'none'} in this order")
    if entries[0].get("path"):
        raise _NotFollowed(f"keeps its transformer in {entries[0]['path']!r}")
    for entry in (entry for entry in entries if _kind(entry) == "Normalize"):
        settings = read_optional(source / str(entry.get("path")) / "config.json") if entry.get("path") else {}
        for name in ("module_input_name", "module_output_name"):
            if settings.get(name, "sentence_embedding") not in (None, "sentence_embedding"):
                raise _NotFollowed(f"scales {settings[name]!r}")
    return str(entries[1].get("path")), "Normalize" in kinds


def _pooling(folder: Path) -> tuple[list[str], bool]:
    """Return how tokens are pooled, and whether those of a prompt count."""
    if not (folder / "config.json").is_file():
        raise LosparseError(f"{folder}/config.json: missing, but {MODULES_FILE} names it; copy the whole folder")
    settings = read_optional(folder / "config.json")
    named = settings.get("pooling_mode")
    if named is None:
        named = [mode for switch, mode in SWITCHES.items() if settings.get(switch)] or ["mean"]
    modes = [named] if isinstance(named, str) else named
    if not isinstance(modes, list) or not modes or not all(mode in POOLINGS for mode in modes):
        raise _NotFollowed(f"pools by {named!r} (losparse pools by {', '.join(POOLINGS)})")
    for name in settings:
        if name not in SWITCHES and name not in _POOLING_SETTINGS:
            raise _NotFollowed(f"sets {name!r} of its pooling")
    return modes, settings.get("include_prompt") is not False


def _transformer_settings(source: Path) -> dict[str, Any]:
    """Return the settings of the transformer module, from the first file that has any."""
    return next((found for name in TRANSFORMER_FILES if (found := read_optional(source / name))), {})


def _check_transformer(settings: Mapping[str, Any]) -> None:
    """Refuse settings of the transformer module that would change a number."""
    for name, value in settings.items():
        if name not in _FOLLOWED and value not in _NEUTRAL.get(name, ()):
            raise _NotFollowed(f"sets {name!r}")
    for name in ("model_args", "model_kwargs"):
        others = set(settings.get(name) or {}) - _NEUTRAL_MODEL_SETTINGS
        if others:
            raise _NotFollowed(f"sets {sorted(others)[0]!r} of {name!r}")


def _check_kind(config: Mapping[str, Any]) -> None:
    kind = config.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise _NotFollowed(f"is a {kind}")


def _embedding(config: Mapping[str, Any], source: Path) -> Embedding:
    """Read prompts and the length of a vector."""
    file = source / CONFIG_FILE
    prompts, default, size = (config.get(name) for name in ("prompts", "default_prompt_name", "truncate_dim"))
    prompts = {} if prompts is None else prompts
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise LosparseError(f"{file}: prompts must be texts by name, got {str(prompts)[:80]}")
    # Every model has these two there, empty where the folder does not set them.
    prompts = {"query": "", "document": "", **{name: text or "" for name, text in prompts.items()}}
    if default is not None and not (isinstance(default, str) and default in prompts):
        names = ", ".join(map(repr, prompts))
        raise LosparseError(f"{file}: default_prompt_name must be one of the prompts {names}, got {default!r}")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise LosparseError(f"{file}: truncate_dim must be a whole number of 1 or more, got {size!r}")
    similarity = config.get("similarity_fn_name")
    return Embedding(prompts, default, True, size, similarity if similarity in SIMILARITIES else None)


def read_optional(file: Path, kind: type = dict) -> Any:
    """Read a file that may be absent; then, and where it holds another kind of value, an empty one is returned."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError, RecursionError) as error:
        raise LosparseError(f"{file}: cannot be read as JSON ({error})") from error
    return data if isinstance(data, kind) else kind()
