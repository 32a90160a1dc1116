"""The exported folder: every family and task, both operator sets, and what the files say."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig

import losparse
from losparse.errors import LosparseError
from losparse.saving.quantizer import mark_compressed
from losparse_export import LOWERINGS, Plan, export_model, plan_model
from losparse_export.passes import fold_model
from losparse_export.target import prepare_model
from losparse_runtime import Session, verify_files

from .blocks import prefer
from .builders import build_model


def export_tiny(family: str, folder: Path, *, model: Any = None, **options: Any) -> Any:
    return export_model(build_model(family) if model is None else model, folder / family, **options)


FAMILIES = [
    # family, outputs with their shapes
    ("bert", {"logits": ["batch", 2]}),
    ("xlm-roberta", {"start_logits": ["batch", "sequence"], "end_logits": ["batch", "sequence"]}),
]


@pytest.mark.parametrize(("family", "outputs"), FAMILIES)
def test_the_older_operator_set(tmp_path, capfd, family, outputs):
    """MPNet too, below. Both sets come from one graph: `test_export_older` has every operator that differs."""
    report = export_tiny(family, tmp_path, opset=18)
    assert capfd.readouterr() == ("", "")  # torch's exporter talks; whoever calls a library did not ask for it
    assert report.parity.max_abs <= report.parity.tolerance
    assert len(report.parity.cases) == 15
    assert {spec["name"]: spec["shape"] for spec in report.metadata["outputs"]} == outputs
    model = ir.load(report.folder / "model.onnx")
    assert (model.graph.opset_imports, model.ir_version) == ({"": 18}, 10)
    assert {axis for value in model.graph.inputs for axis in map(str, value.shape)} == {"batch", "sequence"}
    assert not [node for node in model.graph if node.op_type == "Attention"], "which is one node from opset 23 on"


def test_shapes_never_traced(export_bert, bert, tmp_path):
    """Batch 5 and length 31 occur neither in the trace nor in the gate."""
    session = Session(export_bert(tmp_path / "out").folder, threads=1)
    ids = np.random.default_rng(0).integers(1, 100, (5, 31))
    mask = (np.arange(31) < np.array([31, 1, 12, 30, 5])[:, None]).astype(np.int64)
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    with torch.no_grad():
        expected = bert(**{name: torch.from_numpy(array) for name, array in feeds.items()}).logits.numpy()
    # as the gate: rounding of two blocks is near 1e-6 at logits of magnitude 1 to 5
    np.testing.assert_allclose(session.run(feeds)["logits"], expected, rtol=0, atol=1e-4)
    assert np.abs(session.run({**feeds, "attention_mask": np.ones_like(mask)})["logits"] - expected).max() > 1e-2


def test_every_form_has_its_place():
    assert set(UNORDERED) | set(ORDERED) == {lowering.NAME for lowering in LOWERINGS}


# Of 12 layers with random kept groups, 6 rows each in six layers and 6 columns each in the others, none in order.
UNORDERED = {"constant": 0, "low_rank": 0, "gather": 6, "absorbed": 6, "columns": 6, "selector": 12, "dense": 12}
# Of 12 layers that decide together: query, key, value and up are folded; the two that follow sliced. The second of the
# feed-forward part can be split, and the first, whose rank is not the smaller one, has the pivots.
ORDERED = {"folded": 8, "sliced": 4, "split": 2, "pivots_out": 2, "pivots_in": 0}


@pytest.mark.parametrize("lowering", UNORDERED)
def test_every_form_inside_a_model(export_bert, bert_trace, tmp_path, lowering):
    """Where a form does not apply, the default stays; `constant` and `low_rank` apply nowhere here."""
    plan = prefer(plan_model(bert_trace), lowering)
    report = export_bert(tmp_path / "out", plan=plan)
    assert Plan.read(report.folder / "plan.json") == report.plan == plan
    assert sum(layer.lowering == lowering for layer in report.plan.layers.values()) == UNORDERED[lowering]


@pytest.mark.parametrize("lowering", ORDERED)
def test_every_form_for_layers_in_order(export_foldable, foldable_trace, tmp_path, lowering):
    graph = prepare_model(foldable_trace.clone())
    folds = fold_model(graph)
    plan = prefer(plan_model(graph, folds=folds), lowering, "dense")
    report = export_foldable(tmp_path / "out", plan=plan)
    assert Plan.read(report.folder / "plan.json") == report.plan == plan
    assert sum(layer.lowering == lowering for layer in report.plan.layers.values()) == ORDERED[lowering]


def test_two_exports_are_equal_byte_for_byte(bert, bert_trace, export_bert, tmp_path, capfd):
    first = export_bert(tmp_path / "first")
    capfd.readouterr()
    second = export_model(bert, tmp_path / "second")  # traced anew
    assert capfd.readouterr() == ("", "")  # as above
    assert first.metadata["fingerprint"] == second.metadata["fingerprint"]
    for name in ("model.onnx", "plan.json", "config.json", "losparse.json"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name


@pytest.fixture(scope="module")
def electra(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A dense ELECTRA tagger in training mode, whose layers share their query weights: the model and its export."""
    torch.manual_seed(0)
    model = build_model("electra", factored=False, attn_implementation="eager")
    first, second = model.electra.encoder.layer
    second.attention.self.query.weight = first.attention.self.query.weight
    model.train()
    model.electra.encoder.layer[0].eval()  # as after freezing a part by hand
    return model, export_tiny("electra", tmp_path_factory.mktemp("export"), model=model)


