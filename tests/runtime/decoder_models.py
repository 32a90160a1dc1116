"""Exported folders of tiny language models made by hand, in the two kinds that there are: a cache in place, or growing.

Two layers of attention with fewer heads of keys than of queries, over words and places; random weights of a seed. Both
kinds have the same weights, so they say the same. The tokenizer's tokens are the 256 bytes, and three special ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from losparse_runtime import Session
from losparse_runtime.contract.tensors import LOGITS_FROM, past_name, present_of

from .conftest import FINGERPRINT, file_record

Kind = Literal["in place", "growing"]
KINDS: tuple[Kind, ...] = ("in place", "growing")

LAYERS, HIDDEN, HEADS, KV_HEADS, WIDTH = 2, 16, 4, 2, 8
POSITIONS = 64
BEGIN, END, PAD = 256, 257, 258
VOCABULARY = 259
_HIDDEN_SCORE = np.float32(-3e4)


@dataclass(frozen=True)
class Made:
    """What a folder is made of.

    Attributes:
        kind: of its cache.
        seed: of its weights.
        cuts: whether logits may be asked of the last token alone.
        positions: that it has.
        sharp: what its logits are multiplied by.
        ends: what generation_config.json says ends a text; None for no such file.
        config: more for config.json.
        poison: a word whose embedding is NaN.
    """

    kind: Kind = "in place"
    seed: int = 0
    cuts: bool = True
    positions: int = POSITIONS
    sharp: float = 1.0
    ends: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    poison: int | None = None


class _Graph:
    """Nodes and constants of a graph that is being made."""

    def __init__(self, made: Made) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(made.seed)

    def add(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, list(outputs), **attributes))
        return outputs[0]

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, name: str, rows: int, columns: int, scale: float) -> str:
        return self.constant(name, (self.random.normal(size=(rows, columns)) * scale).astype(np.float32))

    def heads(self, value: str, count: int) -> str:
        """Return (batch, heads, sequence, width) of (batch, sequence, heads * width)."""
        shape = self.constant(f"{value}.shape", np.array([0, -1, count, WIDTH]))
        apart = self.add("Reshape", [value, shape], f"{value}.apart")
        return self.add("Transpose", [apart], f"{value}.heads", perm=[0, 2, 1, 3])


def _in_place_masks(graph: _Graph) -> dict[str, str]:
    """Read off the mask where every row ends, how long all are, and what hides padding."""
    graph.add("Cast", ["attention_mask"], "mask32", to=TensorProto.INT32)
    graph.add("ArgMax", ["mask32"], "last", axis=1, keepdims=0, select_last_index=1)
    graph.add("Cast", ["last"], "ends", to=TensorProto.INT32)
    graph.add("Squeeze", ["total1", "axis0"], "total64")
    graph.add("Cast", ["total64"], "total", to=TensorProto.INT32)
    graph.add("Sub", ["number1", "attention_mask"], "padding")
    graph.add("Cast", ["padding"], "padding_float", to=TensorProto.FLOAT)
    graph.add("Mul", ["padding_float", graph.constant("score", _HIDDEN_SCORE)], "scores")
    graph.add("Unsqueeze", ["scores", "axes12"], "scores4")
    graph.add("Concat", ["axis1", "axis1", "queries1", "axis1"], "scores_shape", axis=0)
    return {"ends": "ends", "total": "total", "bias": graph.add("Expand", ["scores4", "scores_shape"], "bias")}


def _growing_mask(graph: _Graph) -> dict[str, str]:
    """Say what every token sees: tokens before it and itself, and no padding."""
    graph.add("Squeeze", ["total1", "axis0"], "total")
    graph.add("Squeeze", ["queries1", "axis0"], "queries")
    graph.add("Sub", ["total", "queries"], "past")
    graph.add("Range", [graph.constant("number0", np.array(0)), "total", "number1"], "keys")
    graph.add("Range", ["past", "total", "number1"], "rows")
    graph.add("Unsqueeze", ["rows", "axis1"], "column")
    graph.add("LessOrEqual", ["keys", "column"], "causal")
    graph.add("Cast", ["attention_mask"], "real", to=TensorProto.BOOL)
    graph.add("Unsqueeze", ["real", "axes12"], "real4")
    return {"mask": graph.add("And", ["real4", "causal"], "mask")}


def _attention(graph: _Graph, layer: int, parts: list[str], masks: dict[str, str], kind: Kind) -> str:
    pasts = [past_name(layer, each) for each in ("key", "value")]
    presents = [str(present_of(past)) for past in pasts]
    query, key, value = parts
    if kind == "in place":
        inputs = [query, key, value, *pasts, masks["ends"], masks["total"], "", "", "", masks["bias"]]
        sizes = {"num_heads": HEADS, "kv_num_heads": KV_HEADS}
        return graph.add("GroupQueryAttention", inputs, f"attended{layer}", *presents, domain="com.microsoft", **sizes)
    for past, new, present in zip(pasts, (key, value), presents, strict=True):
        graph.add("Concat", [past, graph.heads(new, KV_HEADS)], present, axis=2)
    apart = graph.add("Attention", [graph.heads(query, HEADS), *presents, masks["mask"]], f"attended{layer}.heads")
    graph.add("Transpose", [apart], f"attended{layer}.apart", perm=[0, 2, 1, 3])
    joined = graph.constant(f"joined{layer}", np.array([0, -1, HEADS * WIDTH]))
    return graph.add("Reshape", [f"attended{layer}.apart", joined], f"attended{layer}")


def _model(made: Made) -> tuple[onnx.ModelProto, dict[str, Any]]:
    graph = _Graph(made)
    words = graph.random.normal(size=(VOCABULARY, HIDDEN)).astype(np.float32)
    if made.poison is not None:
        words[made.poison] = np.nan
    graph.constant("words", words)
    graph.weight("places", made.positions, HIDDEN, 1.0)
    for name, value in {"axis0": [0], "axis1": [1], "axes12": [1, 2], "number1": 1, "end": [2**63 - 1]}.items():
        graph.constant(name, np.array(value))
    graph.add("Shape", ["attention_mask"], "total1", start=1, end=2)
    graph.add("Shape", ["input_ids"], "queries1", start=1, end=2)
    masks = _in_place_masks(graph) if made.kind == "in place" else _growing_mask(graph)
    graph.add("Gather", ["words", "input_ids"], "word")
    graph.add("Gather", ["places", "position_ids"], "place")
    hidden = graph.add("Add", ["word", "place"], "hidden")
    for layer in range(LAYERS):
        columns = {"q": HEADS * WIDTH, "k": KV_HEADS * WIDTH, "v": KV_HEADS * WIDTH}
        weights = {name: graph.weight(f"{name}.w{layer}", HIDDEN, size, HIDDEN**-0.5) for name, size in columns.items()}
        parts = [graph.add("MatMul", [hidden, weight], f"{name}{layer}") for name, weight in weights.items()]
        attended = _attention(graph, layer, parts, masks, made.kind)
        out = graph.weight(f"o.w{layer}", HEADS * WIDTH, HIDDEN, (HEADS * WIDTH) ** -0.5)
        added = graph.add("MatMul", [attended, out], f"out{layer}")
        hidden = graph.add("Add", [hidden, added], f"hidden{layer}")
    if made.cuts:
        hidden = graph.add("Slice", [hidden, LOGITS_FROM, "end", "axis1"], "read")
        graph.constant(LOGITS_FROM, np.array([0]))
    graph.add("MatMul", [hidden, graph.weight("head", HIDDEN, VOCABULARY, made.sharp * HIDDEN**-0.5)], "logits")
    return _proto(graph, made)


def _tensors(made: Made) -> dict[str, Any]:
    """Inputs, outputs and states as losparse.json has them."""
    whole, number = "int64", "float32"
    inputs = [("input_ids", whole, ["batch", "sequence"]), ("attention_mask", whole, ["batch", "past+sequence"])]
    inputs += [("position_ids", whole, ["batch", "sequence"])]
    outputs = [("logits", number, ["batch", "sequence", VOCABULARY])]
    states = []
    for layer in range(LAYERS):
        for kind in ("key", "value"):
            past = past_name(layer, kind)
            present = str(present_of(past))
            inputs.append((past, number, ["batch", KV_HEADS, "past", WIDTH]))
            outputs.append((present, number, ["batch", KV_HEADS, "past+sequence", WIDTH]))
            shared = {"in_place": True} if made.kind == "in place" else {}
            states.append({"past": past, "present": present, **shared})
    named = [
        [{"name": name, "dtype": dtype, "shape": shape} for name, dtype, shape in each] for each in (inputs, outputs)
    ]
    return {"inputs": named[0], "outputs": named[1], "states": states}


def _proto(graph: _Graph, made: Made) -> tuple[onnx.ModelProto, dict[str, Any]]:
    tensors = _tensors(made)
    kinds = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}

    def infos(side: str) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(each["name"], kinds[each["dtype"]], each["shape"]) for each in tensors[side]
        ]

    cut = [helper.make_tensor_value_info(LOGITS_FROM, TensorProto.INT64, [1])] if made.cuts else []
    outputs = infos("outputs")
    outputs[0].type.tensor_type.shape.dim[1].dim_param = "computed"
    proto = helper.make_graph(graph.nodes, "made", infos("inputs") + cut, outputs, graph.constants)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(proto, opset_imports=opsets, ir_version=10)
    model.metadata_props.add(key="losparse.fingerprint", value=FINGERPRINT)
    return model, tensors


def byte_tokenizer() -> Tokenizer:
    """Return a tokenizer of one token a byte, whose number is the byte's."""
    letters = [letter for letter, _ in sorted(_byte_letters().items(), key=lambda pair: pair[1])]
    made = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in ("<s>", "</s>", "<pad>")])
    return made


