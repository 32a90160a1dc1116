"""Calibration against statistics computed the slow way."""

from __future__ import annotations

import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from losparse import ROM
from losparse.calibration import walk as walk_module
from losparse.calibration.gradients import examples_of, few_rows_of, output_sensitivity, squared_gradients
from losparse.calibration.observe import mean_states, real_tokens, spread, whole_pass
from losparse.calibration.visit import _AtOnce, visitor
from losparse.calibration.walk import BlockWalk
from losparse.errors import LosparseError
from losparse.layers.blocks import stack_of
from losparse.layers.linear import find_targets
from losparse.methods.one_shot import factorise

from .conftest import build_bert, collate, toy_items


def batches(count: int = 3) -> list[dict[str, torch.Tensor]]:
    return [collate(toy_items(4, seed)) for seed in range(count)]


def build_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


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


@pytest.mark.parametrize("build", [build_bert, build_llama])
def test_the_walk_sees_what_the_model_sees(build):
    model = build()
    layers = find_targets(model)
    dense = whole_pass(model, layers, batches(), gram=True)
    for sequential in (False, True):  # nothing is replaced, so both are the dense model
        visit, in_order = visitor(model, layers, batches(), {"gram"}, sequential=sequential)
        assert in_order == sequential
        found = {name: own for group in visit(sequential=sequential) for name, own in group.items()}
        assert list(found) == list(layers) if not sequential else set(found) == set(layers)
        for name in layers:
            torch.testing.assert_close(found[name].inputs.gram, dense[name].inputs.gram, rtol=1e-4, atol=1e-4)
            assert found[name].inputs.tokens == dense[name].inputs.tokens


def test_a_sequential_visit_sees_replaced_layers():
    model = build_bert()
    layers = find_targets(model)
    last = "bert.encoder.layer.1.attention.self.query"
    dense = whole_pass(model, layers, batches(), gram=True)[last].inputs.mean
    visit, _ = visitor(model, layers, batches(), {"gram"}, sequential=True)
    seen = {}
    with torch.no_grad():
        for group in visit(sequential=True):
            for name, own in group.items():
                seen[name] = own.inputs.mean
                layers[name].weight.zero_()
                layers[name].bias.zero_()
    assert not torch.allclose(seen[last], dense, rtol=1e-2)
    # With every layer before it zero, the block reads the embeddings' norms alone.
    again = whole_pass(model, layers, batches(), gram=True)[last].inputs.mean
    torch.testing.assert_close(seen[last], again)


@pytest.mark.parametrize("sequential", [False, True])
def test_a_visit_holds_one_group_and_a_last_one_no_first_states(sequential):
    model = build_bert()
    visit, _ = visitor(model, find_targets(model), batches(), {"gram"}, sequential=True)
    assert len(list(visit(sequential=False, chosen=[0, 2]))) == 2, "one visit leaves the first states for another"
    states = [weakref.ref(state) for state in visit.walk._first]
    assert len(states) == 3 and all(state() is not None for state in states)
    grams = []
    for group in visit(sequential=sequential, last=True):
        assert all(gram() is None for gram in grams), "statistics of an earlier group are still held"
        grams = [weakref.ref(own.inputs.gram) for own in group.values()]
        del group
    assert grams and all(state() is None for state in states)


@pytest.mark.parametrize("sequential", [False, True, "at once"])
def test_a_visit_of_chosen_batches_sees_those_alone(sequential):
    model, own = build_bert(), batches()
    layers = find_targets(model)
    visit, _ = visitor(model, layers, own, {"gram"}, sequential=True)
    if sequential == "at once":
        visit = _AtOnce(model, layers, own, visit.see)
    expected = whole_pass(model, layers, [own[0], own[2]], gram=True)
    seen = {name: one for group in visit(sequential=sequential is True, chosen=[0, 2]) for name, one in group.items()}
    assert seen.keys() == expected.keys()
    for name, one in seen.items():
        assert one.inputs.tokens == expected[name].inputs.tokens
        torch.testing.assert_close(one.inputs.mean, expected[name].inputs.mean)


def test_memory_is_given_back_whatever_batches_are_chosen(monkeypatch):
    released = []
    monkeypatch.setattr(walk_module, "release_memory", lambda: released.append(True))
    model = build_bert()
    walk = BlockWalk(model, stack_of(model, find_targets(model)), batches(16))
    walk.restart(range(1, 16, 2))  # no number of these is a multiple of 8
    walk.step(0)
    assert len(released) == 1