def test_dense_model(electra):
    _, report = electra
    assert report.plan == Plan({}) and report.metadata["source"]["compressed"] is False
    assert report.metadata["parameters"]["layers"] == 0
    assert report.parity.max_abs <= report.parity.tolerance


def test_tied_weights_are_stored_once(electra):
    model, report = electra
    stored = ir.load(report.folder / "model.onnx").graph.initializers
    weight = model.electra.encoder.layer[0].attention.self.query.weight.detach().numpy()
    found = [name for name, value in stored.items() if np.array_equal(value.const_value.numpy(), weight.T)]
    assert found == ["electra.encoder.layer.0.attention.self.query.weight_t"]
    assert len(stored[found[0]].uses()) == 2


def test_the_model_is_not_changed(electra):
    model, _ = electra
    assert model.config._attn_implementation == "eager"
    assert model.training and model.electra.encoder.layer[1].training
    assert not model.electra.encoder.layer[0].training
    assert not any(module._forward_hooks for module in model.modules())


def test_names_in_the_graph(electra):
    graph = ir.load(electra[1].folder / "model.onnx").graph
    assert not [name for name in graph.initializers if name.startswith("val_")]
    names = {node.name for node in graph}
    assert "/electra/encoder/layer.1/attention/self/value/Gemm" in names and len(names) == len(graph)
    parameters = set(electra[0].state_dict())
    assert {"electra.embeddings.word_embeddings.weight", "classifier.bias"} <= parameters & set(graph.initializers)
    assert "classifier.weight_t" in graph.initializers
    assert all(not node.metadata_props and not node.doc_string for node in graph)


@pytest.fixture
def exported(export_bert: Callable[..., Any], tmp_path: Path) -> Any:
    return export_bert(tmp_path / "out")


def test_metadata(exported, bert):
    metadata = json.loads((exported.folder / "losparse.json").read_text())
    assert metadata == exported.metadata
    assert metadata["task"] == "text-classification" and metadata["labels"] == ["LABEL_0", "LABEL_1"]
    assert metadata["source"] == {
        "model": "BertForSequenceClassification",
        "model_type": "bert",
        "architecture": "BertForSequenceClassification",
        "compressed": True,
        "method": None,
    }
    assert (metadata["precision"], metadata["opset"], metadata["ir_version"]) == ("fp32", 23, 11)
    assert (metadata["max_length"], metadata["pooling"], metadata["normalize"]) == (40, None, False)
    assert metadata["parameters"]["model"] == sum(parameter.numel() for parameter in bert.parameters())
    assert metadata["versions"]["losparse"] == losparse.__version__
    assert metadata["parity"]["max_abs"] == exported.parity.max_abs
    assert [case["padded"] for case in metadata["parity"]["cases"]].count(0) == 7


def test_files(exported):
    assert set(os.listdir(exported.folder)) == {"model.onnx", "config.json", "losparse.json", "plan.json"}
    assert exported.metadata["files"] == {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name in ("config.json", "model.onnx", "plan.json")
        for data in [(exported.folder / name).read_bytes()]
    }
    assert exported.bytes == {"model.onnx": (exported.folder / "model.onnx").stat().st_size}
    verify_files(exported.folder)
    onnx.checker.check_model(str(exported.folder / "model.onnx"), full_check=True)


