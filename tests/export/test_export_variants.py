"""Several forms of a model in one folder: each proven by itself, equal weights stored once, some of them dropped."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from losparse.errors import LosparseError
from losparse.saving.contents import inspect_folder
from losparse.saving.parts import onnx_parts
from losparse_export import ExportSettings, ParityError, check_folder, export_variants, keep_variants
from losparse_export import variants as module
from losparse_export.folder.join import join_folders
from losparse_export.folder.model import fingerprint
from losparse_export.precision.table import PRECISION_TABLE, NotComparableError
from losparse_runtime import Session, read_metadata, verify_files
from losparse_runtime.contract.files import read_folder, record_files, write_metadata
from losparse_runtime.engine.cpus import int8_overflows
from tests.cli.conftest import file_record

from .test_export_precision_model import calibration

FORMS = ("fp32", "int8", "int8-static", "int8-weights", "fp16")
WIDE = () if int8_overflows() else ("int8-vnni",)
SHARED = "model_shared.onnx.data"


class Counted:
    """A tracer that counts how often it is asked."""

    def __init__(self, trace: ir.Model) -> None:
        self.trace, self.asked = trace, 0

    def __call__(self, model: Any) -> ir.Model:
        self.asked += 1
        return self.trace.clone()


@pytest.fixture(scope="module")
def export_forms(bert, bert_trace) -> Any:
    """`export_variants` for `bert`, whose tables are tiny: what is shared begins at 1 KB."""

    def export(out: Path, *forms: str, tracer: Any = None, **options: Any) -> Any:
        own = ("overwrite", "data", "calibration", "external_from", "shared_from", "plan")
        given = {"shared_from": 1000, **{name: options.pop(name) for name in own if name in options}}
        settings = ExportSettings(precision=forms, **options)
        return export_variants(bert, out, settings, tracer=tracer or Counted(bert_trace), **given)

    return export


@pytest.fixture(scope="module")
def all_forms(export_forms, bert_trace, tmp_path_factory) -> Any:
    """A folder of all forms that this machine can compare, and how often its model was traced."""
    tracer = Counted(bert_trace)
    out = tmp_path_factory.mktemp("forms") / "out"
    report = export_forms(out, *FORMS, *WIDE, tracer=tracer, embeddings="auto", calibration=calibration())
    return report, tracer.asked


@pytest.fixture
def copied(all_forms, tmp_path) -> Path:
    """A copy of that folder to change."""
    return Path(shutil.copytree(all_forms[0].folder, tmp_path / "copy"))


def test_every_form_is_proven_by_itself_and_traced_once(all_forms):
    report, traced = all_forms
    assert traced == 1 and report.failed == {} and tuple(report.variants) == (*FORMS, *WIDE)
    folder = read_folder(report.folder)
    assert folder.format == 4 and folder.to_json() == report.metadata and list(folder.variants) == list(report.variants)
    verify_files(report.folder)
    for name, variant in folder.variants.items():
        assert variant.parity["max_abs"] <= variant.parity["tolerance"]
        assert report.variants[name].parity.max_abs == variant.parity["max_abs"]
        model = ir.load(report.folder / variant.models["model"].file)
        assert fingerprint(model) == variant.models["model"].fingerprint
        assert model.metadata_props["losparse.fingerprint"] == variant.models["model"].fingerprint
    assert len({v.parity["max_abs"] for v in folder.variants.values()}) == len(folder.variants)


def test_files_have_the_names_that_others_look_for(all_forms):
    names = {name for name in os.listdir(all_forms[0].folder) if name.endswith(".onnx")}
    wide = {"model_qint8_avx512_vnni.onnx"} if WIDE else set()
    rest = {"model_int8_static.onnx", "model_int8_weights.onnx", "model_fp16.onnx"}
    assert names == {"model.onnx", "model_quantized.onnx"} | rest | wide


def test_a_form_is_the_same_alone(all_forms, export_bert, tmp_path):
    folder = read_folder(all_forms[0].folder)
    for name in ("fp32", "int8"):
        alone = export_bert(tmp_path / name, precision=name)
        variant = folder.variants[name]
        assert alone.metadata["fingerprint"] == variant.models["model"].fingerprint
        assert alone.metadata["parity"] == variant.parity


def test_equal_weights_are_stored_once(all_forms, export_forms, tmp_path):
    report = all_forms[0]
    folder = read_folder(report.folder)
    shared = {name: variant.models["model"].shared for name, variant in folder.variants.items()}
    assert shared["int8"] and set(shared["int8"]) & set(shared["int8-static"]) and "files" in report.metadata
    three, texts = ("fp32", "int8", "int8-static"), calibration()
    apart = export_forms(tmp_path / "apart", *three, share_weights=False, calibration=texts)
    assert not [name for name in os.listdir(apart.folder) if name.endswith(".data")]
    together = export_forms(tmp_path / "together", *three, calibration=texts)
    assert sum(together.bytes.values()) < sum(apart.bytes.values())
    assert [v.models["model"].fingerprint for v in read_folder(apart.folder).variants.values()] == [
        v.models["model"].fingerprint for v in read_folder(together.folder).variants.values()
    ]


def test_shared_weights_begin_at_pages_and_hold_no_others(all_forms):
    folder = all_forms[0].folder
    named: dict[str, set[tuple[int, int]]] = {}
    for variant in read_folder(folder).variants.values():
        model = ir.load(folder / variant.models["model"].file)
        outside = [
            v.const_value for v in model.graph.initializers.values() if isinstance(v.const_value, ir.ExternalTensor)
        ]
        assert {str(tensor.location) for tensor in outside} == set(variant.models["model"].shared)
        for tensor in outside:
            assert tensor.offset is not None and tensor.length is not None and tensor.offset % 4096 == 0
            named.setdefault(str(tensor.location), set()).add((tensor.offset, tensor.length))
    for file, places in named.items():
        ends = max(offset + length for offset, length in places)
        assert (folder / file).stat().st_size == ends
        ordered = sorted(places)
        assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(ordered))


def test_bytes_are_those_of_files_each_once(all_forms):
    report = all_forms[0]
    folder = read_folder(report.folder)
    sizes = {name: (report.folder / name).stat().st_size for name in report.bytes}
    assert sizes == dict(report.bytes) and folder.model_bytes == sum(sizes.values()) == report.parts.total
    for name, variant in report.variants.items():
        assert variant.parts.total == sum(variant.bytes.values()) == read_metadata(report.folder, name).model_bytes
        assert variant.parts.other > 0
        assert variant.parts == onnx_parts(report.folder, folder, name)
    assert sum(v.parts.total for v in report.variants.values()) > report.parts.total


def test_plans_are_written_once_for_forms_that_have_the_same(all_forms):
    report = all_forms[0]
    variants = read_folder(report.folder).variants
    assert {name: v.plan for name, v in variants.items()} | {"int8-vnni": "plan-int8.json"} == {
        "fp32": "plan.json",
        "int8": "plan-int8.json",
        "int8-static": "plan-int8.json",
        "int8-vnni": "plan-int8.json",
        "int8-weights": variants["int8-weights"].plan,
        "fp16": "plan.json",
    }
    plan = json.loads((report.folder / "plan-int8.json").read_text())
    assert plan == report.variants["int8"].plan.to_dict() and plan["precision"] == "int8"


def test_a_form_that_is_not_confirmed_is_left_out_and_said(export_forms, monkeypatch, tmp_path):
    wrong = replace(PRECISION_TABLE["fp16"], difference=1e-9)
    monkeypatch.setitem(PRECISION_TABLE, "fp16", wrong)
    report = export_forms(tmp_path / "out", "fp32", "fp16")
    assert list(report.variants) == ["fp32"] and list(report.failed) == ["fp16"]
    assert report.failed["fp16"].startswith("the exported model differs from PyTorch: ")
    folder = read_folder(report.folder)
    assert list(folder.variants) == ["fp32"] and folder.format == 1
    assert "model_fp16.onnx" not in os.listdir(report.folder) and Session(report.folder, threads=1)
    with pytest.raises(ParityError, match=r"^the exported model differs from PyTorch"):
        export_forms(tmp_path / "none", "fp16")
    assert not (tmp_path / "none").exists() and sorted(os.listdir(tmp_path)) == ["out"]


def test_a_form_that_this_machine_cannot_compare_is_left_out_too(all_forms, tmp_path):
    class Narrow:
        def write(self, form: Any, folder: Path) -> Any:
            raise NotComparableError(f"{form.name} overflows here")

    with pytest.raises(NotComparableError, match="int8 overflows here"):
        module._write_forms(Narrow(), ExportSettings(precision=("int8", "fp32")), tmp_path)


def test_one_form_is_written_as_export_model_writes_it(export_forms, export_bert, tmp_path):
    one, other = export_forms(tmp_path / "one", "int8"), export_bert(tmp_path / "other", precision="int8")
    assert sorted(os.listdir(one.folder)) == sorted(os.listdir(other.folder))
    for name in os.listdir(other.folder):
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
    assert one.variants["int8"].bytes == other.bytes and one.metadata == other.metadata


@pytest.mark.skipif(int8_overflows(), reason="weights of 8 bits overflow here, so the export is refused")
def test_eight_bits_have_their_own_name_alone_too(export_forms, tmp_path):
    report = export_forms(tmp_path / "out", "int8-vnni")
    folder = read_folder(report.folder)
    assert list(folder.variants) == ["int8-vnni"] == list(report.variants) and folder.format == 2
    assert folder.variants["int8-vnni"].weight_bits == 8 and (report.folder / "model.onnx").is_file()


def test_weights_beside_the_graph_stay_beside_it(export_forms, tmp_path):
    report = export_forms(tmp_path / "out", "fp32", "int8", external_from=1000, shared_from=2000)
    assert {"model.onnx.data", "model_quantized.onnx.data"} <= set(report.bytes)
    verify_files(report.folder)
    inside = export_forms(tmp_path / "inside", "fp32", "int8", share_weights=False)
    feeds = calibration()[0]
    for name in ("fp32", "int8"):
        found = [Session(each.folder, threads=1, variant=name).run(feeds)["logits"] for each in (report, inside)]
        assert np.array_equal(*found)


def test_the_layout_of_transformers_js(all_forms, export_forms, tmp_path):
    """Graphs lie in `onnx` by the names of its `dtype`, each whole; what opens them is the same."""
    report = export_forms(tmp_path / "out", "fp32", "int8", layout="transformers.js")
    assert sorted(os.listdir(report.folder)) == [
        *("config.json", "losparse.json", "onnx", "plan-int8.json", "plan.json")
    ]
    assert sorted(os.listdir(report.folder / "onnx")) == ["model.onnx", "model_quantized.onnx"]
    assert list(report.bytes) == ["onnx/model.onnx", "onnx/model_quantized.onnx"]
    verify_files(report.folder)
    assert check_folder(report.folder, threads=1).passed
    feeds = calibration()[0]
    for name in ("fp32", "int8"):
        found = [Session(each.folder, threads=1, variant=name).run(feeds) for each in (report, all_forms[0])]
        assert np.array_equal(found[0]["logits"], found[1]["logits"])
    keep_variants(report.folder, ["int8"])
    assert os.listdir(report.folder / "onnx") == ["model_quantized.onnx"] and Session(report.folder, threads=1)


def test_one_form_in_the_layout_of_transformers_js_has_its_name(export_forms, tmp_path):
    out = export_forms(tmp_path / "out", "int8", layout="transformers.js", external_from=1000).folder
    names = ["model_quantized.onnx", "model_quantized.onnx.data"]
    assert sorted(os.listdir(out / "onnx")) == names and not list(out.glob("*.onnx*"))
    assert check_folder(out, threads=1).passed and list(read_folder(out).variants) == ["int8"]


def test_folders_within_are_joined_too(export_bert, tmp_path):
    places = {name: export_bert(tmp_path / name, precision=name).folder for name in ("fp32", "int8")}
    for place in places.values():
        (place / "1_Pooling").mkdir()
        (place / "1_Pooling" / "config.json").write_text("{}")
        write_metadata(place, replace(read_folder(place), files=record_files(place)))
    (tmp_path / "out").mkdir()
    files = {"fp32": "model.onnx", "int8": "model_quantized.onnx"}
    joined = join_folders(places, tmp_path / "out", files, shared_from=None)
    assert "1_Pooling/config.json" in joined.files
    keep_variants(tmp_path / "out", ["int8"])
    verify_files(tmp_path / "out")


def test_some_are_kept_and_nothing_else_of_the_others(copied):
    before = read_folder(copied)
    kept = keep_variants(copied, ["int8-static", "int8"])
    assert list(kept.variants) == ["int8", "int8-static"] and read_folder(copied) == kept
    assert kept.variants == {name: before.variants[name] for name in ("int8", "int8-static")}
    needed = set(kept.model_files(*kept.variants)) | {"plan-int8.json"}
    assert set(os.listdir(copied)) == needed | {"config.json", "losparse.json"}
    verify_files(copied)
    assert check_folder(copied, threads=1).passed
    for name in kept.variants:
        Session(copied, threads=1, variant=name).run(calibration()[0])


def test_what_is_kept_of_one_may_be_a_plain_folder(export_forms, tmp_path):
    out = export_forms(tmp_path / "out", "fp32", "int8", share_weights=False).folder
    kept = keep_variants(out, ["fp32"])
    assert kept.plain and kept.format == 1 and "variants" not in json.loads((out / "losparse.json").read_text())
    assert sorted(os.listdir(out)) == ["config.json", "losparse.json", "model.onnx", "plan.json"]
    assert check_folder(out, threads=1).passed


def test_what_an_interrupted_call_left_is_removed_by_the_next(copied, monkeypatch):
    def killed(file: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            keep_variants(copied, ["fp32"])
    assert list(read_folder(copied).variants) == ["fp32"] and Session(copied, threads=1)
    assert "model_fp16.onnx" in os.listdir(copied)
    keep_variants(copied, ["fp32"])
    assert "model_fp16.onnx" not in os.listdir(copied) and check_folder(copied, threads=1).passed


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"^at least one variant must stay, got none; '.*' has fp32, "),
        (["int4"], r"must be some of fp32, .*got 'int4'$"),
    ],
)
def test_variants_to_keep_must_be_there(copied, names, message):
    before = sorted(os.listdir(copied))
    with pytest.raises(LosparseError, match=message):
        keep_variants(copied, names)
    assert sorted(os.listdir(copied)) == before


def test_folders_of_other_models_are_not_joined(export_bert, tmp_path):
    one = export_bert(tmp_path / "one").folder
    other = Path(shutil.copytree(one, tmp_path / "other"))
    data = json.loads((other / "losparse.json").read_text())
    (other / "losparse.json").write_text(json.dumps({**data, "labels": ["another", "one"]}))
    (tmp_path / "out").mkdir()
    with pytest.raises(LosparseError, match="only forms of one model stand in one folder"):
        join_folders({"a": one, "b": other}, tmp_path / "out", {"a": "a.onnx", "b": "b.onnx"}, shared_from=None)


def test_arguments_that_are_refused(export_forms, tmp_path):
    with pytest.raises(LosparseError, match="calibration is for precision 'int8-static', got it with 'fp32'"):
        export_forms(tmp_path / "out", "fp32", "int8", calibration=["a"])
    with pytest.raises(LosparseError, match="'int8-static' needs texts to measure its scales on, got none"):
        export_forms(tmp_path / "out", "fp32", "int8-static")
    with pytest.raises(LosparseError, match=r"^target \(--target\) must be one of cpu, "):
        export_forms(tmp_path / "out", "fp32", target="gpu")
    assert not list(tmp_path.iterdir())


def test_a_check_compares_every_variant(copied, export_bert, tmp_path):
    reference = export_bert(tmp_path / "reference").folder
    names = list(read_folder(copied).variants)
    report = check_folder(copied, reference, threads=1)
    assert report.passed and report.judgement is not None and report.judgement.variant == names[0]
    assert list(report.others) == names[1:] and report.skipped == {}
    for name, other in report.others.items():
        assert other.judgement is not None and other.judgement.variant == name and other.parts["random tokens"].passed
    said = report.to_dict()
    assert list(said["others"]) == names[1:] and said["others"]["int8"]["precision"] == "int8"


def test_a_check_finds_what_is_wrong_in_one_variant_alone(copied, export_bert, tmp_path):
    reference = export_bert(tmp_path / "reference").folder
    file = copied / "model_quantized.onnx"
    model = ir.load(file)
    scale = next(v for name, v in model.graph.initializers.items() if name.endswith("_scale"))
    scale.const_value = ir.tensor(scale.const_value.numpy() * 9, name=scale.name)
    ir.save(model, file)
    data = json.loads((copied / "losparse.json").read_text())
    data["files"][file.name] = file_record(file)  # who changes a file can change its digest too
    (copied / "losparse.json").write_text(json.dumps(data))
    report = check_folder(copied, reference, threads=1)
    failed = [name for name, other in report.others.items() if not other.passed]
    assert not report.passed and report.differences == () and failed == ["int8"]


def test_a_check_finds_a_changed_byte_of_what_is_shared(copied):
    file = copied / read_folder(copied).variants["int8"].models["model"].shared[0]
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    report = check_folder(copied, threads=1)
    assert not report.passed and [line.partition(":")[0] for line in report.differences] == [file.name]


def test_a_check_says_which_variant_does_not_open_for_a_change(copied):
    (copied / "model_quantized.onnx").write_bytes(b"no graph")
    report = check_folder(copied, threads=1)
    assert not report.passed and any("model_quantized.onnx" in line for line in report.differences)


def test_variants_for_other_cpus_are_said_not_to_be_looked_at(copied, monkeypatch):
    data = json.loads((copied / "losparse.json").read_text())
    data["variants"]["int8-static"]["weight_bits"] = 8  # as on a CPU with VNNI
    (copied / "losparse.json").write_text(json.dumps(data))
    monkeypatch.setattr("losparse_runtime.engine.choice.int8_overflows", lambda: True)
    report = check_folder(copied, threads=1)
    wide = {"int8-vnni"} if WIDE else set()
    assert set(report.skipped) == {"int8-static"} | wide and set(report.others).isdisjoint(report.skipped)
    assert "overflow on this CPU" in report.to_dict()["skipped"]["int8-static"]


def test_the_plan_of_what_was_kept_is_shown(copied):
    kept = keep_variants(copied, ["int8", "int8-static"])
    assert kept.variants["int8"].plan == "plan-int8.json" and not (copied / "plan.json").exists()
    plan = json.loads((copied / "plan-int8.json").read_text())
    shown = inspect_folder(copied).layers
    assert {layer.name: layer.lowering for layer in shown} == {
        name: layer["lowering"] for name, layer in plan["layers"].items()
    }
    assert len(shown) > 0