def _byte_letters() -> dict[str, int]:
    """Return the letter that byte-level tokenizers write for every byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


def write_decoder(path: Path, made: Made = Made()) -> Path:
    """Write an exported folder, which is not there yet."""
    path.mkdir()
    model, tensors = _model(made)
    onnx.save(model, path / "model.onnx")
    described = {
        "format": 1,
        "task": "causal-lm",
        "source": {
            "model": "made",
            "model_type": "llama",
            "architecture": "LlamaForCausalLM",
            "compressed": False,
            "method": None,
        },
        "precision": "fp32",
        "opset": 23,
        "ir_version": 10,
        "fingerprint": FINGERPRINT,
        "files": {"model.onnx": file_record(path / "model.onnx")},
        **tensors,
        "labels": None,
        "max_length": made.positions,
        "pooling": None,
        "normalize": False,
        "session": {"disabled_optimizers": []},
        "parameters": {"model": 68, "layers": 12, "layers_dense": 12},
        "parity": {"max_abs": 1e-6, "max_rel": 1e-6, "tolerance": 1e-4, "cases": [{"batch": 1, "length": 7}]},
        "versions": {"losparse": "0.1.0"},
    }
    (path / "losparse.json").write_text(json.dumps(described))
    config = {"vocab_size": VOCABULARY, "bos_token_id": BEGIN, "eos_token_id": END, **made.config}
    (path / "config.json").write_text(json.dumps(config))
    if made.ends is not None:
        (path / "generation_config.json").write_text(json.dumps({"eos_token_id": made.ends}))
    byte_tokenizer().save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}}))
    return path


def logits_after(session: Session, tokens: list[int]) -> NDArray[np.float32]:
    """Compute the logits behind some tokens from scratch, without a cache: (vocabulary,)."""
    return np.asarray(session.run({"input_ids": np.array([tokens])})["logits"][0, -1])


def greedy_by_hand(session: Session, prompt: list[int], most: int, ends: tuple[int, ...] = (END,)) -> list[int]:
    """Continue a prompt by computing everything from scratch for every token."""
    found: list[int] = []
    while len(found) < most and not (found and found[-1] in ends):
        found.append(int(logits_after(session, prompt + found).argmax()))
    return found
