"""Methods without training: what all of them promise, and hard input."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from losparse import compact_, compress_
from losparse.calibration.gradients import squared_gradients
from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.layers.linear import find_targets
from losparse.methods import METHODS, ROM, SVD, LoSparse, OneShot

from .conftest import batches, build_bert, build_llama, collate, outputs, toy_items

ONE_SHOT = [name for name, kind in METHODS.items() if issubclass(kind, OneShot)]


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        (LoSparse(), {"batches": [{}]}, "batches are for one-shot methods, and LoSparse looks at none: it is trained"),
        (LoSparse(), {"sequential": True}, "sequential=True is for methods that look at inputs, LoSparse does not"),
        (SVD(), {"sequential": False}, "sequential=False is for methods that look at inputs, SVD does not; leave it"),
    ],
)
def test_arguments_that_would_change_nothing_are_refused(method, arguments, message):
    model = build_bert()
    with pytest.raises(LosparseError, match=message):
        compress_(model, method, **arguments)
    assert not any(isinstance(module, FactoredLinear) for module in model.modules())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        pytest.param(options, name, id=f"{' '.join(map(str, options.values())) or 'default'}-{name}")
        for options in (
            {},
            {"pivots": False},
            {"allocation": "global"},
            {"allocation": "uniform-rank"},
            {"allocation": "by-type", "weights": "*.value=3 *.attention.output.dense=3"},
            {"allocation": "search"},
        )
        for name in ONE_SHOT
        if options.get("allocation", "uniform") in METHODS[name].allocations
    ],
)
def test_contract_the_budget_is_met_and_reported(name, options):
    model = build_bert()
    report = compress_(model, METHODS[name](keep=0.5, **options), batches())
    assert report.share <= 0.5 + 1e-9
    # Ranks are whole numbers and layers are tiny: what is left over is at most a rank a layer.
    # A search also stops where more parameters changed nothing that comes out.
    assert report.share >= (0.2 if options.get("allocation") == "search" else 0.4)
    stored = sum(
        parameter.numel()
        for module in model.modules()
        if isinstance(module, FactoredLinear)
        for key, parameter in module.named_parameters()
        if key != "bias"
    )
    assert stored == report.parameters
    assert torch.isfinite(outputs(model)).all()


@pytest.mark.parametrize("name", ONE_SHOT)
def test_contract_keeping_everything_changes_nothing(name):
    model, dense = build_bert(), build_bert()
    compress_(model, METHODS[name](keep=1.0), batches())
    torch.testing.assert_close(outputs(model), outputs(dense), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ONE_SHOT)
def test_contract_saved_and_opened_again(name, tmp_path):
    model = build_bert()
    compress_(model, METHODS[name](keep=0.5), batches())
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(outputs(again), outputs(model))


@pytest.mark.parametrize("name", ONE_SHOT)
def test_contract_the_same_twice(name):
    first, second = build_bert(), build_bert()
    for model in (first, second):
        compress_(model, METHODS[name](keep=0.4), batches())
    assert torch.equal(outputs(first), outputs(second))


@pytest.mark.parametrize("name", [name for name in ONE_SHOT if METHODS[name]().statistics])
def test_contract_needs_data(name):
    with pytest.raises(LosparseError, match="needs calibration data, got none"):
        compress_(build_bert(), METHODS[name](keep=0.5), [])


def test_plain_factors_to_train_and_pivots_at_the_end():
    model = build_bert()
    before = compress_(model, ROM(keep=0.5), batches(), to_train=True)
    assert not any(m.pivot_side for m in model.modules() if isinstance(m, FactoredLinear))
    trained = outputs(model)
    after = compact_(model, ROM(keep=0.5))
    assert after.share <= 0.5 < before.share
    torch.testing.assert_close(outputs(model), trained, rtol=1e-4, atol=1e-5)


def output_error(method: OneShot, name: str) -> float:
    """Return the mean squared change of one layer's outputs over the calibration tokens."""
    model, found = build_llama(), {}
    layer = model.get_submodule(name)

    def record(_module: nn.Module, _arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        found.setdefault("outputs", []).append(output)

    texts = [{key: value for key, value in batch.items() if key != "labels"} for batch in batches()]

    def run(target: nn.Module) -> torch.Tensor:
        found.clear()
        handle = target.register_forward_hook(record)
        with torch.no_grad():
            for batch in texts:
                model(**batch)
        handle.remove()
        masks = [batch["attention_mask"].bool() for batch in texts]
        return torch.cat([output[mask] for output, mask in zip(found["outputs"], masks, strict=True)])

    before = run(layer)
    compress_(model, method, batches(), targets=[name])
    return float((run(model.get_submodule(name)) - before).square().mean())


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj", "model.layers.2.self_attn.o_proj"])
def test_rom_loses_less_of_the_output_than_svd(name):
    errors = [output_error(kind(keep=0.4, pivots=False), name) for kind in (SVD, ROM)]
    assert errors[1] < errors[0]
    # The mean goes into the bias: at the same rank it can only help.
    assert errors[1] <= output_error(ROM(keep=0.4, pivots=False, mean=False), name) + 1e-9
    # And pivots buy a higher rank.
    assert output_error(ROM(keep=0.4), name) < errors[1]


def test_later_layers_see_compressed_ones():
    """Of two settings that differ in nothing else, the sequential one is fitted to what it will read."""
    models = {sequential: build_llama() for sequential in (False, True)}
    for sequential, model in models.items():
        compress_(model, ROM(keep=0.4), batches(), sequential=sequential)
    first = "model.layers.0.self_attn.q_proj"
    last = "model.layers.2.mlp.down_proj"
    same, other = ([model.get_submodule(name).dense_weight() for model in models.values()] for name in (first, last))
    torch.testing.assert_close(*same)
    assert not torch.allclose(*other, rtol=1e-2)


def test_nothing_is_replaced_when_a_layer_fails():
    model = build_bert()
    names = list(find_targets(model))
    calls = iter(range(100))

    class Failing(ROM):
        def factor(self, name, *arguments):
            if next(calls) == 7:
                raise LosparseError("the eighth layer fails")
            return super().factor(name, *arguments)

    with pytest.raises(LosparseError, match="eighth"):
        compress_(model, Failing(keep=0.5), batches())
    assert list(find_targets(model)) == names
    assert torch.equal(outputs(model), outputs(build_bert()))


@pytest.mark.parametrize("name", ONE_SHOT)
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_hard_scales(name, scale):
    model = build_bert()
    layer = model.get_submodule("bert.encoder.layer.0.intermediate.dense")
    with torch.no_grad():
        layer.weight.mul_(scale)
    dense = layer.weight.detach().double()
    compress_(model, METHODS[name](keep=0.9, pivots=False), batches())
    small = model.get_submodule("bert.encoder.layer.0.intermediate.dense").dense_weight().double()
    assert float((small - dense).norm() / dense.norm()) < 0.9


@pytest.mark.parametrize("name", ONE_SHOT)
@pytest.mark.parametrize("kind", ["zero layer", "dead inputs", "duplicated rows", "one token", "half precision"])
def test_hard_layers(name, kind):
    model = build_bert()
    layer = model.get_submodule("bert.encoder.layer.0.output.dense")
    data = batches()
    with torch.no_grad():
        if kind == "zero layer":
            layer.weight.zero_()
        if kind == "dead inputs":
            model.get_submodule("bert.encoder.layer.0.intermediate.dense").weight[:32] = 0
            model.get_submodule("bert.encoder.layer.0.intermediate.dense").bias[:32] = -10  # gelu: nothing comes out
        if kind == "duplicated rows":
            layer.weight[:] = layer.weight[0].clone()
    if kind == "one token":
        data = [{key: value[:1, :1] if value.dim() > 1 else value[:1] for key, value in data[0].items()}]
    if kind == "half precision":
        model = model.to(torch.float16)
    report = compress_(model, METHODS[name](keep=0.5), data)
    assert report.share <= 0.5
    assert torch.isfinite(outputs(model, data)).all()
    factored = [module for module in model.modules() if isinstance(module, FactoredLinear)]
    assert len(factored) == len(report.layers)
    assert {parameter.dtype for module in factored for parameter in module.parameters()} == {model.dtype}


def test_two_stacks_are_not_walked():
    model = nn.ModuleDict({"a": nn.ModuleList([nn.Linear(4, 4)]), "b": nn.ModuleList([nn.Linear(4, 4)])})
    with pytest.raises(LosparseError, match="not in one stack of blocks"):
        compress_(model, ROM(keep=0.5), [collate(toy_items(2))], sequential=True)


@pytest.mark.parametrize(
    ("allocation", "name"),
    [
        (allocation, name)
        for allocation in ("uniform", "global")
        for name in ONE_SHOT
        if allocation in METHODS[name].allocations
    ],
)
def test_contract_gpt2_whose_weights_are_stored_transposed(name, allocation):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=100, n_positions=16)).eval()
    data = [{"input_ids": ids, "labels": ids} for ids in torch.arange(64).reshape(2, 4, 8)]
    report = compress_(model, METHODS[name](keep=0.5, allocation=allocation), data)
    assert len(report.layers) == 12 and 0.4 <= report.share <= 0.5
    with torch.no_grad():
        assert torch.isfinite(model(**data[0]).logits).all()


def test_fisher_information_of_transposed_weights():
    """Of `Conv1D`, whose weight is (in, out), as of an ordinary layer of the same numbers."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=100, n_positions=16)).eval()
    name = "transformer.h.0.mlp.c_fc"
    ids = torch.arange(8)[None]
    batch = {"input_ids": ids, "labels": ids}
    found = squared_gradients(model, find_targets(model), [batch], "fast")[name]
    (gradient,) = torch.autograd.grad(model(**batch).loss, model.get_submodule(name).weight)  # (in, out)
    torch.testing.assert_close(found.fisher_in, gradient.double().square().sum(1))
    torch.testing.assert_close(found.fisher_out, gradient.double().square().sum(0))
