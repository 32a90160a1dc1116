"""Squared gradients and the sensitivity of outputs, against those computed the slow way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from losparse.calibration.gradients import examples_of, few_rows_of, output_sensitivity, squared_gradients
from losparse.layers.linear import find_targets

from .conftest import batches, build_bert, build_llama


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
