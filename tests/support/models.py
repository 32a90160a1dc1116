"""Tiny models of every text architecture that transformers offers, each from its own configuration class.

A configuration is made small by the names that nearly all of them share (`_SIZES`); what a family needs besides stands
in `_OVERRIDES`. The weights are random, but larger than a new model's: differences must be visible, not lost in noise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

POSITIONS = 256
VOCABULARY = 500
_SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 256,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_intermediate_size": 64,
    "sliding_window": 32,
}
_SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_SPREAD = 0.12  # standard deviation of weights; 0.02, as models start with, hides what a layer does

_BART = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "decoder_start_token_id": 2,
}  # fmt: skip
_T5 = {"d_kv": 16, "d_ff": 256, "decoder_start_token_id": 1}
_XLM = {"emb_dim": 64, "n_layers": 2, "n_heads": 4, "n_langs": 1, "use_lang_emb": False}
_DEBERTA = {"relative_attention": True, "type_vocab_size": 0, "position_biased_input": False}
_LATENT = {
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "q_lora_rank": 32, "kv_lora_rank": 32,
    "head_dim": 8, "num_key_value_heads": 4,
}  # fmt: skip
_LATENT_EXPERTS = {**_LATENT, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2}
_MAMBA = {
    "attention_hidden_size": 128, "attention_head_dim": 32, "head_dim": None, "num_key_value_heads": 4,
    "mamba_d_state": 8, "use_mamba_kernels": False,
}  # fmt: skip
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 2,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip

_OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    "axk1": _LATENT_EXPERTS,
    "axk2": _LATENT_EXPERTS,
    "bart": _BART,
    "big_bird": {"attention_type": "original_full"},
    "codegen": {"rotary_dim": 8},
    "bigbird_pegasus": {**_BART, "attention_type": "original_full"},
    "canine": {"local_transformer_stride": 16, "num_hash_buckets": 64},
    "cohere_compass_text": {"layer_types": ["full_attention", "full_attention"],
                            "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "convbert": {"embedding_size": 32, "conv_kernel_size": 3},
    "ctrl": {"dff": 256},
    "deberta": {**_DEBERTA, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": -1},
    "deberta-v2": {**_DEBERTA, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16, "share_att_key": True,
                   "norm_rel_ebd": "layer_norm"},
    "deepseek_v2": _LATENT_EXPERTS,
    "deepseek_v3": _LATENT_EXPERTS,
    "esm": {"vocab_size": VOCABULARY, "mask_token_id": 4, "position_embedding_type": "rotary"},
    "esmc": {"head_dim": None, "num_key_value_heads": 4},
    "falcon": {"head_dim": None},
    "flaubert": _XLM,
    "funnel": {"num_hidden_layers": None, "block_sizes": [1, 1], "d_model": 64, "n_head": 4, "d_head": 16,
               "d_inner": 256},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gpt_oss": {"num_experts_per_tok": 2},
    "gptj": {"rotary_dim": 8},
    "gemma3n_text": {"laurel_rank": 8, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 16,
                     "vocab_size_per_layer_input": VOCABULARY},
    "hunyuan_v1_dense": {"head_dim": 16, "rope_parameters": None},
    "hunyuan_v1_moe": {"head_dim": 16, "rope_parameters": None, "moe_topk": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 8,
              "use_mamba_kernels": False},
    "layoutlm": {"max_2d_position_embeddings": 64},
    "lilt": {"hidden_size": 96, "max_2d_position_embeddings": 64},
    "luke": {"entity_vocab_size": 20, "entity_emb_size": 16},
    "markuplm": {"xpath_unit_hidden_size": 8, "max_depth": 4},
    "mbart": _BART,
    "minicpm3": _LATENT,
    "ministral": {"head_dim": 16},
    "mistral4": {**_LATENT_EXPERTS, "head_dim": 16},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "modernbert": {"local_attention": 16, "cls_token_id": 0, "sep_token_id": 2},
    "mpt": {"expansion_ratio": 4, "max_seq_len": POSITIONS},
    "mt5": {**_T5, "feed_forward_proj": "gated-gelu"},
    "mvp": _BART,
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "nystromformer": {"num_landmarks": 64, "segment_means_seq_len": 64},
    "olmoe": {"num_experts_per_tok": 2},
    "opt": {"ffn_dim": 256, "word_embed_proj_dim": 64},
    "perceiver": {"d_model": 64, "d_latents": 64, "num_latents": 8, "num_blocks": 1, "num_self_attends_per_block": 2,
                  "num_self_attention_heads": 4, "num_cross_attention_heads": 4},
    "plbart": _BART,
    "qwen2_moe": {"num_experts_per_tok": 2, "shared_expert_intermediate_size": 64},
    "qwen3_5_text": _LINEAR,
    "qwen3_moe": {"num_experts_per_tok": 2},
    "qwen3_next": {**_LINEAR, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 64},
    "reformer": {"attention_head_size": 16, "axial_pos_embds": False,
                 "feed_forward_size": 256, "attn_layers": ["local", "local"], "local_attn_chunk_length": 16,
                 "is_decoder": False, "hash_seed": 1},
    "rembert": {"input_embedding_size": 32, "output_embedding_size": 64},
    "roc_bert": {"pronunciation_vocab_size": 20, "shape_vocab_size": 20},
    "squeezebert": {"embedding_size": 64, "q_groups": 2, "k_groups": 2, "v_groups": 2, "intermediate_groups": 2,
                    "output_groups": 2},
    "t5": _T5,
    "umt5": {**_T5, "feed_forward_proj": "gated-gelu"},
    "xlm": _XLM,
    "xlnet": {"max_position_embeddings": None, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 256},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {**_MAMBA, "num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2,
              "mamba_dt_rank": 8},
    "zamba2": {**_MAMBA, "layers_block_type": ["linear_attention", "hybrid"], "n_mamba_heads": 8, "mamba_headdim": 16,
               "kv_channels": 16, "hybrid_layer_ids": [1], "adapter_rank": 8, "chunk_size": 16},
}  # fmt: skip

# Architectures with a sequence classifier that are left out, and why.
LEFT_OUT: Mapping[str, str] = {
    "gemma3": "text and images; its text model is gemma3_text",
    "layoutlmv2": "needs detectron2",
    "layoutlmv3": "text and images",
    "modernvbert": "text and images",
    "qwen3_5": "text and images; its text model is qwen3_5_text",
    "t5gemma": "two nested configurations",
    "t5gemma2": "text and images",
    "tapas": "tables, with seven kinds of token types",
    "ultravbert": "text and images",
}

# Text models without a sequence classifier, taken as encoders (feature extraction).
_BASES = (
    "apertus", "bert-generation", "bitnet", "codegen", "cohere", "cohere2", "cwm", "ernie4_5", "gpt_neox_japanese",
    "granite", "granitemoe", "hyperclovax", "internlm3", "lfm2", "olmoe", "vaultgemma", "xglm", "clip_text_model",
    "imagegpt",
)  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """One tiny model.

    Attributes:
        name: of the row.
        model_type: key of transformers' table of configurations.
        auto: the transformers class that opens it.
        task: it is exported for; None where no export is expected.
        settings: of its configuration.
        model: name of the model class; "" for the one that `auto` picks.
    """

    name: str
    model_type: str
    auto: str
    task: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""


_CLASSIFIER = ("AutoModelForSequenceClassification", "text-classification")


def architectures() -> dict[str, Architecture]:
    """Return every architecture by name: all sequence classifiers, bases without one, other heads, and variants."""
    return {found.name: found for found in _all()}


def _all() -> Iterator[Architecture]:
    for kind in sorted(modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES):
        if kind not in LEFT_OUT:
            yield Architecture(kind, kind, *_CLASSIFIER, {**_OVERRIDES.get(kind, {}), "num_labels": 3})
    for kind in _BASES:
        yield Architecture(kind, kind, "AutoModel", "feature-extraction", _OVERRIDES.get(kind, {}))
    yield from _heads()
    yield from _variants()


def _heads() -> Iterator[Architecture]:
    tokens = ("AutoModelForTokenClassification", "token-classification")
    spans = ("AutoModelForQuestionAnswering", "question-answering")
    features = ("AutoModel", "feature-extraction")
    yield Architecture("bert-tokens", "bert", *tokens, {"num_labels": 3})
    yield Architecture("bert-spans", "bert", *spans)
    yield Architecture("splinter-spans", "splinter", *spans)
    yield Architecture("bert-embed", "bert", *features)
    yield Architecture("mpnet-embed", "mpnet", *features)
    yield Architecture("qwen3-embed", "qwen3", *features)
    yield Architecture("modernbert-embed", "modernbert", *features, _OVERRIDES["modernbert"])
    bidirectional = {"use_bidirectional_attention": True}
    yield Architecture("gemma3_text-embed", "gemma3_text", *features, bidirectional)
    for kind in ("t5", "mt5", "umt5"):
        model = f"{kind.upper() if kind != 'mt5' else 'MT5'}EncoderModel"
        yield Architecture(f"{kind}-encoder", kind, *features, _OVERRIDES[kind], model)
    yield Architecture("bert-regression", "bert", *_CLASSIFIER, {"num_labels": 1, "problem_type": "regression"})
    several = {"num_labels": 4, "problem_type": "multi_label_classification"}
    yield Architecture("bert-several-labels", "bert", *_CLASSIFIER, several)
    yield Architecture("llama-causal", "llama", "AutoModelForCausalLM", None)
    yield Architecture("gpt2-causal", "gpt2", "AutoModelForCausalLM", None)
    yield Architecture("bert-masked", "bert", "AutoModelForMaskedLM", None)
    yield Architecture("bart-generation", "bart", "AutoModelForSeq2SeqLM", None, _BART)
    yield Architecture("t5-generation", "t5", "AutoModelForSeq2SeqLM", None, _T5)
    yield Architecture("marian", "marian", "AutoModelForSeq2SeqLM", None, _BART)
    yield Architecture("pegasus", "pegasus", "AutoModelForSeq2SeqLM", None, _BART)


def _variants() -> Iterator[Architecture]:
    """Yield models whose forward pass branches on length, and one whose layers stand for several blocks."""
    sparse = {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 2}
    yield Architecture("big_bird-sparse", "big_bird", *_CLASSIFIER, {**sparse, "num_labels": 3})
    window = {"attention_window": 8, "max_position_embeddings": POSITIONS + 2}
    yield Architecture("longformer-window8", "longformer", *_CLASSIFIER, {**window, "num_labels": 3})
    yield Architecture("mistral-window16", "mistral", *_CLASSIFIER, {"sliding_window": 16, "num_labels": 3})
    long = {
        "rope_type": "longrope", "rope_theta": 10000.0, "long_factor": [2.0] * 8, "short_factor": [1.0] * 8,
        "original_max_position_embeddings": 32, "factor": 8.0,
    }  # fmt: skip
    settings = {"rope_parameters": long, "original_max_position_embeddings": 32, "num_labels": 3}
    yield Architecture("phi3-longrope", "phi3", *_CLASSIFIER, settings)
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    settings = {"rope_parameters": dynamic, "max_position_embeddings": 32, "num_labels": 3}
    yield Architecture("llama-dynamic-rope", "llama", *_CLASSIFIER, settings)
    groups = {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2, "embedding_size": 32}
    yield Architecture("albert-groups", "albert", *_CLASSIFIER, {**groups, "num_labels": 3})


def build(architecture: Architecture, seed: int = 0) -> Any:
    """Return the model with seeded random weights, in evaluation mode."""
    torch.manual_seed(seed)
    config = tiny_config(architecture)
    if architecture.model:
        model = getattr(transformers, architecture.model)(config)
    else:
        model = getattr(transformers, architecture.auto).from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _spread_(name, parameter)
    return model.eval()


def _spread_(name: str, parameter: Tensor) -> None:
    """Draw one parameter wider than a new model's; what scales others stays near one."""
    if name.endswith("bias"):
        parameter.normal_(0.0, 0.1)
    elif parameter.dim() == 1 and not re.search(r"A_log|dt|lambda|sink", name):  # of recurrences: stay as they are
        parameter.mul_(torch.empty_like(parameter).uniform_(0.8, 1.2))


