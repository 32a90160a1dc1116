"""Exported folders made by hand: a model of two embedding tables and one matrix, and a tokenizer of eight words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from losparse_runtime import Session
from losparse_runtime.text.encoder import TextEncoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e", "f", "g", "h"]
HIDDEN = 4
CLASSES = 3
LABELS = {
    "text-classification": ["red", "green", "blue"],
    "multi-label-classification": ["red", "green", "blue"],
    "token-classification": ["red", "green", "blue"],
    "regression": ["stars"],
}
MAX_LENGTH = 16
FINGERPRINT = hashlib.sha256(b"graph and weights").hexdigest()


@dataclass(frozen=True)
class Weights:
    """The model's tables: words (12, 4), types (2, 4), head (4, columns)."""

    words: NDArray[Any]
    types: NDArray[Any]
    head: NDArray[Any]

    def hidden(self, ids: Sequence[int], types: Sequence[int] | None = None) -> NDArray[Any]:
        """What the model makes of one text: (tokens, 4)."""
        type_ids = [0] * len(ids) if types is None else types
        return np.asarray(self.words[list(ids)] + self.types[list(type_ids)])


@dataclass
class Folder:
    """A made folder and the numbers in it."""

    path: Path
    weights: Weights

    def edit(self, change: Callable[[dict[str, Any]], object], file: str = "losparse.json") -> Folder:
        """Change one of its JSON files."""
        data = json.loads((self.path / file).read_text())
        change(data)
        (self.path / file).write_text(json.dumps(data))
        return self


MakeFolder = Callable[..., Folder]


class Answering(Session):
    """A session whose model says what a test gives it."""

    def __init__(self, folder: Path, run: Callable[[Any], Any], encoder: TextEncoder | None = None) -> None:
        super().__init__(folder, threads=1)
        self._answer = run
        self.encoder = self.encoder if encoder is None else encoder

    def run(self, inputs: Any) -> Any:
        return self._answer(inputs)


class Fixed(TextEncoder):
    """An encoder that makes the same encoding of everything."""

    def __init__(self, folder: Path, made: Any) -> None:
        super().__init__(folder, MAX_LENGTH, 0)
        self._made = made

    def encodings(self, *arguments: Any, **options: Any) -> Any:
        return [self._made]

    def windows(self, *arguments: Any, **options: Any) -> Any:
        return [self._made]

    def arrays(self, encodings: Any) -> Any:
        return {"attention_mask": np.ones((1, len(self._made.ids)), np.int64)}


def make_weights(columns: int, seed: int) -> Weights:
    generator = np.random.default_rng(seed)
    shapes = {"words": (len(WORDS), HIDDEN), "types": (2, HIDDEN), "head": (HIDDEN, columns)}
    return Weights(**{name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(WORDS[:4])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # As in folders of the wild: settings of the training run, which the runtime must not follow.
    made.enable_truncation(5)
    made.enable_padding(length=9, pad_id=1, pad_token="[UNK]")
    return made


def _head(task: str) -> tuple[list[onnx.NodeProto], dict[str, list[int | str]], int]:
    """The nodes after `hidden`, the outputs with their shapes, and the head's columns."""
    if task == "feature-extraction":
        nodes = [helper.make_node("Identity", ["hidden"], ["last_hidden_state"])]
        return nodes, {"last_hidden_state": ["batch", "sequence", HIDDEN]}, 1
    if task == "token-classification":
        nodes = [helper.make_node("MatMul", ["hidden", "head"], ["logits"])]
        return nodes, {"logits": ["batch", "sequence", CLASSES]}, CLASSES
    if task == "question-answering":
        nodes = [
            helper.make_node("MatMul", ["hidden", "head"], ["both"]),
            helper.make_node("Split", ["both"], ["starts", "ends"], axis=2, num_outputs=2),
            helper.make_node("Squeeze", ["starts", "two"], ["start_logits"]),
            helper.make_node("Squeeze", ["ends", "two"], ["end_logits"]),
        ]
        return nodes, {"start_logits": ["batch", "sequence"], "end_logits": ["batch", "sequence"]}, 2
    columns = len(LABELS[task])
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "two"], ["mask3"]),
        helper.make_node("Mul", ["hidden", "mask3"], ["real"]),
        helper.make_node("ReduceSum", ["real", "one"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["sum", "head"], ["logits"]),
    ]
    return nodes, {"logits": ["batch", columns]}, columns


