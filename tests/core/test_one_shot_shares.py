"""How methods without training share a budget among layers, and within one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from losparse import compress_
from losparse.calibration.statistics import LayerStatistics
from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.layers.linear import find_targets
from losparse.methods import ROM, SVD, OneShotLoSparse
from losparse.methods.one_shot.allocate import dense_size
from losparse.methods.one_shot.search import OutputError
from losparse_runtime.contract.progress import Phases

from .conftest import batches, build_bert, build_llama, outputs, sizes_of


def test_global_allocation_leaves_a_layer_dense_where_it_must():
    """A layer whose outputs are one direction needs rank 1; the budget goes to the others."""
    model = build_bert()
    flat = model.get_submodule("bert.encoder.layer.0.intermediate.dense")
    with torch.no_grad():
        flat.weight.copy_(torch.outer(torch.linspace(-1, 1, 64), torch.linspace(1, 2, 32)))
    compress_(model, SVD(keep=0.9, allocation="global"))
    sizes = {name: m for name, m in model.named_modules() if isinstance(m, FactoredLinear)}
    assert sizes["bert.encoder.layer.0.intermediate.dense"].rank == 1
    assert any((layer.rank, layer.kept_count) == dense_size(layer.out_features) for layer in sizes.values())


def test_last_k_leaves_the_first_blocks_dense():
    model = build_llama()
    report = compress_(model, ROM(keep=0.8, allocation="last-k"), batches())
    dense = {layer.name for layer in report.layers if layer.parameters == layer.dense_parameters}
    assert dense == {name for name in find_targets(build_llama()) if not name.startswith("model.layers.2.")}
    assert report.share <= 0.8


def test_ranks_are_multiples():
    model = build_bert()
    compress_(model, SVD(keep=0.6, multiple=4, pivots=False))
    assert {m.rank % 4 for m in model.modules() if isinstance(m, FactoredLinear)} == {0}


def test_shares_by_type():
    model = build_bert()
    compress_(model, SVD(keep=0.3, allocation="by-type", weights="*.value=2, *.key=0.5"))
    layers = sizes_of(model)
    share = {
        kind: layers[f"bert.encoder.layer.0.attention.self.{kind}"].parameter_count() / 32**2
        for kind in ("query", "key", "value")
    }
    # Ranks are whole numbers: one of them is 6 % of these layers.
    assert share["value"] == pytest.approx(2 * share["query"], abs=0.08)
    assert share["key"] == pytest.approx(0.5 * share["query"], abs=0.08)


def test_a_search_measures_what_comes_out():
    """A layer that adds next to nothing to the residual stream may be anything; the search sees that in the outputs."""
    model = build_bert()
    mute, loud = (f"bert.encoder.layer.1.{name}.dense" for name in ("attention.output", "output"))
    with torch.no_grad():
        model.get_submodule(mute).weight.mul_(1e-4)
    measure = OutputError(model, batches(), Phases())
    method = SVD(keep=0.4, allocation="search")
    found = {
        name: measure.candidates(method, name, model.get_submodule(name), LayerStatistics()) for name in (mute, loud)
    }
    for candidates in found.values():
        assert list(candidates.costs) == sorted(candidates.costs)
        assert candidates.errors[-1] == 0.0, "dense"
    assert found[mute].errors.max() < 1e-3 * found[loud].errors.max()
    assert torch.equal(outputs(model), outputs(measure.model))
    assert not sizes_of(model), "the dense layers are back"


def test_a_search_puts_dense_layers_back_when_it_fails():
    model = build_bert()

    def fail(module: nn.Module, arguments: object) -> None:
        if sizes_of(model):
            raise ZeroDivisionError("a candidate is run")

    hook = model.bert.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError, match="a candidate is run"):
        compress_(model, SVD(keep=0.4, allocation="search"), batches())
    hook.remove()
    assert not sizes_of(model)
    assert torch.equal(outputs(model), outputs(build_bert()))


def test_rows_of_a_given_share_are_hybrid_factorisation():
    model = build_bert()
    method = OneShotLoSparse(keep=0.5, allocation="uniform", row_share=0.5)
    report = compress_(model, method, batches())
    assert report.share <= 0.5
    for layer in sizes_of(model).values():
        rows = layer.kept_count * layer.in_features
        assert rows == pytest.approx(0.25 * layer.in_features * layer.out_features, abs=layer.in_features)


def test_kept_rows_are_those_that_lose_most():
    """Rows that nothing else resembles are kept; the others fit into a low rank."""
    model = build_bert()
    layer = model.get_submodule("bert.encoder.layer.0.intermediate.dense")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(64, 2, generator=generator) @ torch.randn(2, 32, generator=generator) * 0.05)
        layer.weight[[3, 17, 40]] = torch.randn(3, 32, generator=generator)
    dense = layer.weight.detach().clone()
    name = "bert.encoder.layer.0.intermediate.dense"
    method = OneShotLoSparse(keep=0.18, allocation="uniform", row_share=0.45, pivots=False)
    compress_(model, method, batches(), targets=[name])
    small = sizes_of(model)[name]
    assert {3, 17, 40} <= set(small.kept.tolist())
    torch.testing.assert_close(small.dense_weight(), dense, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allocation": "fair"}, "allocation must be one of uniform, .* got 'fair'"),
        ({"allocation": "by-type"}, "weights are for allocation='by-type', which needs them"),
        ({"weights": "*.q=1"}, "weights are for allocation='by-type'"),
        ({"allocation": "by-type", "weights": "*.q"}, r"weights must be PATTERN=NUMBER .* got '\*\.q'"),
        ({"allocation": "by-type", "weights": "*.q=-1"}, "numbers above 0"),
        ({"last": 2}, "last is for allocation='last-k'"),
        ({"multiple": 0}, "multiple must be a whole number of 1 or more, got 0"),
    ],
)
def test_refuses_options(options, message):
    with pytest.raises(LosparseError, match=message):
        SVD(keep=0.5, **options)


def test_refuses_weights_of_no_layer():
    with pytest.raises(LosparseError, match="weights pattern 'nothing' matches none of the 12 layers"):
        compress_(build_bert(), SVD(keep=0.5, allocation="by-type", weights="nothing=2"))