def tiny_config(architecture: Architecture) -> Any:
    """Return the architecture's configuration, made small."""
    kind = CONFIG_MAPPING[architecture.model_type]
    default = kind()
    settings = {**_SIZES, **_SPECIAL, "initializer_range": _SPREAD}
    known = {name: value for name, value in settings.items() if name in _SPECIAL or _has(default, name)}
    known.update(architecture.settings)
    return kind(**{name: value for name, value in known.items() if value is not None})


def _has(config: Any, name: str) -> bool:
    return getattr(config, name, None) is not None


def inputs(model: Any, batch: int, length: int, *, lengths: tuple[int, ...] = (), seed: int = 0) -> dict[str, Tensor]:
    """Return random tokens and their mask, int64 (batch, length); rows end in the model's end token, then padding.

    Args:
        model: for its vocabulary and special tokens.
        batch: rows.
        length: tokens a row, padding included.
        lengths: tokens of each row that are not padding; all by default.
        seed: of the tokens.
    """
    random = torch.Generator().manual_seed(seed)
    config = model.config.get_text_config()
    ids = torch.randint(10, int(getattr(config, "vocab_size", 0) or VOCABULARY), (batch, length), generator=random)
    full = torch.tensor(lengths or (length,) * batch)
    mask = (torch.arange(length) < full[:, None]).long()
    ids[torch.arange(batch), full - 1] = int(getattr(config, "eos_token_id", None) or 2)
    pad = config.pad_token_id if isinstance(config.pad_token_id, int) else 0
    return {"input_ids": torch.where(mask.bool(), ids, pad), "attention_mask": mask}


_FIELDS = ("logits", "start_logits", "end_logits", "last_hidden_state")


def outputs(model: Any, feeds: Mapping[str, Tensor], *, gradient: bool = False) -> dict[str, Tensor]:
    """Return the tensors that an export has, by name; `gradient` keeps the way back to the weights."""
    with torch.set_grad_enabled(gradient):
        result = model(**feeds, return_dict=True)
    return {name: result[name] for name in _FIELDS if isinstance(result.get(name), Tensor)}