def _model(task: str, types: bool, seed: int, poison: bool) -> tuple[onnx.ModelProto, dict[str, Any], Weights]:
    """The model, its inputs and outputs as losparse.json has them, and its weights."""
    nodes, outputs, columns = _head(task)
    weights = make_weights(columns, seed)
    if poison:
        weights.words[WORDS.index("h")] = np.nan
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    embed = [helper.make_node("Gather", ["words", "input_ids"], ["by_word"])]
    if types:
        embed.append(helper.make_node("Gather", ["types", "token_type_ids"], ["by_type"]))
    else:
        embed.append(helper.make_node("Gather", ["types", "zero"], ["by_type"]))
    embed.append(helper.make_node("Add", ["by_word", "by_type"], ["hidden"]))
    constants = {
        "words": weights.words,
        "types": weights.types,
        "head": weights.head,
        "zero": np.array(0),
        "one": np.array([1]),
        "two": np.array([2]),
    }
    used = {name for node in embed + nodes for name in node.input}
    graph = helper.make_graph(
        embed + nodes,
        "made",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model.metadata_props.add(key="losparse.fingerprint", value=FINGERPRINT)
    tensors = {
        "inputs": [{"name": name, "dtype": "int64", "shape": ["batch", "sequence"]} for name in names],
        "outputs": [{"name": name, "dtype": "float32", "shape": shape} for name, shape in outputs.items()],
    }
    return model, tensors, weights


def file_record(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _metadata(task: str, path: Path, tensors: dict[str, Any]) -> dict[str, Any]:
    embeds = task == "feature-extraction"
    return {
        "format": 1,
        "task": task,
        "source": {
            "model": "made",
            "model_type": "bert",
            "architecture": "BertModel",
            "compressed": False,
            "method": None,
        },
        "precision": "fp32",
        "opset": 20,
        "ir_version": 10,
        "fingerprint": FINGERPRINT,
        "files": {"model.onnx": file_record(path / "model.onnx")},
        **tensors,
        "labels": LABELS.get(task),
        "max_length": MAX_LENGTH,
        "pooling": "mean" if embeds else None,
        "normalize": embeds,
        "session": {"disabled_optimizers": []},
        "parameters": {"model": 68, "layers": 12, "layers_dense": 12},
        "parity": {"max_abs": 1e-6, "max_rel": 1e-6, "tolerance": 1e-4, "cases": [{"batch": 1, "length": 7}]},
        "versions": {"losparse": "0.1.0"},
    }


def write_folder(
    path: Path, task: str = "text-classification", *, types: bool = True, seed: int = 0, poison: bool = False
) -> Folder:
    """Write an exported folder, which is not there yet; see `make_folder`."""
    path.mkdir()
    model, tensors, weights = _model(task, types, seed, poison)
    onnx.save(model, path / "model.onnx")
    (path / "losparse.json").write_text(json.dumps(_metadata(task, path, tensors)))
    config = {"vocab_size": len(WORDS), "type_vocab_size": 2, "pad_token_id": 0}
    (path / "config.json").write_text(json.dumps(config))
    tokenizer().save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    return Folder(path, weights)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write an exported folder: `make_folder(task)`; options are `name`, `types`, `seed`, `poison` (NaN for "h")."""

    def make(task: str = "text-classification", *, name: str = "made", **options: Any) -> Folder:
        return write_folder(tmp_path / name, task, **options)

    return make
