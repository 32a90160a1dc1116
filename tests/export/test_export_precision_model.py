"""Precisions of whole models: the gate, what the folder says, texts to calibrate with and to measure accuracy on."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from losparse.errors import LosparseError
from losparse.pipeline.job import CompressionJob
from losparse.pipeline.texts import read_calibration as read_calibration_texts
from losparse.training.recipe import Recipe
from losparse_export import PRECISION_TABLE, ParityError, TextFile, export_model
from losparse_export.accuracy.texts import CALIBRATION_TEXTS, read_calibration
from losparse_export.folder.model import fingerprint
from losparse_export.precision.base import Conversion
from losparse_export.precision.table import check_overflow, coarser_precision, judge_of
from losparse_runtime import Parity, Session, read_metadata, verify_files
from losparse_runtime.contract.progress import Advance
from losparse_runtime.contract.task import TASKS
from losparse_runtime.engine.cpus import int8_overflows

from .builders import build_model

PRECISIONS = [name for name in PRECISION_TABLE if name != "fp32"]


def calibration() -> list[dict[str, np.ndarray]]:
    ids = np.random.default_rng(0).integers(1, 100, (8, 20))
    return [{"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}]


def options(precision: str) -> dict[str, Any]:
    return {"precision": precision, "calibration": calibration() if precision == "int8-static" else None}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_export(export_bert, tmp_path, precision):
    if precision == "int4-weights":  # 4 bits are too few for products of 32 features that are factored as well
        dense = build_model("bert", seed=1, factored=False)
        report = export_model(dense, tmp_path / "out", precision=precision)
    else:
        report = export_bert(tmp_path / "out", **options(precision))
    metadata = json.loads((report.folder / "losparse.json").read_text())
    assert metadata == report.metadata and metadata["precision"] == precision
    verify_files(report.folder)
    assert read_metadata(report.folder).precision == precision
    judge, parity = PRECISION_TABLE[precision], metadata["parity"]
    assert 1e-4 < parity["max_abs"] <= parity["tolerance"]  # more than fp32 may have
    assert judge.cosine <= parity["cosine"] < 1 and parity["top1_agreement"] <= 1
    # Of 26 rows of random tokens, which the model is unsure of: 4 bits turn three, other precisions two at most.
    assert parity["top1_agreement"] > (0.88 if precision == "int4-weights" else 0.9)
    assert len(parity["cases"]) == 13 and report.parity.cosine == parity["cosine"]
    model = ir.load(report.folder / "model.onnx")
    assert model.metadata_props["losparse.fingerprint"] == metadata["fingerprint"] == fingerprint(model)
    assert (model.graph.opset_imports[""], model.ir_version) == (23, 11)
    assert "Gather" in Counter(node.op_type for node in model.graph)


@pytest.mark.skipif(int8_overflows(), reason="weights of 8 bits overflow here, so the export is refused")
def test_weights_of_eight_bits_are_said_in_the_folder(export_bert, tmp_path):
    reports = {bits: export_bert(tmp_path / str(bits), precision="int8", weight_bits=bits) for bits in (7, 8)}
    for bits, form in ((7, 1), (8, 2)):  # a reader of format 1 would not know where it must refuse them
        metadata = read_metadata(reports[bits].folder)
        assert (metadata.weight_bits, metadata.format, metadata.precision) == (bits, form, "int8")
    assert reports[8].parity.cosine > reports[7].parity.cosine
    Session(reports[8].folder)


def test_weights_of_eight_bits_are_refused_where_they_cannot_be_compared(export_bert, tmp_path):
    message = r"weight_bits=8 is for CPUs with VNNI, and this one has none, .* or with weight_bits=7 \(--weight-bits\)$"
    with pytest.raises(LosparseError, match=message):
        check_overflow(8, overflows=lambda: True)
    check_overflow(8, overflows=lambda: False)
    check_overflow(7, overflows=lambda: True)
    with pytest.raises(LosparseError, match=message) if int8_overflows() else nullcontext():
        export_bert(tmp_path / "eight", precision="int8", weight_bits=8)
    assert bool(list(tmp_path.iterdir())) != int8_overflows(), "what is refused leaves nothing"
    assert export_bert(tmp_path / "out", precision="int8").metadata["weight_bits"] == 7


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_two_exports_are_equal_byte_for_byte(export_bert, tmp_path, precision):
    reports = [export_bert(tmp_path / name, **options(precision)) for name in ("a", "b")]
    for name in ("model.onnx", "losparse.json"):
        first, second = ((report.folder / name).read_bytes() for report in reports)
        assert first == second, name
    assert reports[0].metadata["fingerprint"] != export_bert(tmp_path / "c").metadata["fingerprint"]


def test_no_weights_of_the_fp32_graph_stay_beside_it(export_bert, tmp_path):
    sizes = export_bert(tmp_path / "fp32", external_from=1000).bytes
    between = sizes["model.onnx.data"] - 8000
    report = export_bert(tmp_path / "out", precision="int8-weights", external_from=between)
    assert set(report.bytes) == {"model.onnx"}
    assert sorted(os.listdir(report.folder)) == ["config.json", "losparse.json", "model.onnx", "plan.json"]


def test_external_weights(export_bert, tmp_path):
    inline = export_bert(tmp_path / "a", precision="int8")
    external = export_bert(tmp_path / "b", precision="int8", external_from=1000)
    assert set(external.bytes) == {"model.onnx", "model.onnx.data"}
    feeds = calibration()[0]
    results = [Session(report.folder, threads=1).run(feeds)["logits"] for report in (inline, external)]
    assert np.array_equal(*results)


def tamper(monkeypatch: pytest.MonkeyPatch, precision: str, ending: str, change: float) -> None:
    """Put a precision in the table that multiplies stored numbers, whose name ends like this, after the conversion."""
    convert = PRECISION_TABLE[precision].convert

    def wrong(graph: ir.Model, conversion: Conversion) -> ir.Model:
        model = convert(graph, conversion)
        names = [name for name in model.graph.initializers if name.endswith(ending)]
        assert names
        for name in names:
            value = model.graph.initializers[name]
            array = value.const_value.numpy()
            value.const_value = ir.tensor((array * array.dtype.type(change)).astype(array.dtype), name=name)
        return model

    monkeypatch.setitem(PRECISION_TABLE, precision, replace(PRECISION_TABLE[precision], convert=wrong))


# Numbers that are not finite; no products at all, and a share of them, which leave every output finite.
DAMAGE = [
    (
        "int8",
        "layer.1.attention.self.query.weight_t.shared_scale",
        float("nan"),
        r"NaN or infinity in 'logits' .* \(allowed ",
    ),
    ("fp16", "bert.encoder.layer.0.output.dense.weight_t", float("nan"), r"NaN or infinity in 'logits' .* \(allowed "),
    ("int8", "shared_scale", 0.0, r"\d\.\d\de[+-]\d+ in 'logits' .* \(allowed \d\.\de[+-]\d+\)"),
    ("int8-weights", "_scales", 1.3, r"\d\.\d\de[+-]\d+ in 'logits' .* \(allowed \d\.\de[+-]\d+\)"),
]


@pytest.mark.parametrize(("precision", "ending", "change", "message"), DAMAGE)
def test_damage_is_found_and_leaves_nothing(export_bert, tmp_path, monkeypatch, precision, ending, change, message):
    tamper(monkeypatch, precision, ending, change)
    with pytest.raises(ParityError, match=f"differs from PyTorch: {message}") as caught:
        export_bert(tmp_path / "out", precision=precision)
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []


def test_nan_is_located(export_bert, tmp_path, monkeypatch):
    tamper(monkeypatch, "int8", "layer.1.attention.self.query.weight_t.shared_scale", float("nan"))
    with pytest.raises(ParityError) as caught:
        export_bert(tmp_path / "out", precision="int8")
    # Query, key and value share a product, which is none of theirs alone: the next layer is the first to be compared.
    assert caught.value.layer == "bert.encoder.layer.1.attention.output.dense"


def test_an_error_in_the_graph_is_found_in_fp32(export_bert, tmp_path):
    """Another model's weights: int8 would explain much of a difference, so the fp32 graph is compared first."""
    with pytest.raises(ParityError, match=r"\(allowed \d\.\de-0[45]\); the first layer that differs is"):
        export_bert(tmp_path / "out", build_model("bert", seed=2), precision="int8")


