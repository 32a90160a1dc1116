"""Calibration against statistics computed the slow way."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from losparse.calibration.gradients import output_sensitivity, squared_gradients
from losparse.calibration.observe import mean_states, real_tokens, spread, whole_pass
from losparse.errors import LosparseError
from losparse.layers.linear import find_targets

from .conftest import batches, build_bert, build_llama


def inputs_by_hand(model: nn.Module, name: str) -> torch.Tensor:
    """Return what a layer reads of real tokens, batch after batch."""
    read: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _module, arguments: read.append(arguments[0]))
    found = []
    for batch in batches():
        read.clear()
        with torch.no_grad():
            model(**batch)
        found.append(read[0][batch["attention_mask"].bool()])
    handle.remove()
    return torch.cat(found).double()


@pytest.mark.parametrize("name", ["bert.encoder.layer.1.attention.self.key", "bert.encoder.layer.0.output.dense"])
def test_moments_leave_padding_out(name):
    model = build_bert()
    statistics = whole_pass(model, find_targets(model), batches(), gram=True)[name].inputs
    x = inputs_by_hand(model, name)
    assert statistics.tokens == len(x) == sum(int(batch["attention_mask"].sum()) for batch in batches())
    # Products of fp32 numbers of size 1, added up over some hundred tokens.
    torch.testing.assert_close(statistics.gram, x.T @ x, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(statistics.mean, x.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(statistics.absolute, x.abs().sum(0), rtol=1e-5, atol=1e-4)
    centred = statistics.second_moment(centred=True)
    torch.testing.assert_close(centred, torch.cov(x.T, correction=0), rtol=1e-4, atol=1e-5)


def test_layers_that_read_one_tensor_share_their_moments():
    model = build_bert()
    found = whole_pass(model, find_targets(model), batches(), gram=True)
    attention = "bert.encoder.layer.0.attention"
    query, key, output = (found[f"{attention}.{name}"].inputs for name in ("self.query", "self.key", "output.dense"))
    assert query is key and query is not output
    assert query.tokens == output.tokens


def test_some_batches_are_spread_over_all():
    sized = [{"input_ids": torch.ones(1, length, dtype=torch.int64)} for length in range(20, 0, -1)]  # 210 tokens
    assert list(spread(sized, 50)) == [1, 5, 9, 13, 17]
    assert list(spread(sized, 500)) == list(range(20)), "fewer tokens than that: all"
    assert list(spread(sized[:1], 5)) == [0], "never none"
    assert list(spread([{"pixel_values": torch.ones(1)}], 5)) == [0], "what has no tokens is not counted"
    masked = {"input_ids": torch.ones(2, 3, dtype=torch.int64), "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    assert real_tokens(masked) == 3


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_calibration_leaves_the_model_as_it_was():
    model = build_llama().train()
    model.model.layers[1].eval()  # as users freeze parts of a model
    training = modes(model)
    model.config.use_cache = True
    for parameter in model.model.embed_tokens.parameters():
        parameter.requires_grad_(False)
    layers = find_targets(model)
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    labelled = [{**batch, "labels": batch["input_ids"]} for batch in batches()]
    whole_pass(model, layers, labelled, gram=False)
    squared_gradients(model, layers, labelled, "fast")
    output_sensitivity(model, layers, labelled)
    assert modes(model) == training and model.config.use_cache
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wanted
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_refusals():
    model = build_bert()
    layers = find_targets(model)
    with pytest.raises(LosparseError, match="holds no batch"):
        whole_pass(model, layers, [], gram=True)
    masked = [{**batch, "attention_mask": torch.zeros_like(batch["attention_mask"])} for batch in batches()]
    with pytest.raises(LosparseError, match=r"layer 'bert\.encoder\.layer\.0\.attention\.self\.query' read no token"):
        whole_pass(model, layers, masked, gram=True)
    with pytest.raises(LosparseError, match="has no labels"):
        squared_gradients(model, layers, [{k: v for k, v in batches()[0].items() if k != "labels"}], "fast")
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.fill_(torch.nan)
    with pytest.raises(LosparseError, match="hold NaN or infinity on the calibration data"):
        whole_pass(model, layers, batches(), gram=True)
    with pytest.raises(LosparseError, match="the loss is nan"):
        squared_gradients(model, layers, batches(), "exact")


def test_a_layer_that_is_never_called():
    model = build_bert()
    layers = {**find_targets(model), "idle": nn.Linear(3, 3)}
    with pytest.raises(LosparseError, match="'idle' was never called"):
        whole_pass(model, layers, batches(), gram=True)


def test_mean_states_leave_padding_out():
    states = torch.tensor([[[1.0], [3.0], [100.0]], [[2.0], [4.0], [6.0]], [[7.0], [7.0], [7.0]]])
    real = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]]).bool()
    assert mean_states(states, real).tolist() == [[2.0], [4.0], [0.0]]  # a text of padding alone is no NaN
    assert mean_states(states, None)[1].tolist() == [4.0]
    assert torch.equal(mean_states(states[:, 0], real), states[:, 0])  # of texts already


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_calibration_with_labels_leaves_the_problem_to_the_user(value):
    """Transformers notes the problem that it takes labels for; a failure left that behind, and all modules training."""
    model = build_bert().train()
    model.bert.embeddings.eval()
    training = modes(model)
    with torch.no_grad():
        model.classifier.bias.fill_(value)
    failing = pytest.raises(LosparseError, match="the loss is nan") if value != value else nullcontext()
    with failing:
        squared_gradients(model, find_targets(model), batches(), "fast")
    assert model.config.problem_type is None and modes(model) == training
