"""Heads of any number of classes: each logit is a decision of its own, in statistics and in what a search measures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import BertForTokenClassification

from losparse.calibration.gradients import examples_of, output_sensitivity
from losparse.calibration.heads import decides_each_class, yes_or_no
from losparse.calibration.running import hooked
from losparse.layers.linear import find_targets
from losparse.methods.one_shot.search import OutputError
from losparse_runtime.contract.progress import Phases

from .conftest import batches, build_bert

MULTI = "multi_label_classification"


def inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values for name, values in batch.items() if name != "labels"}


def test_which_heads_decide_each_class() -> None:
    model = build_bert(problem_type=MULTI)
    assert decides_each_class(model) and not decides_each_class(build_bert())
    assert not decides_each_class(model.bert), "a model without a head"
    assert not decides_each_class(BertForTokenClassification(model.config)), "whose classes exclude each other"
    logits = torch.tensor([[0.5, -2.0]])
    torch.testing.assert_close(yes_or_no(logits).softmax(-1)[..., 0], torch.sigmoid(logits))


def test_sensitivity_is_that_of_each_decision() -> None:
    """The expectation over the four answers of two classes that apply or not, each by itself."""
    model = build_bert(problem_type=MULTI)
    with torch.no_grad():
        model.classifier.bias.fill_(3.0)  # both classes nearly always apply, so there is little to be in doubt about
    name, data = "bert.encoder.layer.1.intermediate.dense", batches(1)
    expected = torch.zeros(64, dtype=torch.float64)
    for row in examples_of(data[0]):
        for answer in torch.cartesian_prod(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])):
            found: list[torch.Tensor] = []
            keep = model.get_submodule(name).register_forward_hook(lambda _m, _a, output, to=found: to.append(output))
            with hooked([keep]):
                logits = model(**inputs(row)).logits[0]
            likelihood = -F.binary_cross_entropy_with_logits(logits, answer, reduction="sum")
            (gradient,) = torch.autograd.grad(likelihood, found)
            expected += float(likelihood.detach().exp()) * gradient.double().square().sum((0, 1))
    draws = [output_sensitivity(model, find_targets(model), data, seed=seed)[name].sensitivity for seed in range(60)]
    # 60 draws of 4 texts: rare answers make a standard error of a tenth. One class of two in place of two decisions
    # would be off by a factor of five: it is as much in doubt as it can be.
    assert float((torch.stack(draws).mean(0) / expected).mean()) == pytest.approx(1.0, abs=0.4)


def test_a_search_measures_each_decision() -> None:
    model = build_bert(problem_type=MULTI)
    measure = OutputError(model, batches(), Phases())
    with torch.no_grad():
        before = [torch.sigmoid(model(**inputs(batch)).logits) for batch in batches()]
        model.classifier.bias += 0.5
        after = [torch.sigmoid(model(**inputs(batch)).logits) for batch in batches()]
    kl = [(p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean() for p, q in zip(before, after, strict=True)]
    assert measure._error() == pytest.approx(float(sum(kl)) / len(kl), rel=1e-4)  # fp32 by hand