class Compared:
    """A progress that counts the cases that are compared with PyTorch, in all comparisons of an export."""

    def __init__(self) -> None:
        self.cases, self._comparing = 0, False

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        yield self.advance

    def advance(
        self, done: int, /, *, total: int | None = None, title: str | None = None, note: str | None = None
    ) -> None:
        if title is not None:
            self._comparing = title.endswith("comparing with PyTorch")
        self.cases += max(done, 0) * self._comparing


def test_fp32_is_compared_once(export_bert, tmp_path):
    plain, converted = Compared(), Compared()
    first = export_bert(tmp_path / "a", progress=plain)
    second = export_bert(tmp_path / "b", precision="int8", progress=converted)
    assert plain.cases == len(first.parity.cases)
    assert converted.cases == len(first.parity.cases) + len(second.parity.cases)


# The verdict, on numbers made by hand


def make_parity(**changes: Any) -> Parity:
    perfect = {
        "max_abs": 0.0,
        "max_rel": 0.0,
        "cosine": 1.0,
        "centred_cosine": 1.0,
        "top1_agreement": 1.0,
        "flip_margin": 0.0,
        "finite": True,
        "rows": 4,
        "worst_output": "logits",
        "worst_index": (0, 0),
        "worst_batch": 0,
    }
    return Parity(**{**perfect, **changes})