def test_the_graph_says_what_it_is(exported):
    model = ir.load(exported.folder / "model.onnx")
    assert (model.producer_name, model.producer_version) == ("losparse", losparse.__version__)
    assert model.metadata_props["losparse.fingerprint"] == exported.metadata["fingerprint"]
    assert model.metadata_props["losparse.plan"] == exported.plan.digest()
    assert json.loads(model.metadata_props["losparse.source"]) == exported.metadata["source"]
    assert json.loads(model.metadata_props["losparse.versions"]) == exported.metadata["versions"]


def test_config_opens_with_transformers(exported):
    config = AutoConfig.from_pretrained(exported.folder)
    assert config.model_type == "bert" and config.architectures == ["BertForSequenceClassification"]
    assert not hasattr(config, "quantization_config")


def test_external_data(export_bert, tmp_path):
    inline, external = export_bert(tmp_path / "a"), export_bert(tmp_path / "b", external_from=1000)
    assert set(external.bytes) == {"model.onnx", "model.onnx.data"} <= set(external.metadata["files"])
    assert external.metadata["fingerprint"] == inline.metadata["fingerprint"]
    assert external.bytes["model.onnx"] + external.bytes["model.onnx.data"] < inline.bytes["model.onnx"] + 20_000
    feeds = {"input_ids": np.arange(1, 8)[None]}
    results = [Session(report.folder, threads=1).run(feeds)["logits"] for report in (inline, external)]
    assert np.array_equal(*results)


def test_external_data_and_a_failure(export_bert, tmp_path):
    """The layer is found as well where the weights are in a file of their own."""
    with pytest.raises(LosparseError, match=r"the first layer that differs is 'bert\.embeddings\.word_embeddings'"):
        export_bert(tmp_path / "out", build_model("bert", seed=2), external_from=1000)
    assert os.listdir(tmp_path) == []


def test_existing_out_is_refused_before_any_work(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(LosparseError, match=r"OUT '.*out' exists; choose another"):
        export_model(tmp_path / "there is no such model", tmp_path / "out")


def test_overwrite(export_bert, tmp_path):
    export_bert(tmp_path / "out")
    assert export_bert(tmp_path / "out", overwrite=True).folder == tmp_path / "out"
    assert os.listdir(tmp_path) == ["out"]


def test_opset_refused(tmp_path):
    with pytest.raises(LosparseError, match="opset must be one of 18, 23, got 21"):
        export_model(tmp_path, tmp_path / "out", opset=21)


def test_plan_for_another_model_leaves_nothing(export_bert, tmp_path):
    with pytest.raises(LosparseError, match="the plan says nothing about layer"):
        export_bert(tmp_path / "out", plan=Plan({}))
    assert os.listdir(tmp_path) == []


def test_embedding_folder(tmp_path):
    """MPNet; a dense folder, opened by its architecture, with its tokenizer and the tokenizer's limit."""
    source = tmp_path / "source"
    build_model("mpnet", factored=False).save_pretrained(source)
    words = Tokenizer(WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "[UNK]": 3, "the": 4}, unk_token="[UNK]"))
    words.save(str(source / "tokenizer.json"))
    (source / "tokenizer_config.json").write_text('{"model_max_length": 16}')
    report = export_model(source, tmp_path / "out", opset=18)
    assert report.task == "feature-extraction" and report.metadata["max_length"] == 16
    assert report.metadata["outputs"][0]["shape"] == ["batch", "sequence", 32]
    assert (report.metadata["pooling"], report.metadata["normalize"]) == ("mean", False)
    assert report.metadata["source"]["model"] == "source"
    assert (report.folder / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert max(case["length"] for case in report.parity.cases) == 16


def test_compressed_folder(export_bert, tmp_path):
    model = build_model("bert", seed=1)
    mark_compressed(model, {"name": "losparse", "keep": 0.2})
    model.save_pretrained(tmp_path / "source")
    report = export_bert(tmp_path / "out", tmp_path / "source")
    assert report.metadata["source"]["compressed"] is True
    assert report.metadata["source"]["method"] == {"name": "losparse", "keep": 0.2}
    assert len(report.plan.layers) == 12
    assert "quantization_config" not in json.loads((report.folder / "config.json").read_text())


def test_a_model_torch_cannot_trace(tmp_path, capfd):
    """Rotations that depend on the length of what was seen before."""
    angles = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    model = build_model("llama", rope_parameters=angles)
    message = r"^LlamaForSeq\w+: its code takes its way by numbers that it computes \(dynamic_frequency_update, line"
    with pytest.raises(LosparseError, match=message) as caught:
        export_model(model, tmp_path / "out")
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", ""), "torch prints the graph it has so far"
