"""Settings of sentence-transformers folders: what differs from a plain folder, and the calls. Of cross-encoders too.

Both environments read this: one writes the folders and our vectors, the other opens them with sentence-transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
MODULES, CONFIG, OWN, POOLING = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
SIZE = 32  # numbers of a token's vector

TEXTS = [
    "A Stirring, funny and finally transporting film",
    "dull",
    "",
    "  The quick brown FOX   jumps over the lazy dog.",
    "one two three four five six seven eight nine ten " * 12,
    "film film",
    "[MASK] is a Word like any other, the [SEP] is not",
]

PROMPTS = {"query": "Search for: ", "passage": "the passage: ", "empty": "", "none": None}
ASKED: list[dict[str, Any]] = [{}, {"prompt_name": "query"}, {"prompt": "a new one, "}, {"prompt": ""}]


@dataclass(frozen=True)
class Case:
    """One folder.

    Attributes:
        name: of the folder.
        base: the model under it, of `write_folders`.
        files: contents by name, over those of a plain folder; None for a file that is not there.
        calls: keyword arguments of `embed` and of `encode`.
    """

    name: str
    base: str
    files: dict[str, Any]
    calls: tuple[dict[str, Any], ...] = ({},)


def modules(*kinds: str, names: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Return modules.json of modules in this order."""
    places = ["" if kind == "Transformer" else f"{place}_{kind}" for place, kind in enumerate(kinds)]
    return [
        {"idx": place, "name": str(place), "path": path, "type": (names or {}).get(kind, OLD + kind)}
        for place, (kind, path) in enumerate(zip(kinds, places, strict=True))
    ]


def pooling(*on: str, **others: Any) -> dict[str, Any]:
    """Return an older pooling configuration with these switches on."""
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    return {"word_embedding_dimension": SIZE, **{f"pooling_mode_{name}": name in on for name in names}, **others}


def newer(mode: Any, **others: Any) -> dict[str, Any]:
    """Return a newer pooling configuration."""
    return {"embedding_dimension": SIZE, "pooling_mode": mode, **others}


PLAIN: dict[str, Any] = {
    MODULES: modules("Transformer", "Pooling"),
    CONFIG: {"__version__": {"sentence_transformers": "3.0.0"}},
    OWN: {"max_seq_length": 48, "do_lower_case": False},
    POOLING: pooling("mean_tokens"),
}

_BASES = ("bert", "left")
_SWITCHES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_EXCLUDING = {"prompts": PROMPTS, "default_prompt_name": "query"}

CASES = (
    # how tokens are pooled
    *(Case(f"{base}-{switch}", base, {POOLING: pooling(switch)}) for base in _BASES for switch in _SWITCHES),
    *(Case(f"{base}-named-{mode}", base, {POOLING: newer(mode)}) for base in _BASES for mode in _MODES),
    Case("several", "bert", {POOLING: pooling("cls_token", "mean_tokens", "lasttoken")}),
    Case("several-named", "left", {POOLING: newer(["weightedmean", "max", "cls"])}),
    Case("one-in-a-list", "bert", {POOLING: newer(["max"])}),
    Case("twice", "bert", {POOLING: newer(["mean", "mean"])}),
    Case("no-switch", "bert", {POOLING: pooling()}),
    Case("both-spellings", "bert", {POOLING: {**pooling("mean_tokens"), "pooling_mode": "cls"}}),
    # prompts
    *(
        Case(
            f"{base}-without-prompt-{mode}",
            base,
            {CONFIG: _EXCLUDING, POOLING: newer(mode, include_prompt=False)},
            tuple(ASKED),
        )
        for base in (*_BASES, "bytes")
        for mode in _MODES
    ),
    Case("default-prompt", "bert", {CONFIG: _EXCLUDING}, tuple(ASKED)),
    Case("prompts", "bytes", {CONFIG: {"prompts": PROMPTS}}, (*ASKED, {"prompt_name": "passage"})),
    Case("prompt-of-null", "bert", {CONFIG: {"prompts": PROMPTS, "default_prompt_name": "none"}}),
    Case("default-not-set", "bert", {CONFIG: {"default_prompt_name": "document"}}),
    # vectors
    Case("unit", "bert", {MODULES: modules("Transformer", "Pooling", "Normalize")}),
    Case("cut", "bert", {CONFIG: {"truncate_dim": 16}}),
    Case("unit-cut", "bert", {CONFIG: {"truncate_dim": 16}, MODULES: modules("Transformer", "Pooling", "Normalize")}),
    Case("cut-beyond", "bert", {CONFIG: {"truncate_dim": 500}}),
    Case("cut-several", "bert", {CONFIG: {"truncate_dim": 40}, POOLING: newer(["cls", "mean"])}),
    Case(
        "dropout",
        "bert",
        {MODULES: modules("Transformer", "Pooling", "Dropout"), "2_Dropout/config.json": {"dropout": 0.5}},
    ),
    Case("dot", "bert", {CONFIG: {"similarity_fn_name": "dot", "model_type": "SentenceTransformer"}}),
    # texts
    Case("lower-case", "cased", {OWN: {"max_seq_length": 48, "do_lower_case": True}}),
    Case("lower-case-bytes", "bytes", {OWN: {"max_seq_length": 48, "do_lower_case": True}}),
    Case("cased", "cased", {}),
    Case("short", "bert", {OWN: {"max_seq_length": 8}}),
    Case("longer-than-the-tokenizer-says", "limited", {OWN: {"max_seq_length": 40}}),
    Case("as-the-tokenizer-says", "limited", {OWN: {}}),
    Case("no-length", "bert", {OWN: {"max_seq_length": None}}),
    Case("older-name", "bert", {OWN: None, "sentence_roberta_config.json": {"max_seq_length": 9}}),
    # newer folders, and plain ones
    Case(
        "newer",
        "bert",
        {
            MODULES: modules("Transformer", "Pooling", "Normalize", names=NEW),
            CONFIG: {
                "__version__": {"sentence_transformers": "5.0.0", "transformers": "5.0.0", "pytorch": "2.9.0"},
                "model_type": "SentenceTransformer",
                "prompts": {"query": "", "document": ""},
                "default_prompt_name": None,
                "similarity_fn_name": "cosine",
            },
            OWN: {
                "transformer_task": "feature-extraction",
                "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
                "module_output_name": "token_embeddings",
            },
            POOLING: newer("mean", include_prompt=True),
            "2_Normalize/config.json": {"module_input_name": "sentence_embedding"},
        },
    ),
    Case("plain", "bert", dict.fromkeys(PLAIN)),
    Case("plain-causal", "causal", dict.fromkeys(PLAIN)),
)

