"""Every layer of every architecture has the role that its place in the model gives it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from losparse import LoSparse
from losparse.layers.linear import find_targets
from losparse.methods.losparse.coupling import couple
from losparse.models.fused import split_fused_
from losparse.models.roles import feed_forward_parts, partners, role_of
from losparse.random_factors import _plan, sizes_of

ROLES = {"q": "query", "k": "key", "v": "value", "u": "up", "w": "writer", "-": None}

# Layers of a block with their roles, and the families that have them; settings where one block is asked for otherwise.
BERT = "q attention.self.query k attention.self.key v attention.self.value w attention.output.dense"
NEURONS = "u intermediate.dense w output.dense"
SELF = "q self_attn.q_proj k self_attn.k_proj v self_attn.v_proj"
GATED = "u mlp.gate_proj u mlp.up_proj w mlp.down_proj"
FUSED = "q {0}.q k {0}.k v {0}.v"  # parts of one product
FUSED_GATED = "u mlp.{0}.gate u mlp.{0}.up"
NEURONS_4H = "u mlp.dense_h_to_4h w mlp.dense_4h_to_h"
CROSS = "q encoder_attn.q_proj k encoder_attn.k_proj v encoder_attn.v_proj w encoder_attn.out_proj"
T5 = "q layer.*.{0}.q k layer.*.{0}.k v layer.*.{0}.v w layer.*.{0}.o"
CASES: list[tuple[str, str]] = [
    (
        f"{BERT} {NEURONS}",
        "Bert Roberta XLMRoberta Camembert Electra Ernie RoFormer BigBird Data2VecText MegatronBert RemBert LayoutLM "
        "Esm XLMRobertaXL Nystromformer Canine RobertaPreLayerNorm Splinter",
    ),
    (
        "q attention.q_lin k attention.k_lin v attention.v_lin w attention.out_lin u ffn.lin1 w ffn.lin2",
        "DistilBert",
    ),
    (
        f"q attention.attn.q k attention.attn.k v attention.attn.v w attention.attn.o {NEURONS}",
        "MPNet",
    ),
    (
        "q attention.self.query_proj k attention.self.key_proj v attention.self.value_proj w attention.output.dense "
        f"{NEURONS}",
        "DebertaV2",
    ),
    (
        f"{FUSED.format('attention.self.in_proj')} - attention.self.pos_proj - attention.self.pos_q_proj "
        f"w attention.output.dense {NEURONS}",
        "Deberta",
    ),
    (
        "q albert_layers.*.attention.query k albert_layers.*.attention.key v albert_layers.*.attention.value "
        "w albert_layers.*.attention.dense u albert_layers.*.ffn w albert_layers.*.ffn_output",
        "Albert",
    ),
    (f"{FUSED.format('attn.Wqkv')} w attn.Wo {FUSED_GATED.format('Wi')} w mlp.Wo", "ModernBert"),
    (
        f"{SELF} w self_attn.o_proj {GATED}",
        "Llama Mistral Qwen2 Qwen3 Gemma Gemma2 Gemma3Text Olmo2 SmolLM3 StableLm Granite Cohere EuroBert NomicBert "
        "Gte Ultrabert",
    ),
    (f"{SELF} w self_attn.o_proj u mlp.fc1 w mlp.fc2", "JinaEmbeddingsV3"),
    (f"{SELF} w self_attn.o_proj u mlp.up_proj w mlp.down_proj", "Nemotron"),
    (f"{SELF} w self_attn.o_proj u mlp.c_fc w mlp.c_proj", "Starcoder2"),
    (f"{SELF} w self_attn.o_proj", "Mixtral Qwen3Moe"),
    (
        f"{SELF} w self_attn.o_proj u mlp.shared_expert.gate_proj u mlp.shared_expert.up_proj "
        "w mlp.shared_expert.down_proj",
        "Qwen2Moe",
    ),
    (f"{SELF} w self_attn.dense u mlp.fc1 w mlp.fc2", "Phi"),
    (
        f"{FUSED.format('self_attn.qkv_proj')} w self_attn.o_proj {FUSED_GATED.format('gate_up_proj')} w mlp.down_proj",
        "Phi3",
    ),
    (f"{SELF} w self_attn.o_proj {FUSED_GATED.format('gate_up_proj')} w mlp.down_proj", "Glm4"),
    (
        f"{SELF} w self_attn.o_proj {GATED} w linear_attn.out_proj - linear_attn.in_proj_qkv - linear_attn.in_proj_z "
        "- linear_attn.in_proj_b - linear_attn.in_proj_a",
        "Qwen3_5Text",
    ),
    (
        f"{SELF} w self_attn.out_proj u feed_forward.w1 u feed_forward.w3 w feed_forward.w2 - conv.in_proj "
        "w conv.out_proj",
        "Lfm2",
    ),
    (f"{SELF} w self_attn.out_proj u mlp.fc1 w mlp.fc2", "CLIPText CLIPVision SiglipText SiglipVision"),
    (f"{SELF} w self_attn.out_proj u fc1 w fc2", "OPT"),
    (f"{SELF} w self_attn.out_proj u fc1 w fc2 {CROSS}", "Bart MBart M2M100 Blenderbot Pegasus Marian Whisper"),
    (
        "q attention.q_proj k attention.k_proj v attention.v_proj w attention.o_proj u mlp.fc1 w mlp.fc2",
        "ViT DeiT Dinov2",
    ),
    (
        "q attention.q_proj k attention.k_proj v attention.v_proj w attention.out_proj "
        "u feed_forward.intermediate_dense w feed_forward.output_dense",
        "Wav2Vec2 Hubert",
    ),
    (f"{FUSED.format('attn.c_attn')} w attn.c_proj u mlp.c_fc w mlp.c_proj", "GPT2 GPTBigCode ImageGPT OpenAIGPT"),
    (
        "q attn.attention.q_proj k attn.attention.k_proj v attn.attention.v_proj w attn.attention.out_proj "
        "u mlp.c_fc w mlp.c_proj",
        "GPTNeo",
    ),
    ("q attn.q_proj k attn.k_proj v attn.v_proj w attn.out_proj u mlp.fc_in w mlp.fc_out", "GPTJ"),
    (f"{FUSED.format('attn.qkv_proj')} w attn.out_proj u mlp.fc_in w mlp.fc_out", "CodeGen"),
    (
        f"{FUSED.format('attention.query_key_value')} w attention.dense {NEURONS_4H}",
        "GPTNeoX",
    ),
    (
        f"{FUSED.format('self_attention.query_key_value')} w self_attention.dense {NEURONS_4H}",
        "Bloom",
    ),
    (
        f"{FUSED.format('self_attn.query_key_value')} w self_attn.dense {NEURONS_4H}",
        "Persimmon",
    ),
    (f"{FUSED.format('attn.Wqkv')} w attn.out_proj u ffn.up_proj w ffn.down_proj", "Mpt"),
    (f"{T5.format('SelfAttention')} u layer.*.DenseReluDense.wi w layer.*.DenseReluDense.wo", "T5Encoder"),
    (
        f"{T5.format('SelfAttention')} u layer.*.DenseReluDense.wi_0 u layer.*.DenseReluDense.wi_1 "
        "w layer.*.DenseReluDense.wo",
        "MT5Encoder UMT5Encoder",
    ),
    (
        f"{T5.format('SelfAttention')} {T5.format('EncDecAttention')} u layer.*.DenseReluDense.wi "
        "w layer.*.DenseReluDense.wo",
        "T5",
    ),
    ("q q_lin k k_lin v v_lin w out_lin u lin1 w lin2", "XLM Flaubert"),
    (
        "q attention.q_head k attention.k_head v attention.v_head w attention.post_proj u ffn.linear_1 w ffn.linear_2",
        "Funnel",
    ),
    ("u ff.layer_1 w ff.layer_2", "XLNet"),
    (NEURONS, "FNet"),
    (
        f"{BERT} - attention.self.query_global - attention.self.key_global - attention.self.value_global {NEURONS}",
        "Longformer",
    ),
    (
        f"{BERT} - attention.self.w2e_query - attention.self.e2w_query - attention.self.e2e_query {NEURONS}",
        "Luke",
    ),
    (
        f"{BERT} {NEURONS} q attention.self.layout_query k attention.self.layout_key v attention.self.layout_value "
        "w attention.layout_output.dense u layout_intermediate.dense w layout_output.dense",
        "Lilt",
    ),
    (f"{BERT} - attention.self.conv_kernel_layer - attention.self.conv_out_layer {NEURONS}", "ConvBert"),
    (
        f"{BERT} {NEURONS} u ffn.*.intermediate.dense w ffn.*.output.dense - output.bottleneck.dense "
        "- bottleneck.input.dense - bottleneck.attention.dense",
        "MobileBert",
    ),
    (
        "q blocks.*.attention.q_proj k blocks.*.attention.k_proj v blocks.*.attention.v_proj "
        "w blocks.*.attention.o_proj u blocks.*.mlp.fc1 w blocks.*.mlp.fc2 - downsample.reduction",
        "Swin",
    ),
]
SETTINGS: dict[str, dict[str, Any]] = {
    "Albert": {"hidden_size": 64, "num_attention_heads": 4},
    "Esm": {"vocab_size": 50, "num_hidden_layers": 1},
    "Deberta": {"num_hidden_layers": 1, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "Nemotron": {"num_hidden_layers": 1, "num_key_value_heads": 2},
    "Funnel": {"block_sizes": [1]},
    "Gemma2": {"head_dim": 16},
    "GPTNeo": {"num_layers": 1, "attention_types": [[["global"], 1]]},
    "Lfm2": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
    "MT5Encoder": {"feed_forward_proj": "gated-gelu", "d_ff": 128},
    "UMT5Encoder": {"feed_forward_proj": "gated-gelu", "d_ff": 128},
    "Qwen3_5Text": {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]},
    "Swin": {"depths": [1, 1], "num_heads": [2, 4], "embed_dim": 32},
}
ENCODER_DECODER = ("Bart", "MBart", "M2M100", "Blenderbot", "Pegasus", "Marian", "Whisper")
FAMILIES = [(family, layers) for layers, families in CASES for family in families.split()]


def build(family: str) -> nn.Module:
    """Return a model of one block (or two) without memory, its fused products taken apart."""
    settings = SETTINGS.get(family, {"num_hidden_layers": 1})
    if family in ENCODER_DECODER:
        settings = {"encoder_layers": 1, "decoder_layers": 1}
    config = getattr(transformers, family.removesuffix("Encoder") + "Config")(**settings)
    with torch.device("meta"):
        model: nn.Module = getattr(transformers, f"{family}Model")(config)
    split_fused_(model)
    return model


@pytest.mark.parametrize(("family", "layers"), FAMILIES, ids=[family for family, _ in FAMILIES])
def test_roles(family: str, layers: str) -> None:
    words = layers.split()
    expected = {pattern: ROLES[letter] for letter, pattern in zip(words[::2], words[1::2], strict=True)}
    found = {}
    for name in find_targets(build(family)):
        inside = re.sub(r"^.*?\.?\d+\.(?:\d+\.)*", "", name, count=1)
        found[re.sub(r"(?<![^.])\d+(?=\.)", "*", inside)] = role_of(name)
    assert found == expected


COUPLED = {
    "Albert": 3,
    "GPTJ": 3,
    "GPTNeo": 3,
    "GPTNeoX": 3,
    "Bloom": 3,
    "ModernBert": 3,
    "GPT2": 3,
    "GPTBigCode": 1,  # one head of keys for all of the queries
    "CodeGen": 3,
    "Mpt": 3,
    "Phi3": 3,
    "Deberta": 3,
    "Wav2Vec2": 3,
    "XLM": 3,
    "Funnel": 9,  # of a block, and of the two of the decoder
    "XLNet": 1,
    "Lilt": 6,
    "Phi": 3,
    "Lfm2": 2,  # the feed-forward parts of two blocks: 8 heads of keys serve 32 of queries
}


@pytest.mark.parametrize(("family", "count"), COUPLED.items())
def test_what_shares_features_decides_together(family: str, count: int) -> None:
    model = build(family)
    layers, method = find_targets(model), LoSparse(keep=0.5, low_rank=0.1, structure="foldable")
    plans = {name: _plan(name, sizes, method) for name, sizes in sizes_of(layers).items()}
    shared = [one for one in method.families(plans, model.config) if len(one.layers) > 1]
    assert len(shared) == count
    readers = {name for found in partners(layers) for name in found.readers}
    assert {name for name, plan in plans.items() if plan.axis == "in"} >= readers


def test_a_writer_that_keeps_rows_decides_alone() -> None:
    """Before GPT-NeoX's names were known, its writers kept rows: such a training goes on as it began."""
    model = build("Phi")
    method = LoSparse(keep=0.5, low_rank=0.1, structure="foldable")
    sizes = sizes_of(find_targets(model))
    paper = LoSparse(keep=0.5, low_rank=0.1, structure="rows")
    plans = {name: _plan(name, one, paper if role_of(name) == "writer" else method) for name, one in sizes.items()}
    families = couple(plans, model.config, multiple=8)
    assert [len(one.layers) for one in families if role_of(one.layers[-1]) == "writer"] == [1, 1]


def test_feed_forward_parts_of_every_name() -> None:
    for family, ups in (("Albert", 1), ("Bloom", 1), ("GPTJ", 1), ("Lfm2", 2), ("XLNet", 1), ("Wav2Vec2", 1)):
        parts = feed_forward_parts(find_targets(build(family)))
        assert parts and all(len(names) == ups and role_of(writer) == "writer" for names, writer in parts), family
