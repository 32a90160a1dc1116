"""Where the bytes of a model are: parts by name, sums that are the files, and graphs read without onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data
from safetensors.torch import save_file

from losparse import inspect_folder
from losparse.saving.folder import with_headers
from losparse.saving.parts import PartBytes, checkpoint_parts, part_of, sum_parts
from losparse_runtime import FolderError
from losparse_runtime.contract.weights import weight_sizes

NAMES = {
    "embeddings": [
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.word_embeddings.weight.rows",
        "embeddings.position_embeddings.weight.scales",
        "model.embed_tokens.weight",
        "transformer.wte.weight",
        "shared.weight",
        "deberta.encoder.rel_embeddings.weight",
        "electra.embeddings_project.weight",
        "/embeddings/Slice_input_1",
    ],
    "norms": [
        "bert.embeddings.LayerNorm.weight",
        "encoder.layer.3.output.LayerNorm.bias",
        "transformer.h.0.ln_1.weight",
        "model.norm.weight",
        "model.layers.0.input_layernorm.weight",
        "distilbert.transformer.layer.0.sa_layer_norm.weight",
    ],
    "layers": [
        "encoder.layer.10.attention.self.query.u",
        "encoder.layer.0.output.dense.weight_t_quantized",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "/encoder/layer.0/attention/self/Gemm_input_2",
        "attention.scores_t",
    ],
    "heads": ["classifier.weight", "bert.pooler.dense.weight_t", "qa_outputs.bias", "lm_head.weight"],
    "other": ["/Concat_input_1", "shape_1", "position_ids"],
}


@pytest.mark.parametrize("part", NAMES)
def test_parts_by_name(part: str) -> None:
    assert {name: part_of(name) for name in NAMES[part]} == dict.fromkeys(NAMES[part], part)


def test_what_is_in_no_tensor_is_other() -> None:
    found = sum_parts([("wte.weight", 60), ("h.0.q.weight", 25), ("h.0.ln.weight", 2), ("head.weight", 3)], 100)
    assert found == PartBytes(embeddings=60, layers=25, heads=3, norms=2, other=10) and found.total == 100
    assert found.line == "bytes: 100, of which embeddings 60 (60.0%)"
    assert PartBytes().line == "bytes: 0, of which embeddings 0 (0.0%)"


def test_numbers_of_every_size_are_counted(tmp_path: Path) -> None:
    import torch

    types = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool)
    tensors = {f"h.{place}.x": torch.zeros(5, 3).to(kind) for place, kind in enumerate(types)}
    save_file(tensors, tmp_path / "model.safetensors")
    found = checkpoint_parts(with_headers(tmp_path, {}, [tmp_path / "model.safetensors"]))
    assert found.layers == sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert found.total == (tmp_path / "model.safetensors").stat().st_size


def model_of(*weights: onnx.TensorProto) -> onnx.ModelProto:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = [helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(9, np.float32)))]
    return helper.make_model(helper.make_graph(nodes, "g", [], [output], list(weights)))


def test_weights_are_sized_as_onnx_stores_them(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "raw": np.ones((3, 4), np.float32),
        "small": np.ones(7, np.int8),
        "half": np.ones(5, np.float16),
        "empty": np.ones(0, np.float32),
    }
    listed = helper.make_tensor("listed", TensorProto.FLOAT, [6], [1.0] * 6)
    model = model_of(*(numpy_helper.from_array(array, name) for name, array in arrays.items()), listed)
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
    expected = {name: array.nbytes for name, array in arrays.items()} | {"listed": 24}
    assert weight_sizes(tmp_path / "in.onnx") == expected
    convert_model_to_external_data(model, location="beside.data", size_threshold=0)
    onnx.save(model, tmp_path / "beside.onnx")
    assert weight_sizes(tmp_path / "beside.onnx") | {"listed": 24} == expected


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(FolderError, match=r"model\.onnx: is not an ONNX model or is cut short"):
        weight_sizes(tmp_path / "model.onnx")


def test_a_folder_of_a_model(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(**sizes, vocab_size=24, max_position_embeddings=32))
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    contents = inspect_folder(tmp_path)
    numbers = {name: parameter.numel() for name, parameter in model.named_parameters()}
    tables = sum(count for name, count in numbers.items() if "embeddings.weight" in name)
    norms = sum(count for name, count in numbers.items() if "LayerNorm" in name)
    heads = sum(count for name, count in numbers.items() if "pooler" in name or "classifier" in name)
    assert (contents.parts.embeddings, contents.parts.norms, contents.parts.heads) == (4 * tables, 4 * norms, 4 * heads)
    assert contents.parts.layers == 4 * (sum(numbers.values()) - tables - norms - heads)
    assert contents.parts.total == contents.file_bytes == (tmp_path / "model.safetensors").stat().st_size
    assert contents.tokenizer_bytes == 2 and contents.to_dict()["bytes"] == contents.parts.to_dict()
