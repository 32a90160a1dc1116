"""What is opened, and what is refused with one line that says why."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from losparse import LoSparse
from losparse.errors import LosparseError
from losparse.methods.losparse.layer import FactoredLinearTraining
from losparse.models.signature import signature_of
from losparse.saving.folder import read_checkpoint
from losparse.saving.quantizer import mark_compressed
from losparse.training.problems import labels_of
from losparse_export.estimate import estimate_model
from losparse_export.folder.metadata import model_config
from losparse_export.opening.load import class_names, load_model, parameter_counts
from losparse_export.opening.task_model import TaskModel, choose_task
from losparse_runtime.contract.task import TASKS

from .builders import build_model, make_layer


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    build_model("bert", factored=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compressed")
    model = build_model("bert")
    mark_compressed(model, {"name": "losparse", "keep": 0.2})
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(dense: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dense, tmp_path / "model"))


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_dense_folder(dense):
    loaded = load_model(dense)
    assert loaded.task.name == "text-classification" and loaded.name == dense.name and loaded.folder == dense
    assert next(loaded.model.parameters()).dtype == torch.float32


def test_compressed_folder(compressed):
    loaded, original = load_model(str(compressed)), build_model("bert")
    for (name, one), (_, other) in zip(loaded.model.state_dict().items(), original.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    assert "quantization_config" not in model_config(loaded)
    assert model_config(loaded)["architectures"] == ["BertForSequenceClassification"]


def test_half_precision_weights_are_opened_as_float32(tmp_path):
    build_model("bert", factored=False).to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert model_config(loaded)["dtype"] == "float32"


def test_another_task_of_the_same_weights(dense):
    assert type(load_model(dense, "feature-extraction").model).__name__ == "BertModel"


def test_classes_of_one_name():
    """A runtime that answers by name could not tell them apart."""
    model = build_model("bert", factored=False, id2label={0: "bad", 1: "good", 2: "bad"})
    with pytest.raises(LosparseError, match=r"BertForSeq\w+: classes 0 and 2 are all called 'bad'; give each its own"):
        load_model(model)
    assert load_model(model, "feature-extraction").task.name == "feature-extraction"


def test_class_names_that_are_numbers_or_null(copy):
    """Both were read as texts in one place and as they are in another, so `check` found other labels."""
    edit_config(copy, id2label={"0": 7, "1": None}, label2id={"7": 0})
    assert class_names(load_model(copy).model.config) == ["7", "LABEL_1"]
    assert labels_of(read_checkpoint(copy), TASKS["text-classification"]) == ("7", "LABEL_1")


def test_nothing_is_printed(dense, capfd):
    load_model(dense)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("RobertaForTokenClassification", "token-classification"),
        ("DistilBertForQuestionAnswering", "question-answering"),
        ("MPNetModel", "feature-extraction"),
        ("GPT2LMHeadModel", "causal-lm"),
        ("LlamaForCausalLM", "causal-lm"),
    ],
)
def test_task_of_an_architecture(architecture, task):
    assert choose_task(None, architecture, "m") is TASKS[task]


@pytest.mark.parametrize(
    ("task", "architecture", "message"),
    [
        (None, "BertForMaskedLM", "m: architecture 'BertForMaskedLM' does not say the task; name one of text-class"),
        (None, None, "architecture None does not say the task"),
        ("translation", "BertModel", "task must be one of text-classification, .*, got 'translation'"),
    ],
)
def test_task_refused(task, architecture, message):
    with pytest.raises(LosparseError, match=message):
        choose_task(task, architecture, "m")


SINGLE, SEVERAL, NUMBER = "single_label_classification", "multi_label_classification", "regression"


@pytest.mark.parametrize(
    ("asked", "problem", "outputs", "task"),
    [
        (None, None, 3, "text-classification"),
        (None, SINGLE, 1, "text-classification"),
        (None, SEVERAL, 3, "multi-label-classification"),
        (None, None, 1, "regression"),  # as transformers takes one output
        (None, NUMBER, 2, "regression"),
        ("text-classification", SEVERAL, 3, "multi-label-classification"),  # the name that all three had
        ("text-classification", None, 1, "regression"),
        ("multi-label-classification", None, 3, "multi-label-classification"),
        ("regression", None, 2, "regression"),
    ],
)
def test_task_of_one_row_of_logits_a_text(asked, problem, outputs, task):
    assert choose_task(asked, "BertForSequenceClassification", "m", problem, outputs).name == task


@pytest.mark.parametrize(("asked", "problem"), [("regression", SEVERAL), ("multi-label-classification", SINGLE)])
def test_task_against_the_configuration_is_refused(asked, problem):
    message = f"m: config.json says problem_type '{problem}', so task must be .*, got '{asked}'; leave task="
    with pytest.raises(LosparseError, match=message):
        choose_task(asked, "BertForSequenceClassification", "m", problem, 3)


def test_missing_folder_file_and_config(tmp_path):
    with pytest.raises(
        LosparseError, match=r"none' does not exist; give a folder with config\.json, or a hub id as own"
    ):
        load_model(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(LosparseError, match=r"file' is a file; give the folder with config\.json"):
        load_model(tmp_path / "file")
    with pytest.raises(LosparseError, match=r"has no config\.json; give a folder that save_pretrained wrote"):
        load_model(tmp_path)


def test_a_model_of_the_hub_is_called_by_its_id(dense):
    asked = []

    def download(hub_id: str, patterns: list[str]) -> str:
        asked.append((hub_id, patterns))
        return str(dense)

    assert load_model("owner/model", download=download).name == "owner/model"
    assert asked == [("owner/model", ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"])]  # no pickles, no code


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "is quantised by 'gptq'; export the model it was",
        ),
        ({"model_type": None}, r"config\.json' has no model_type; it is not a transformers model"),
        ({"hidden_size": 48}, r"'bert\.embeddings.*' is \d+(x\d+)? in the weights and \d+(x\d+)? by config.json; make"),
        ({"num_hidden_layers": 1}, "config.json leaves out 'bert.encoder.layer.1.attention.*set the number of layers"),
        (
            {"id2label": {str(number): str(number) for number in range(5)}},
            "'classifier.bias' is 2 in the weights and 5 by config.json; make config.json fit the weights",
        ),
        (
            {"num_hidden_layers": 3},
            "has no weights for bert.encoder.layer.2.*and 12 more; fine-tune the model for text",
        ),
        ({"architectures": ["BertForPreTraining"]}, "architecture 'BertForPreTraining' does not say the task"),
    ],
)
def test_config_refused(copy, changes, message):
    edit_config(copy, **changes)
    with pytest.raises(LosparseError, match=message) as caught:
        load_model(copy)
    assert "\n" not in str(caught.value)


def test_config_that_is_not_json(copy):
    (copy / "config.json").write_text("{")
    with pytest.raises(LosparseError, match=r"config\.json' is not valid JSON"):
        load_model(copy)


def test_a_new_head_is_refused(dense):
    with pytest.raises(
        LosparseError, match=r"has no weights for qa_outputs.bias, qa_outputs.weight; fine-tune the model"
    ):
        load_model(dense, "question-answering")


def test_a_missing_pooler_does_not_matter_to_hidden_states(tmp_path):
    transformers.BertForTokenClassification(
        transformers.BertConfig(**build_model("bert").config.to_dict())
    ).save_pretrained(tmp_path)
    assert load_model(tmp_path, "feature-extraction").task.name == "feature-extraction"


@pytest.mark.parametrize("keep", [0.5, 10])
def test_damaged_weights(copy, keep):
    file = copy / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep) if keep < 1 else keep])
    with pytest.raises(LosparseError, match=r"model\.safetensors' is damaged or cut short: .*; copy it again"):
        load_model(copy)


def test_only_safetensors(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(LosparseError, match=r"has pytorch_model\.bin but no model\.safetensors; pickled"):
        load_model(copy)


def test_sharded_weights(tmp_path):
    build_model("bert", factored=False).save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    load_model(tmp_path)
    shards[-1].unlink()
    with pytest.raises(LosparseError, match=rf"lacks {shards[-1].name}, which its index lists"):
        load_model(tmp_path)


EXPERTS = {
    "Mixtral": {"num_local_experts": 4},
    "Qwen2Moe": {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 32},
    "SwitchTransformers": {"num_experts": 4, "num_heads": 4, "d_kv": 8, "d_model": 32, "num_sparse_encoder_layers": 1},
}


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_are_refused_in_words_before_the_trace(family):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    settings = {**sizes, "vocab_size": 50, "num_key_value_heads": 2, "pad_token_id": 0, **EXPERTS[family]}
    config = getattr(transformers, f"{family}Config")(**settings)
    kind = "EncoderModel" if family == "SwitchTransformers" else "Model"
    model = getattr(transformers, f"{family}{kind}")(config).eval()
    with pytest.raises(LosparseError, match=rf"{family}{kind} is a mixture of experts \('.*experts'\)"):
        load_model(model, "feature-extraction")
    if kind == "Model":
        with pytest.raises(LosparseError, match="is a mixture of experts"):
            estimate_model(config, LoSparse(keep=0.4, low_rank=0.1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value):
    model = build_model("bert")
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias[3] = value
    with pytest.raises(
        LosparseError, match=r"has NaN or infinity in 'bert\.encoder\.layer\.1\.output\.dense\.bias'; use a sound"
    ):
        load_model(model)


def test_model_in_memory_must_be_float32():
    with pytest.raises(
        LosparseError, match=r"is torch\.bfloat16 on cpu, must be float32 on the CPU; call model\.float"
    ):
        load_model(build_model("bert", factored=False).to(torch.bfloat16))


def test_training_form_is_refused(compressed, tmp_path):
    model = build_model("bert")
    model.bert.encoder.layer[0].output.dense = FactoredLinearTraining(64, 32, rank=4)
    with pytest.raises(
        LosparseError, match=r"layer 'bert\.encoder\.layer\.0\.output\.dense' is still in its training form"
    ):
        load_model(model)
    folder = Path(shutil.copytree(compressed, tmp_path / "model"))
    quantised = json.loads((folder / "config.json").read_text())["quantization_config"]
    edit_config(folder, quantization_config={**quantised, "form": "training"})
    with pytest.raises(LosparseError, match=r"its masks may still move; finish the training, or .* losparse\.compact_"):
        load_model(folder)


def test_untested_model_types_are_tried_and_said(copy, caplog):
    sizes = {"vocab_size": 100, "block_sizes": [1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64}
    transformers.FunnelForSequenceClassification(transformers.FunnelConfig(**sizes)).save_pretrained(copy)
    with caplog.at_level(logging.WARNING):
        load_model(copy)
    assert "model type 'funnel' is none of the" in caplog.text


def test_parameter_counts():
    model = build_model("bert", factored=False)
    dense = sum(parameter.numel() for parameter in model.parameters())
    model.bert.encoder.layer[0].output.dense = make_layer(32, 64, rank=4, kept=6)
    # rank 4 * (32 + 64) + 6 rows of 64, in place of 32 * 64
    assert parameter_counts(model) == {"model": dense - 2048 + 768, "layers": 768, "layers_dense": 2048}
    model.bert.encoder.layer[1].output.dense = model.bert.encoder.layer[0].output.dense
    assert parameter_counts(model)["layers"] == 768  # tied: stored once


@pytest.mark.parametrize(
    ("family", "types", "positions"),
    [
        ("bert", True, 40),
        ("roberta", False, 38),  # 40 rows, numbered from behind the padding row 1
        ("xlm-roberta", False, 38),
        ("distilbert", False, 40),
        ("mpnet", False, 38),
        ("deberta-v2", False, 40),
        ("electra", True, 40),
    ],
)
def test_inputs_and_positions(family, types, positions):
    model = build_model(family, factored=False)
    names = tuple(spec.name for spec in signature_of(model).inputs)
    assert names == ("input_ids", "attention_mask", *(["token_type_ids"] if types else []))
    assert TaskModel(model, TASKS["text-classification"]).longest == positions