def test_fp32_looks_at_the_difference_alone():
    judge = PRECISION_TABLE["fp32"]
    far = make_parity(max_abs=1e-5, centred_cosine=-1.0, flip_margin=1.0)
    assert judge.failure(far, 1e-5, classifies=True) is None
    assert judge.failure(make_parity(max_abs=1.1e-5), 1e-5, classifies=True) == ("1.10e-05", "1.0e-05")


def test_int8_looks_at_cosine_and_classes_too():
    judge = PRECISION_TABLE["int8"]
    assert judge.failure(make_parity(max_abs=1.0, centred_cosine=0.92), 1.0, classifies=True) is None
    low = judge.failure(make_parity(centred_cosine=0.9199), 1.0, classifies=True)
    assert low == ("a cosine of 0.9199", "0.92 or more")
    # A row that PyTorch prefers by no more than a number may be off is not decided.
    flip = make_parity(max_abs=1.0, flip_margin=1.0, top1_agreement=0.5)
    assert judge.failure(flip, 1.0, classifies=True) is None
    clear = make_parity(max_abs=1.0, flip_margin=1.5)
    failed = ("another class than one that leads by 1.50e+00", "1.0e+00")
    assert judge.failure(clear, 1.0, classifies=True) == failed
    assert judge.failure(clear, 1.0, classifies=False) is None  # the largest entry of a vector says nothing


def test_nan_fails_in_every_precision():
    for judge in PRECISION_TABLE.values():
        found, _ = judge.failure(make_parity(finite=False), 1e9, classifies=False)
        assert found == "NaN or infinity"


def test_the_coarser_of_two_precisions():
    assert coarser_precision("fp32", "int8").name == coarser_precision("int8", "fp32").name == "int8"
    assert coarser_precision("int8-weights", "int4-weights").name == "int4-weights"
    assert coarser_precision("of the future").name == "fp32"
    # Where tables alone are rounded the bounds are their own; beside int8 products they are those of the products.
    tables = "fp32 with int8 embeddings"
    assert judge_of(tables).name == coarser_precision("fp32", tables).name == tables
    assert judge_of("int8 with int8 embeddings") is PRECISION_TABLE["int8"]
    assert coarser_precision(tables, "int8 with int8 embeddings").name == "int8"


# Texts


