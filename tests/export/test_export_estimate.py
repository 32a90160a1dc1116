"""What compression would bring, measured before any training, on a model small enough for a test."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import BertConfig

from losparse import LoSparse
from losparse.errors import LosparseError
from losparse_export import Call, Estimate, estimate_model
from losparse_export.verdict import OPENVINO, Row, verdict
from tests.openvino import use_stand_in

CONFIG = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=100)


METHOD = LoSparse(keep=0.4, low_rank=0.1, structure="foldable", multiple=4)


@pytest.fixture(scope="module")
def found() -> Estimate:
    return estimate_model(CONFIG, METHOD, call=Call(1, 8), seconds=0.05, opponents=False)


def test_rows(found):
    forms = [(row.form, row.precision) for row in found.rows]
    assert forms[:4] == [("dense", "fp32"), ("dense", "int8"), ("factored", "fp32"), ("factored", "int8")]
    assert [row.asked for row in found.rows] == [False, False, True, True] + [False] * (len(forms) - 4)
    # Shares 0, 0.1, 0.25 and 0.5 of keep 0.4; a quarter is what was asked for.
    assert sorted(row.low_rank for row in found.rows[4:]) == pytest.approx([0.0, 0.04, 0.2])
    assert all(0 < row.min_ms <= row.median_ms for row in found.rows)


def test_how_much_of_the_model_was_looked_at(found):
    blocks, pooler = 2 * (4 * 64 * 64 + 2 * 64 * 128), 64 * 64
    assert (found.looked_at.looked_at, found.looked_at.linear) == (blocks, blocks + pooler)
    assert found.to_dict()["looked_at"]["share"] == blocks / (blocks + pooler)


def test_sizes_are_those_of_the_plan(found):
    dense, factored = found.rows[0], found.rows[2]
    assert dense.layer_parameters == 2 * (4 * 64 * 64 + 2 * 64 * 128) and dense.keep == 1.0
    # The budget is spent to within a step: 4 inner neurons of a feed-forward pair cost 512 parameters.
    assert 0.4 - 1024 / dense.layer_parameters < factored.keep <= 0.4
    assert dense.file_bytes > 4 * dense.layer_parameters  # nothing is left out of the dense one
    assert dense.model_parameters - factored.model_parameters == dense.layer_parameters - factored.layer_parameters
    # Layers this small are exported dense, so the files are as large as the dense one, within graph and names.
    assert factored.file_bytes == pytest.approx(dense.file_bytes, rel=0.01)


def test_time_by_kind_of_layer(found):
    assert {"encoder.layer.*.attention.self.*", "encoder.layer.*.output.dense", "everything else"} <= set(found.kinds)
    assert all(times["dense"] > 0 for times in found.kinds.values() if "dense" in times)


def test_to_dict_is_json_values(found):
    data = found.to_dict()
    assert data["call"] == {"batch": 1, "length": 8, "past": 0, "threads": 1} and data["verdict"] == found.verdict


def row(form: str, precision: str, ms: float, *, asked: bool = False, low_rank: float = 0.05) -> Row:
    return Row(form, precision, 0.2, low_rank, 1, 1, 1, ms, ms, 30.0 / ms, 29.0 / ms, 31.0 / ms, False, asked)


DENSE = (row("dense", "fp32", 30.0), row("dense", "int8", 10.0))


def test_verdict_not_worth_it():
    worth, text = verdict([*DENSE, row("factored", "int8", 11.0, asked=True)], Call())
    assert not worth
    assert text == (
        "Not worth it for speed at 1 x 128 tokens and 1 thread: the fastest factored variant (int8) is 0.91 times "
        "(0.85 to 0.97) as fast as dense int8; export the dense model with --precision int8 instead."
    )


def test_verdict_worth_it_and_a_better_split():
    asked, other = row("factored", "int8", 5.0, asked=True), row("factored", "int8", 4.0, low_rank=0.02)
    worth, text = verdict([*DENSE, asked, other], Call(2, 64, threads=4))
    assert worth and "what was asked for (int8) is 2.00 times (1.87 to 2.14) as fast as dense int8" in text
    assert "4 threads" in text
    assert "Faster at the same size: --low-rank 0.02 (int8), 2.50 times (2.34 to 2.67) as fast as dense int8" in text
    assert "--method pruning" in verdict([*DENSE, asked, replace(other, low_rank=0.0)], Call())[1]
    close = replace(other, speedup_low=asked.speedup_high - 0.1)
    assert "Faster" not in verdict([*DENSE, asked, close], Call())[1]


def test_the_verdict_compares_within_the_precisions_that_were_measured():
    """Factored fp32 beats dense fp32; dense int8 is no match for it as long as factored int8 was not measured."""
    worth, text = verdict([*DENSE, row("factored", "fp32", 9.5, asked=True)], Call())
    assert worth and "what was asked for (fp32) is 3.16 times (2.95 to 3.38) as fast as dense fp32" in text
    assert text.endswith(
        "Factored int8 was not measured, and dense int8 is 3.00 times (2.81 to 3.21) as fast as dense fp32; leave out "
        "--precision to compare it."
    )
    assert "not measured" not in verdict([*DENSE, row("factored", "int8", 5.0, asked=True)], Call())[1]


def test_verdict_worth_it_with_another_split_alone():
    asked, other = row("factored", "int8", 10.5, asked=True), row("factored", "int8", 5.0, low_rank=0.02)
    worth, text = verdict([*DENSE, asked, other], Call())
    assert worth and text == (
        "Worth it at 1 x 128 tokens and 1 thread with --low-rank 0.02: 2.00 times (1.87 to 2.14) as fast as dense "
        "int8; what was asked for: 0.95 times (0.89 to 1.02) as fast as dense int8."
    )


@pytest.mark.parametrize(("low", "high", "begin"), [(2.4, 4.2, "Too close to tell"), (2.9, 3.1, "Not worth it")])
def test_the_verdict_where_intervals_overlap(low, high, begin):
    """Too close where the interval holds both no gain and a worthwhile one; not worth it where it holds no such."""
    asked = replace(row("factored", "int8", 9.5, asked=True), speedup=3.05, speedup_low=low, speedup_high=high)
    dense = replace(DENSE[1], speedup=3.0, speedup_low=2.95, speedup_high=3.05)
    worth, text = verdict([DENSE[0], dense, asked], Call())
    assert not worth and text.startswith(begin)


def test_the_verdict_is_that_of_runs_side_by_side():
    """Medians of a disturbed machine, as were seen: 13.8 and 2.5 ms, while the rounds said 4.17."""
    dense = replace(row("dense", "fp32", 13.8), speedup=1.0, speedup_low=1.0, speedup_high=1.0)
    asked = row("factored", "fp32", 2.5, asked=True)
    asked = replace(asked, speedup=4.17, speedup_low=4.1, speedup_high=4.2)
    worth, text = verdict([dense, asked], Call())
    assert worth and "what was asked for (fp32) is 4.17 times (4.10 to 4.20) as fast as dense fp32" in text
    assert "13.8" not in text and "ms" not in text


def test_refuses_precisions_it_cannot_measure():
    with pytest.raises(LosparseError, match="precision must be one of fp32, int8 for an estimate, got 'fp16'"):
        estimate_model(CONFIG, LoSparse(), precisions=["fp16"])


def test_refuses_a_past_that_no_run_would_have():
    with pytest.raises(LosparseError, match=r"^past of calls= is for models that keep .*, got 3; leave it out$"):
        estimate_model(CONFIG, LoSparse(), call=Call(past=3))


def test_the_configuration_is_left_as_it_was(found):
    assert not hasattr(CONFIG, "quantization_config")


def test_what_others_make_of_the_dense_model_is_timed_beside_it(tmp_path, monkeypatch, caplog):
    use_stand_in(tmp_path, monkeypatch)
    found = estimate_model(CONFIG, LoSparse(keep=0.4), call=Call(1, 8), seconds=0.05, grid=False)
    assert [row.name for row in found.rows] == [
        "dense fp32",
        "dense int8",
        "factored fp32",
        "factored int8",
        "dense fp32 by onnxruntime's defaults",
        "dense int8 by onnxruntime's defaults",
        "dense fp32 in OpenVINO",
        "dense int8 in OpenVINO",
    ]
    others = found.rows[4:]
    assert {row.layer_parameters for row in others} == {found.rows[0].layer_parameters}
    assert [row.file_bytes is None for row in others] == [False, False, True, True]
    assert not [record for record in caplog.records if record.name.startswith("losparse")], "none was left out"


def test_an_opponent_that_fails_is_left_out_with_a_line(tmp_path, monkeypatch, caplog):
    use_stand_in(tmp_path, monkeypatch)
    (tmp_path / "packages" / "nncf.py").write_text("raise ValueError('broken')")
    found = estimate_model(CONFIG, LoSparse(keep=0.4), call=Call(1, 8), seconds=0.05, grid=False)
    assert found.rows[-1].name == "dense fp32 in OpenVINO"
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("losparse_export")]
    assert said.startswith("not timed: dense int8 in OpenVINO: ") and "broken" in said


def test_the_verdict_names_the_best_dense_model_of_any_runtime():
    openvino = replace(row("dense", "int8", 8.0), runtime=OPENVINO, file_bytes=None)
    mine = replace(row("factored", "int8", 9.0, asked=True), file_bytes=1)
    dense = replace(DENSE[1], file_bytes=4)
    worth, text = verdict([DENSE[0], dense, mine, openvino], Call())
    assert not worth and text == (
        "Not worth it for speed at 1 x 128 tokens and 1 thread: the fastest factored variant (int8) is 0.89 times "
        "(0.83 to 0.95) as fast as dense int8 in OpenVINO; run the dense model in OpenVINO (int8) instead. The "
        "compressed file is 4.0 times smaller."
    )
    worth, text = verdict(
        [DENSE[0], dense, replace(mine, speedup=10.0, speedup_low=9.9, speedup_high=10.1), openvino], Call()
    )
    assert worth and text.endswith("as fast as dense int8 in OpenVINO.")