QUERY = "a film of WORDS"

# What config.json of a cross-encoder says of the score, by the name of its folder.
CROSS_ENCODERS: dict[str, dict[str, Any]] = {
    "nothing-said": {},
    "no-function": {"sentence_transformers": {"version": "5.0.0"}},
    **{
        f"says-{name.rpartition('.')[2]}": {"sentence_transformers": {"activation_fn": f"torch.nn.modules.{name}"}}
        for name in ("activation.Sigmoid", "activation.Tanh", "linear.Identity")
    },
    "says-identity-of-old": {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    "says-both": {
        "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"},
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
    },
}

# What sentence-transformers 6 writes beside config.json of a cross-encoder, by the name of its folder; it counts more.
_SIX = {
    MODULES: modules("Transformer", names=NEW),
    OWN: {
        "transformer_task": "sequence-classification",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": "scores",
    },
}
_IDENTITY = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}
CROSS_FILES: dict[str, dict[str, Any]] = {
    "saved-by-6": {**_SIX, CONFIG: {**_IDENTITY, "prompts": {}, "default_prompt_name": None}},
    "says-both-of-6": {**_SIX, CONFIG: _IDENTITY},
}
CROSS_ENCODERS |= {
    "saved-by-6": {},
    "says-both-of-6": {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}},
}

# Calls of SentenceEncoder and SentenceTransformer on one folder, and of both CrossEncoders: method, keyword arguments.
ENCODER = "prompts"  # the case whose folder they are for
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("encode", {"inputs": TEXTS}),
    ("encode", {"inputs": TEXTS[0]}),
    ("encode", {"inputs": []}),
    ("encode", {"inputs": TEXTS, "prompt_name": "query", "batch_size": 2}),
    ("encode", {"inputs": TEXTS, "prompt": "a new one, ", "prompt_name": "query"}),
    ("encode", {"inputs": TEXTS, "normalize_embeddings": True}),
    ("encode", {"inputs": TEXTS, "truncate_dim": 12, "normalize_embeddings": True}),
    ("encode", {"inputs": TEXTS, "truncate_dim": 16, "precision": "binary"}),
    ("encode", {"inputs": TEXTS, "precision": "ubinary"}),
    ("encode", {"inputs": TEXTS, "output_value": "token_embeddings"}),
    ("encode", {"inputs": TEXTS[0], "output_value": "token_embeddings"}),
    ("encode_query", {"inputs": TEXTS}),
    ("encode_document", {"inputs": TEXTS}),
    ("encode_document", {"inputs": TEXTS, "prompt_name": "passage", "normalize_embeddings": True}),
)
PAIRS = [[QUERY, text] for text in TEXTS]
CROSS_ENCODER = "says-Tanh"
CROSS_CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("predict", {"inputs": PAIRS}),
    ("predict", {"inputs": PAIRS[0]}),
    ("predict", {"inputs": []}),
    ("predict", {"inputs": PAIRS, "batch_size": 2}),
    ("rank", {"query": QUERY, "documents": TEXTS, "top_k": 3, "return_documents": True}),
    ("rank", {"query": QUERY, "documents": TEXTS}),
)
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


def flat(value: Any) -> list[Any]:
    """Return what a call gives as a list of arrays: a ranking as places, scores and texts."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [np.array([each.get(name, "") for each in value]) for name in ("corpus_id", "score", "text")]
    return [np.asarray(each) for each in value] if isinstance(value, list) else [np.asarray(value)]