def test_some_batches_are_spread_over_all():
    sized = [{"input_ids": torch.ones(1, length, dtype=torch.int64)} for length in range(20, 0, -1)]  # 210 tokens
    assert list(spread(sized, 50)) == [1, 5, 9, 13, 17]
    assert list(spread(sized, 500)) == list(range(20)), "fewer tokens than that: all"
    assert list(spread(sized[:1], 5)) == [0], "never none"
    assert list(spread([{"pixel_values": torch.ones(1)}], 5)) == [0], "what has no tokens is not counted"
    masked = {"input_ids": torch.ones(2, 3, dtype=torch.int64), "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    assert real_tokens(masked) == 3


def test_large_batches_are_looked_at_first(monkeypatch):
    seen = []

    def note(model, layers, batches, statistics, **options):
        seen.extend(int(batch["attention_mask"].sum()) for batch in batches)
        raise RuntimeError("seen")

    monkeypatch.setattr(factorise, "visitor", note)
    model = build_bert()
    ids = torch.ones(1, 6, dtype=torch.int64)
    sized = [{"input_ids": ids, "attention_mask": (torch.arange(6) < real).long()[None]} for real in (2, 5, 3)]
    with pytest.raises(RuntimeError, match="seen"):
        factorise.factorise_(model, ROM(keep=0.5), find_targets(model), sized)
    assert seen == [5, 3, 2]


def test_stages_are_in_the_order_of_calls():
    model = build_llama()
    layers = {name: m for name, m in find_targets(model).items() if name.startswith("model.layers.1.")}
    walk = BlockWalk(model, stack_of(model, layers), batches())
    stages = [[name.rpartition(".")[2] for name in names] for names in walk.stages(1, layers)]
    assert stages == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


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


def test_squared_gradients_by_hand():
    model = build_bert()
    name = "bert.encoder.layer.1.intermediate.dense"
    weight = model.get_submodule(name).weight
    exact, fast = torch.zeros_like(weight), torch.zeros_like(weight)
    for batch in batches():
        for example in examples_of(batch):
            exact += torch.autograd.grad(model(**example).loss, weight)[0].square()
        fast += torch.autograd.grad(model(**batch).loss, weight)[0].square()
    for fisher, expected, steps in (("exact", exact, 12), ("fast", fast, 3)):
        found = squared_gradients(model, find_targets(model), batches(), fisher)[name]
        assert found.examples == steps
        torch.testing.assert_close(found.fisher_in, expected.double().sum(0), rtol=1e-4, atol=1e-12)
        torch.testing.assert_close(found.fisher_out, expected.double().sum(1), rtol=1e-4, atol=1e-12)


def test_examples_lose_their_padding():
    (batch,) = batches(1)
    lengths = batch["attention_mask"].sum(1).tolist()
    assert [example["input_ids"].shape[1] for example in examples_of(batch)] == lengths
    with torch.no_grad():
        model = build_bert()
        whole = model(**batch).logits
        single = torch.cat([model(**example).logits for example in examples_of(batch)])
    torch.testing.assert_close(whole, single, rtol=1e-4, atol=1e-5)


def probed(model: nn.Module, name: str, batch: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the log-likelihood of these labels by a layer's output, by hand."""
    found: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _a, output: found.append(output))
    scores = torch.log_softmax(model(**{k: v for k, v in batch.items() if k != "labels"}).logits, -1)
    handle.remove()
    (gradient,) = torch.autograd.grad(scores.gather(-1, labels[..., None]).sum(), found)
    return gradient


def test_sensitivity_is_the_fisher_information():
    """The mean of many draws against the expectation over both classes."""
    model = build_bert()
    name = "bert.encoder.layer.1.intermediate.dense"
    data = batches(1)
    expected = torch.zeros(64, dtype=torch.float64)
    for row in examples_of(data[0]):
        chances = torch.softmax(model(**row).logits, -1)[0].detach().double()
        for label in (0, 1):
            gradient = probed(model, name, row, torch.tensor([label]))
            expected += chances[label] * gradient.double().square().sum((0, 1))
    draws = [output_sensitivity(model, find_targets(model), data, seed=seed)[name].sensitivity for seed in range(60)]
    mean = torch.stack(draws).mean(0)
    # 60 draws of 4 texts: a standard error of a tenth or so of each number.
    torch.testing.assert_close(mean, expected, rtol=0.5, atol=float(expected.mean()) * 0.1)
    assert float((mean / expected).mean()) == pytest.approx(1.0, abs=0.15)


def test_sensitivity_needs_no_labels_and_no_padding():
    for build in (build_bert, build_llama, lambda: build_bert().bert):
        model = build()
        name = next(iter(find_targets(model)))
        found = output_sensitivity(model, find_targets(model), batches())[name]
        again = output_sensitivity(model, find_targets(model), batches())[name]
        assert torch.equal(found.sensitivity, again.sensitivity)
        assert found.tokens == sum(int(batch["attention_mask"].sum()) for batch in batches())
        assert (found.sensitivity > 0).any()
    cut = output_sensitivity(model, find_targets(model), batches(), length=3)[name]
    assert cut.tokens == 3 * 12


def test_a_model_without_a_head_is_judged_by_the_mean_of_each_text():
    """By hand: the layer's outputs are the hidden states, so the gradient at a token is direction / length."""

    class Embedder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(10, 4)
            self.layer = nn.Linear(4, 4)

        def get_input_embeddings(self) -> nn.Module:
            return self.words

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.layer(self.words(input_ids)),)

    model = Embedder()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    batch = {"input_ids": torch.arange(8).view(2, 4), "attention_mask": mask}
    found = output_sensitivity(model, {"layer": model.layer}, [batch], seed=3)["layer"]
    directions = torch.randn((2, 4), generator=torch.Generator().manual_seed(3)).double()
    lengths = mask.sum(1, keepdim=True)
    torch.testing.assert_close(found.sensitivity, (directions.square() / lengths).sum(0), rtol=1e-5, atol=0)  # fp32
    assert found.tokens == 6


