"""What the benchmarks have in common beside the front: rows, forms, kinds of machines, and what tables compare with."""

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
        import _results
        import _table
        import _tables_encoders as encoders

        yield SimpleNamespace(finetune=_finetune, form=_form, results=_results, table=_table, encoders=encoders)
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


def entry(**speedups: float) -> dict[str, Any]:
    """Results of one shape at one call, by variant; milliseconds of a model whose dense form takes 12."""
    rows = [
        {"batch": 1, "length": 128, "variant": name.replace("_", "-"), "speedup": speedup, "median_ms": 12 / speedup}
        for name, speedup in speedups.items()
    ]
    versions = {"onnxruntime": "1.31.1", "openvino": "2026.4.1", "nncf": "3.4.0"}
    return {"machine": "Xeon (AVX2, AMX)", "threads": 2, "versions": versions, "rows": rows, "profiles": {}}


AMX = {
    "dense_fp32_default": 1.0, "dense_int8_default": 3.0, "dense_int8_tuned": 5.0, "openvino_int8": 6.0,
    "narrow_fp32": 4.5, "narrow_int8": 12.0, "foldable_fp32": 4.0, "foldable_int8": 8.0,
}  # fmt: skip


def test_the_best_free_alternative_is_the_fastest_that_compresses_nothing(bench: Any) -> None:
    variants = bench.encoders.speeds(entry(**AMX))[1, 128]
    assert bench.encoders.best_free(variants) == "openvino-int8"
    assert bench.encoders.best_free({name: variants[name] for name in ("dense-fp32-default", "narrow-int8")}) == (
        "dense-fp32-default"
    )


def test_losparse_is_its_default_structure_where_that_was_measured(bench: Any) -> None:
    variants = bench.encoders.speeds(entry(**AMX))[1, 128]
    assert bench.encoders.ours_of(variants, "narrow") == "narrow"
    assert bench.encoders.ours_of({"dense-int8-tuned", "foldable-fp32", "foldable-int8"}, "narrow") == "foldable"


def test_a_table_says_the_machine_its_threads_and_versions_and_both_factors(bench: Any) -> None:
    run = entry(**AMX)
    assert bench.encoders.circumstances(run) == (
        "Xeon (AVX2, AMX), 2 threads, onnxruntime 1.31.1, openvino 2026.4.1, nncf 3.4.0"
    )
    line = bench.encoders.encoder_table({"12x768": run}, ours=True).splitlines()[-1]
    assert line.startswith("| 12x768, 1 x 128 | 2.7 ms, 4.50x, 0.75x | 1.0 ms, 12.00x, 2.00x |")
    dense = bench.encoders.encoder_table({"12x768": run}, ours=False)
    assert "openvino-int8" in dense and "narrow" not in dense


def test_machines_are_told_apart_by_the_best_of_their_instructions(bench: Any) -> None:
    kinds = {
        "amx": "Xeon(R) @ 2.1GHz (AVX2, AVX-512, VNNI, AMX)",
        "vnni": "AMD EPYC (AVX2, AVX-512, VNNI)",
        "avx2": "AMD EPYC (AVX2)",
        "neon": "Neoverse (NEON, dot products)",
        "other": "AMXcore VNNI",
    }
    assert {kind: bench.results.kind_of(name) for kind, name in kinds.items()} == {kind: kind for kind in kinds}


def test_results_are_of_machines_of_their_kind(bench: Any) -> None:
    for file in ("encoder_latency.json", "front.json", "front_cola.json"):
        for kind, found in bench.table.load(file)["kinds"].items():
            runs = found.values() if file == "encoder_latency.json" else [found]
            assert {bench.results.kind_of(run["machine"]) for run in runs} == {kind}
