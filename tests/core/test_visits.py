"""Visiting a model's layers, at once or block after block: what is seen, in which order, and what is held."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from losparse import ROM
from losparse.calibration.observe import whole_pass
from losparse.calibration.visit import _AtOnce, visitor
from losparse.calibration.walk import BlockWalk
from losparse.errors import LosparseError
from losparse.layers.blocks import stack_of
from losparse.layers.linear import find_targets
from losparse.methods.one_shot.factorise import factorise_

from .conftest import batches, build_bert, build_llama


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


def test_memory_is_given_back_whatever_batches_are_chosen():
    released = []
    model = build_bert()
    stack = stack_of(model, find_targets(model))
    walk = BlockWalk(model, stack, batches(16), release=lambda: released.append(True))
    walk.restart(range(1, 16, 2))  # no number of these is a multiple of 8
    walk.step(0)
    assert len(released) == 1


def test_large_batches_are_looked_at_first():
    seen = []
    model = build_bert()

    def note(module: nn.Module, arguments: object, keywords: dict[str, torch.Tensor]) -> None:
        mask = keywords["attention_mask"]
        if len(mask) == 1:  # a batch, and not copies of one text, by which the layout is learnt
            seen.append(int(mask.sum()))

    model.bert.register_forward_pre_hook(note, with_kwargs=True)
    ids = torch.ones(1, 6, dtype=torch.int64)
    sized = [{"input_ids": ids, "attention_mask": (torch.arange(6) < real).long()[None]} for real in (2, 5, 3)]
    factorise_(model, ROM(keep=0.5), find_targets(model), sized)
    assert seen[:3] == [5, 3, 2]


def test_stages_are_in_the_order_of_calls():
    model = build_llama()
    layers = {name: m for name, m in find_targets(model).items() if name.startswith("model.layers.1.")}
    walk = BlockWalk(model, stack_of(model, layers), batches())
    stages = [[name.rpartition(".")[2] for name in names] for names in walk.stages(1, layers)]
    assert stages == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


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
