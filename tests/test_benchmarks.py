"""What the benchmarks have in common beside the front: rows that are trained, and the form that is recorded of each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from losparse import SVD, LoSparse, StructuredPruning, compress_
from losparse.models.roles import place_of
from losparse.random_factors import random_factors_


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The modules of benchmarks/, by their names without the underscore."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
        import _finetune
        import _form

        yield SimpleNamespace(finetune=_finetune, form=_form)
        for module in [name for name, found in sys.modules.items() if _is_ours(found)]:
            del sys.modules[module]


def _is_ours(module: ModuleType) -> bool:
    return "/benchmarks/_" in (getattr(module, "__file__", None) or "")


def encoder() -> BertModel:
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    torch.manual_seed(0)
    return BertModel(BertConfig(**sizes, vocab_size=50), add_pooling_layer=False).eval()


NARROW = StructuredPruning(keep=0.4, structure="narrow")


def test_structures_are_compared_where_other_rows_are_not_trained(bench: Any) -> None:
    names = {(task, keep): set(bench.finetune.rows_of(task, keep)) for task in ("sst2", "banking77") for keep in
             bench.finetune.KEEPS[task]}  # fmt: skip
    four = {"losparse", "pruning", "narrow", "narrow without low rank"}
    assert all(four <= each for each in names.values())
    assert names["banking77", 0.3] == names["banking77", 0.1] == four < names["banking77", 0.2]
    assert not any(name.startswith("narrow") for name in bench.finetune.rows_of("cola", 0.2))


def test_rows_say_their_structure_whatever_is_the_default(bench: Any) -> None:
    rows = bench.finetune.rows(0.2)
    structures = {name: row.method.structure for name, row in rows.items() if isinstance(row.method, LoSparse)}
    narrow = {"narrow", "narrow without low rank"}
    assert {name for name, structure in structures.items() if structure == "narrow"} == narrow
    assert {structures[name] for name in structures.keys() - narrow} == {"foldable"}


@pytest.mark.parametrize("method", [NARROW, LoSparse(keep=0.4, structure="foldable"), SVD(keep=0.5)], ids=str)
def test_a_form_is_what_a_model_keeps_and_makes_one_that_keeps_the_same(bench: Any, method: Any) -> None:
    model = encoder()
    if isinstance(method, LoSparse):
        random_factors_(model, method)
    else:
        compress_(model, method)
    form = bench.form.form_of(model)
    again = encoder()
    bench.form.place_form_(again, form, method)
    assert bench.form.form_of(again) == form
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())
    assert torch.isfinite(again(torch.ones(1, 3, dtype=torch.int64)).last_hidden_state).all()


def test_a_narrow_form_says_heads_and_their_widths(bench: Any) -> None:
    model = encoder()
    random_factors_(model, NARROW)
    form = bench.form.form_of(model)
    assert len(form["attention"]) == 2
    for part, sizes in form["attention"].items():
        kept = {place_of(name).role: entry["kept"] for name, entry in form["layers"].items()
                if place_of(name).part == part}  # fmt: skip
        assert kept["query"] == kept["key"] == sizes["heads"] * sizes["dk"]
        assert kept["value"] == kept["writer"] == sizes["heads"] * sizes["dv"]


def test_the_low_rank_part_of_a_narrow_form_is_silent_about_heads_that_are_gone(bench: Any) -> None:
    method = LoSparse(keep=0.4, low_rank=0.1, structure="narrow")
    layers = {
        f"encoder.layer.0.attention.{name}": {"in": 64, "out": 64, "rank": 3, "kept": 16, "axis": axis, "bias": True}
        for name, axis in (("self.query", "out"), ("self.key", "out"), ("self.value", "out"), ("output.dense", "in"))
    }
    form = {"layers": layers, "attention": {"encoder.layer.0.attention": {"heads": 1, "dk": 16, "dv": 16}}}
    model = encoder()
    bench.form.place_form_(model, form, method)
    attention = model.encoder.layer[0].attention
    for layer in (attention.self.query, attention.self.key, attention.self.value):
        assert layer.kept.tolist() == list(range(16))
        assert bool(layer.u[:32].all()) and not bool(layer.u[32:].any())
    assert bool(attention.output.dense.v[:, :32].all()) and not bool(attention.output.dense.v[:, 32:].any())
