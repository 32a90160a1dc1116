"""Calibration of models that hold tokens their own way: tables, other orders of axes, padded or shortened texts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from losparse import ASVD, ROM, OneShotLoSparse, compress_
from losparse.calibration.gradients import output_sensitivity
from losparse.calibration.layout import Place, layout_of
from losparse.calibration.observe import whole_pass
from losparse.calibration.visit import visitor
from losparse.errors import LosparseError
from losparse.layers.linear import find_targets
from losparse.models.fused import fused_apart

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 64, "vocab_size": 100}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0}
STEPS = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "deberta-v2": ("DebertaV2", {**SIZES, **RELATIVE, "position_buckets": 16, "share_att_key": True}),
    "deberta-v1": ("Deberta", {**SIZES, **RELATIVE}),
    "bart": ("Bart", {**STEPS, "d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 100}),
    "longformer": ("Longformer", {**SIZES, "attention_window": 8, "max_position_embeddings": 66, "pad_token_id": 1}),
    "xlnet": ("XLNet", {"vocab_size": 100, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}),
    "funnel": (
        "Funnel",
        {"vocab_size": 100, "block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64},
    ),
    "luke": ("Luke", {**SIZES, "entity_vocab_size": 20, "entity_emb_size": 16, "max_position_embeddings": 66}),
}


def build(family: str, head: str = "ForSequenceClassification") -> nn.Module:
    name, settings = MODELS[family]
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, f"{name}{head}")(getattr(transformers, f"{name}Config")(**settings))
    return model.eval()


def texts(*lengths: int, seed: int = 0) -> dict[str, Tensor]:
    """Return a padded batch; every text ends with BART's end of sentence."""
    longest = max(lengths)
    ids = torch.randint(10, 100, (len(lengths), longest), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = 2
    return {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask}


# One batch is square, one holds a single text.
BATCHES = [texts(9, 6, 3), texts(4, 4, 2, 1, seed=1), texts(7, seed=2)]
REAL = 18 + 11 + 7


@pytest.mark.parametrize("family", ["deberta-v2", "deberta-v1", "bart", "longformer", "xlnet", "funnel"])
@pytest.mark.parametrize("method", [ROM, ASVD, OneShotLoSparse])
def test_methods_that_look_at_texts_compress(family: str, method: Any) -> None:
    model = build(family)
    with fused_apart(model):
        count = len(find_targets(model))
    assert len(compress_(model, method(keep=0.5), BATCHES).layers) == count
    with torch.no_grad():
        assert torch.isfinite(model(**BATCHES[0]).logits).all()


def test_a_walk_gives_a_layer_that_is_called_twice_its_own_inputs() -> None:
    """DeBERTa's key reads tokens, then the table of positions: the walk's notes must change neither."""
    model = build("deberta-v2")
    layers = find_targets(model)
    dense = whole_pass(model, layers, BATCHES, gram=True)
    visit, in_order = visitor(model, layers, BATCHES, {"gram"}, sequential=True)
    assert in_order
    for group in visit(sequential=True):
        for name, own in group.items():
            assert own.inputs is not None and own.inputs.tokens == REAL
            torch.testing.assert_close(own.inputs.gram, dense[name].inputs.gram, rtol=1e-4, atol=1e-4)  # type: ignore[union-attr]


def by_hand(model: nn.Module, name: str, batches: list[dict[str, Tensor]]) -> Tensor:
    """Return everything a layer reads of texts without padding, one by one; (tokens, in)."""
    read: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _m, arguments: read.append(arguments[0]))
    for batch in batches:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            with torch.no_grad():
                model(input_ids=ids[None, mask.bool()], attention_mask=mask[None, mask.bool()])
    handle.remove()
    return torch.cat([x.reshape(-1, x.shape[-1]) for x in read]).double()


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("xlnet", "transformer.layer.1.ff.layer_2"),
        ("funnel", "funnel.encoder.blocks.0.0.attention.k_head"),
        ("bart", "model.decoder.layers.0.encoder_attn.k_proj"),
    ],
)
def test_padding_is_left_out_wherever_it_stands(family: str, name: str) -> None:
    model = build(family)
    batches = [texts(9, 6, 5), texts(4, 4, 4, 4, seed=1), texts(7, seed=2)]
    found = whole_pass(model, find_targets(model), batches, gram=True)[name].inputs
    x = by_hand(model, name, batches)
    assert found is not None and found.tokens == len(x) == 43
    torch.testing.assert_close(found.gram, x.T @ x, rtol=1e-4, atol=1e-4)  # fp32 sums in another order


def test_texts_that_a_model_pads_itself_count_as_they_are() -> None:
    model = build("longformer")
    layers = find_targets(model)
    found = whole_pass(model, layers, BATCHES, gram=False)
    own = {name: one.inputs.tokens for name, one in found.items() if one.inputs is not None}
    block = "longformer.encoder.layer.0"
    assert own[f"{block}.attention.self.query"] == own[f"{block}.output.dense"] == REAL
    # The classifier attends globally to the first token of every text, which the backbone alone does not.
    assert layout_of(model, layers, BATCHES[0]).runs is model
    assert own[f"{block}.attention.self.query_global"] > 0


def test_a_table_is_measured_whole() -> None:
    model = build("deberta-v1")
    name = "deberta.encoder.layer.0.attention.self.pos_proj"
    layers = find_targets(model)
    assert layout_of(model, layers, BATCHES[0]).places[name] == (Place(0, "every"),)
    read: list[int] = []
    model.get_submodule(name).register_forward_pre_hook(lambda _m, arguments: read.append(arguments[0][..., 0].numel()))
    seen = whole_pass(model, layers, BATCHES, gram=False)
    tokens = {layer: own.inputs.tokens for layer, own in seen.items() if own.inputs is not None}
    assert tokens[name] == sum(read[1:]), "the first call was to see how the model calls its layers"
    assert tokens[name.replace("pos_proj", "in_proj")] == REAL


def test_a_decoder_is_read_by_its_own_texts() -> None:
    model = build("bart", "ForConditionalGeneration")
    decoder = {"decoder_input_ids": texts(5, 5)["input_ids"], "decoder_attention_mask": texts(5, 4)["attention_mask"]}
    batch = {**texts(5, 3), **decoder}  # both of one length: sizes do not tell them apart
    found = whole_pass(model, find_targets(model), [batch], gram=False)
    block = "model.decoder.layers.0"
    for layer, tokens in (("self_attn.q_proj", 9), ("fc1", 9), ("encoder_attn.q_proj", 9), ("encoder_attn.k_proj", 8)):
        own = found[f"{block}.{layer}"].inputs
        assert own is not None and own.tokens == tokens, layer


def test_layers_that_texts_do_not_reach_are_named_by_kind() -> None:
    model = build("luke")
    with pytest.raises(LosparseError, match=r"query' was never called .*\(3 layers like.*layer\.\*\.attention"):
        compress_(model, ROM(keep=0.5), BATCHES)
    left = ["*w2e_query", "*e2w_query", "*e2e_query"]
    assert compress_(model, ROM(keep=0.5), BATCHES, ignore=left).layers


def test_sensitivity_where_nothing_before_a_layer_needs_a_gradient() -> None:
    """The outputs of DeBERTa's first layers, and of those that read the table, are weighed like any other."""
    model = build("deberta-v1")
    found = output_sensitivity(model, find_targets(model), BATCHES)
    assert all(one.sensitivity is not None and bool((one.sensitivity > 0).any()) for one in found.values())
    first = found["deberta.encoder.layer.0.attention.self.in_proj"]
    assert first.tokens == REAL