def test_few_rows_hold_every_real_token_once():
    ids = torch.arange(1, 31).view(5, 6)
    lengths = torch.tensor([2, 6, 0, 3, 1])
    mask = (torch.arange(6) < lengths[:, None]).long()
    for length, expected in ((6, [(1, 2), (1, 6), (2, 3)]), (100, [(4, 6)]), (2, [(1, 2), (1, 2), (1, 2), (1, 1)])):
        parts = list(few_rows_of({"input_ids": ids, "attention_mask": mask}, length))
        assert [tuple(part["input_ids"].shape) for part in parts] == expected
        assert all(part["input_ids"].numel() <= max(length, 24) for part in parts)
        seen = torch.cat([part["input_ids"][part["attention_mask"].bool()] for part in parts])
        kept = torch.arange(6) < length - 1
        kept = kept | (torch.arange(6) == (lengths[:, None] - 1).clamp(min=0)) | (lengths[:, None] <= length)
        assert torch.equal(seen, ids[(mask * kept).bool()])
    (part,) = few_rows_of({"input_ids": ids}, 100)
    assert torch.equal(part["input_ids"], ids)


def test_a_cut_text_keeps_its_last_token_on_either_side():
    """BART's classifier refuses rows without their end token."""
    ids = torch.tensor([[3, 4, 5, 6, 2, 1], [1, 1, 3, 4, 5, 2], [1, 1, 1, 1, 3, 2]])
    parts = list(few_rows_of({"input_ids": ids, "attention_mask": (ids != 1).long()}, 3))
    assert [part["input_ids"].tolist() for part in parts] == [[[3, 4, 2]], [[3, 4, 2]], [[3, 2]]]
    assert all(part["attention_mask"].all() for part in parts)


def test_later_batches_end_in_front_of_the_first_block_where_all_blocks_are_given_the_same():
    model = build_bert()
    calls = [0, 0]
    for place, block in enumerate(model.bert.encoder.layer[:2]):
        block.register_forward_hook(lambda *_, place=place: calls.__setitem__(place, calls[place] + 1))
    walk = BlockWalk(model, stack_of(model, find_targets(model)), batches())
    assert calls == [2, 1]  # once more by the check that blocks can be run alone
    with torch.no_grad():
        wanted = [model.bert(**{k: v for k, v in b.items() if k != "labels"}).last_hidden_state for b in batches()]
    for place in range(len(walk.blocks)):
        walk.step(place)
    for state, want in zip(walk.states.values(), wanted, strict=True):
        torch.testing.assert_close(state, want)


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


class Talking(nn.Module):
    """A model whose second block reads more than what the first one returns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = hidden_states + block(hidden_states)
        return hidden_states


def test_blocks_that_cannot_be_run_alone_are_visited_at_once():
    model, data = Talking(), [{"hidden_states": torch.randn(4, 8)}]
    layers = find_targets(model)
    with pytest.raises(LosparseError, match=r"cannot be run one by one .*; calibrate with sequential=False"):
        visitor(model, layers, data, {"gram"}, sequential=True)
    for sequential in (None, False):
        visit, in_order = visitor(model, layers, data, {"gram"}, sequential=sequential)
        assert not in_order
        (found,) = visit(sequential=in_order)
        assert {name: own.inputs.tokens for name, own in found.items()} == dict.fromkeys(layers, 4)


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
