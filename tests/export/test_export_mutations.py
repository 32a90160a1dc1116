"""Compressed checkpoints with anything in any place: the right numbers, or a refusal in one line."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from losparse import compress_embeddings_, inspect_folder
from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.layers.joint import SharedFactorLinear
from losparse.layers.linear import replace_module
from losparse.models.positions import count_positions
from losparse.saving.quantizer import mark_compressed
from losparse_export.folder.metadata import model_config
from losparse_export.opening.load import load_model
from losparse_export.opening.task_model import TaskModel

from ..mutations import VALUES, places, spoil

IDS = torch.arange(14).reshape(2, 7) + 3
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}

# Legal values that describe another model: nothing in the folder says that it is not this one.
ANOTHER_MODEL = {("is_decoder", True), ("layer_norm_eps", 1.5)}

many = settings(max_examples=80, derandomize=True, database=None, deadline=None)


def random_indices(size: int, count: int) -> Tensor:
    return torch.randperm(size)[:count].sort().values


def put(model: nn.Module, old: nn.Module, layer: FactoredLinear) -> FactoredLinear:
    """Put a layer of random factors and indices into a model."""
    sizes = {"out": layer.out_features, "in": layer.in_features}
    with torch.no_grad():
        for tensor in layer.parameters():
            tensor.normal_(std=0.3)
        if layer.kept is not None:
            layer.kept.copy_(random_indices(sizes[layer.axis], layer.kept_count))
        if layer.pivots is not None and layer.pivot_side is not None:
            layer.pivots.copy_(random_indices(sizes[layer.pivot_side], layer.rank))
    replace_module(model, old, layer)
    return layer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with a layer of every form: rows, columns, pivot outputs, pivot inputs, a shared factor, int8 tables."""
    torch.manual_seed(0)
    names = {0: "red", 1: "green", 2: "blue"}
    config = BertConfig(**SIZES, vocab_size=50, max_position_embeddings=20, id2label=names)
    model = BertForSequenceClassification(config).eval()
    first, second = model.bert.encoder.layer
    put(model, first.intermediate.dense, FactoredLinear(16, 24, rank=3, kept=5))
    put(model, first.output.dense, FactoredLinear(24, 16, rank=3, kept=6, axis="in"))
    put(model, first.attention.output.dense, FactoredLinear(16, 16, rank=4, kept=0, pivot_side="out"))
    put(model, second.output.dense, FactoredLinear(24, 16, rank=4, kept=3, pivot_side="in"))
    owner = put(model, first.attention.self.key, FactoredLinear(16, 16, rank=5, kept=2))
    put(model, first.attention.self.query, SharedFactorLinear(owner, 16, kept=3))
    put(model, second.intermediate.dense, FactoredLinear(16, 24, rank=2, kept=0))
    compress_embeddings_(model)
    mark_compressed(model, {"name": "svd", "keep": 0.5})
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder


def answer(folder: Path) -> Tensor:
    """What the exporter compares with; and everything else that it reads off the model."""
    loaded = load_model(folder)
    count_positions(loaded.model), json.dumps(model_config(loaded))
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    return TaskModel(loaded.model, loaded.task).reference(inputs)["logits"]


@pytest.fixture(scope="module")
def right(saved: Path) -> Tensor:
    return answer(saved)


@contextmanager
def copy_of(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        yield Path(shutil.copytree(folder, Path(place) / "copy"))


def check(folder: Path, right: Tensor) -> None:
    """Fail for other numbers, and for another error than a refusal in one line."""
    for call in (answer, inspect_folder):
        try:
            found = call(folder)
        except LosparseError as error:
            assert "\n" not in str(error)
        else:
            assert not isinstance(found, Tensor) or torch.equal(found, right)


@many
@given(st.data())
def test_any_value_in_any_place_of_the_configuration(saved: Path, right: Tensor, data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(list(places(json.loads((saved / "config.json").read_text())))))
    value = data.draw(st.sampled_from(VALUES))
    if place and (place[0], value if value.__hash__ else None) in ANOTHER_MODEL:
        return
    with copy_of(saved) as folder:
        spoil(folder / "config.json", place, value)
        check(folder, right)


def at(tensor: Tensor, place: int, value: float) -> Tensor:
    flat = tensor.flatten().clone()
    flat[place] = value
    return flat.reshape(tensor.shape)


SPOILED: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda tensor: at(tensor.float(), 0, float("nan")),
    "infinity": lambda tensor: at(tensor.float(), -1, float("inf")),
    "whole numbers": lambda tensor: (tensor * 10).long() if tensor.is_floating_point() else tensor.int(),
    "one less": lambda tensor: tensor[:-1].clone(),
    "one more": lambda tensor: torch.cat([tensor, tensor[-1:] + 1]),
    "empty": lambda tensor: tensor[:0].clone(),
    "one number": lambda tensor: tensor.flatten()[0].clone(),
    "one axis more": lambda tensor: tensor[None].clone(),
}
SPOILED_INDICES: dict[str, Callable[[Tensor], Tensor]] = {
    "out of range": lambda tensor: at(tensor, -1, 1000),
    "very large": lambda tensor: at(tensor, -1, 2**62),
    "negative": lambda tensor: at(tensor, 0, -1),
    "repeated": lambda tensor: at(tensor, 1, int(tensor[0])),
    "backwards": lambda tensor: tensor.flip(0).contiguous(),
}


@many
@given(st.data())
def test_any_fault_in_any_tensor(saved: Path, right: Tensor, data: st.DataObject) -> None:
    tensors = load_file(saved / "model.safetensors")
    name = data.draw(st.sampled_from(sorted(tensors)))
    index = name.endswith((".kept", ".pivots"))
    ways = SPOILED | (SPOILED_INDICES if index else {})
    way = data.draw(st.sampled_from([*ways, "gone", "renamed"]))
    tensor = tensors.pop(name)
    if way in ways:
        tensors[name] = ways[way](tensor)
    elif way == "renamed":
        tensors[f"{name}x"] = tensor
    with copy_of(saved) as folder:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        check(folder, right)
        if index:
            with pytest.raises(LosparseError):  # none of these faults in an index is right
                load_model(folder)


@pytest.mark.parametrize("part", ["u", "v", "sparse", "kept", "pivots", "weight", "bias"])
def test_a_tensor_too_many_is_refused(saved: Path, part: str) -> None:
    """As of a rank of 0 in config.json, while factors of rank 2 lie in the file."""
    tensors = load_file(saved / "model.safetensors")
    layer = "bert.encoder.layer.1.intermediate.dense"
    config = json.loads((saved / "config.json").read_text())
    config["quantization_config"]["layers"][layer] |= {"rank": 0, "bias": False}
    for other in ("u", "v", "bias"):
        if other != part:
            del tensors[f"{layer}.{other}"]
    tensors.setdefault(f"{layer}.{part}", torch.zeros(2))
    with copy_of(saved) as folder:
        (folder / "config.json").write_text(json.dumps(config))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        for call in (load_model, inspect_folder, BertForSequenceClassification.from_pretrained):
            with pytest.raises(
                LosparseError, match=rf"config.json says '{layer}\.{part}' is none, the weights have \d+"
            ):
                call(folder)