def write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def test_texts_to_calibrate_with(tmp_path):
    lines = write(tmp_path / "texts.txt", "\n".join(f"text {i}" for i in range(200)) + "\n\n")
    assert read_calibration(lines, "text-classification") == [f"text {i}" for i in range(CALIBRATION_TEXTS)]
    pairs = write(tmp_path / "pairs.csv", "question,context\nwho,me\n")
    assert read_calibration(str(pairs), "question-answering") == [("who", "me")]
    columns = TextFile(pairs, text_column="context")
    assert read_calibration(columns, "text-classification") == ["me"]
    assert read_calibration(["a", "b"], "text-classification") == ["a", "b"]
    assert len(read_calibration(calibration() * 300, "text-classification")) == 300


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "calibration must be texts, pairs of texts or inputs of runs, all of one kind, got nothing"),
        (
            ["a", ("b", "c")],
            "calibration must be texts, pairs of texts or inputs of runs, all of one kind, got str, tuple",
        ),
        ([1], "calibration must be texts, pairs of texts or inputs of runs, all of one kind, got int"),
    ],
)
def test_calibration_of_the_wrong_kind(given, message):
    with pytest.raises(LosparseError, match=f"^{re.escape(message)}$"):
        read_calibration(given, "text-classification")


def test_text_files_that_cannot_be_read(tmp_path):
    with pytest.raises(LosparseError, match=r"no data file '.*none\.txt'; give a "):
        TextFile(tmp_path / "none.txt").texts("text-classification")
    with pytest.raises(LosparseError, match=r"empty\.txt is empty; it needs at least one text"):
        TextFile(write(tmp_path / "empty.txt", "\n \n")).texts("text-classification")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(LosparseError, match=r"latin\.txt, line 1: byte 0xe9 is not utf-8"):
        TextFile(tmp_path / "latin.txt").texts("text-classification")


@pytest.mark.parametrize("content", ["one two\nthree\n", "one two\n\nthree\n", " one\n", "one\n\ntwo\nthree\n"])
def test_a_txt_means_the_same_to_export_and_to_compress(tmp_path, content):
    file = write(tmp_path / "texts.txt", content)
    job = CompressionJob("model", tmp_path / "out", Recipe(), calibration=file)
    found = []
    for read in (
        lambda: TextFile(file).texts("text-classification"),
        lambda: read_calibration_texts(job, TASKS["text-classification"]).texts,
        lambda: read_calibration_texts(job, TASKS["causal-lm"]).texts,
    ):
        try:
            found.append(read())
        except LosparseError as error:
            found.append(str(error))
    assert found[0] == found[1] == found[2]


def test_texts_need_a_tokenizer(export_bert, tmp_path):
    """A model in memory brings none; inputs of runs need none."""
    with pytest.raises(LosparseError, match="texts need a tokenizer, and the model brings none; export from a folder"):
        export_bert(tmp_path / "out", precision="int8-static", calibration=["a text"])
    assert os.listdir(tmp_path) == []


def test_accuracy_is_for_tasks_with_labels(tmp_path):
    def not_traced(*_: Any, **__: Any) -> None:
        raise AssertionError("refused before the trace")

    data = write(tmp_path / "data.csv", "text,label\nfine,good\n")
    measured = ", ".join(each.name for each in TASKS.values() if each.labels != "none")
    for model, message in (
        (build_model("mpnet"), f"accuracy is measured for {measured}; this model does feature-extraction; leave data="),
        (
            build_model("bert", num_labels=3, problem_type="regression"),
            "accuracy of regression is measured for models of one number, this one gives 3; leave data=",
        ),
    ):
        with pytest.raises(LosparseError, match=re.escape(message)):
            export_model(model, tmp_path / "out", data=data, tracer=not_traced)
    with pytest.raises(LosparseError, match="label 'good' was not seen in training; its labels are LABEL_0, LABEL_1"):
        export_model(build_model("bert"), tmp_path / "out", data=data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision must be one of fp32"),
        ({"precision": "int8-static"}, "needs texts to measure its scales on"),
        ({"calibration": ["a"]}, "calibration is for precision 'int8-static', got it with 'fp32'"),
    ],
)
def test_refused_before_any_work(tmp_path, options, message):
    with pytest.raises(LosparseError, match=message):
        export_model(tmp_path / "there is no such model", tmp_path / "out", **options)
