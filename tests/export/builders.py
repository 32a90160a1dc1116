"""Tiny models, factored layers in them, and graphs of a single layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
import transformers
from torch import nn

from losparse.layers.factored import FactoredLinear
from losparse_export.graph.marks import SCOPE
from losparse_export.graph.node import DOMAIN, INPUTS, OP_TYPE

LAYER = "encoder.layer.0.output.dense"

# Weights of magnitude 0.3 instead of 0.02: attention is then far from uniform, and a wrong mask shows in the outputs.
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}
_ROBERTA = {**SIZES, "type_vocab_size": 1, "pad_token_id": 1}
_DEBERTA = {
    **SIZES,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "type_vocab_size": 0,
    "position_biased_input": False,
}
_ROTARY = {**SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "vocab_size": 100, "initializer_range": 0.3}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForSequenceClassification", SIZES),
    "roberta": ("RobertaConfig", "RobertaForTokenClassification", _ROBERTA),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaForQuestionAnswering", _ROBERTA),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertForQuestionAnswering",
        {**_DISTILBERT, "max_position_embeddings": 40},
    ),
    "mpnet": ("MPNetConfig", "MPNetModel", {**SIZES, "pad_token_id": 1}),
    "deberta-v2": ("DebertaV2Config", "DebertaV2ForSequenceClassification", _DEBERTA),
    "electra": ("ElectraConfig", "ElectraForTokenClassification", {**SIZES, "embedding_size": 16}),
    # Rotary positions: windows of 8 tokens in all blocks but the first; two query heads to a key head; norms in heads.
    "modernbert": ("ModernBertConfig", "ModernBertForSequenceClassification", {**_ROTARY, "local_attention": 8}),
    "llama": ("LlamaConfig", "LlamaForSequenceClassification", {**_ROTARY, "num_key_value_heads": 1}),
    "qwen3": ("Qwen3Config", "Qwen3Model", {**_ROTARY, "num_key_value_heads": 1, "head_dim": 12}),
}

# Layers in a block of these differ from the six of a BERT, and positions are rotated between query and key.
ROTARY = ("modernbert", "llama", "qwen3")


def build_model(family: str, *, factored: bool = True, seed: int = 0, **overrides: Any) -> Any:
    """Return a tiny model with random weights and biases; with `factored`, its block layers have rank 4 and 6 kept."""
    config_name, model_name, settings = MODELS[family]
    torch.manual_seed(seed)
    config = getattr(transformers, config_name)(**{**settings, **overrides})
    model = getattr(transformers, model_name)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # zeros at first, which an optimizer may drop from the graph
                parameter.normal_(0, 0.1)
            elif parameter.dim() == 1:  # scales, ones at first, which are then one tensor
                parameter.uniform_(0.8, 1.2)
    return factor_(model) if factored else model


def factor_(model: Any, *, rank: int = 4, kept: int = 6) -> Any:
    """Replace every linear layer in the blocks: rows in even ones, columns in odd ones, with random weights."""
    layers = [
        (n, m) for n, m in model.named_modules() if type(m) is nn.Linear and any(p.isdigit() for p in n.split("."))
    ]
    for index, (name, linear) in enumerate(layers):
        axis = "in" if index % 2 else "out"
        model.set_submodule(name, make_layer(linear.out_features, linear.in_features, rank=rank, kept=kept, axis=axis))
    return model


def make_layer(
    out: int, in_: int, *, rank: int, kept: int | Sequence[int], axis: str = "out", bias: bool = True
) -> FactoredLinear:
    """Return a layer with random weights; `kept` says how many rows or columns, or which."""
    groups = out if axis == "out" else in_
    which = torch.randperm(groups)[:kept].sort().values if isinstance(kept, int) else torch.tensor(list(kept))
    layer = FactoredLinear(in_, out, rank=rank, kept=len(which), axis=axis, bias=bias)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.3)
    return layer.copy_(kept=which.to(torch.int64))


def layer_graph(layer: FactoredLinear, *, axes: int | None = 3, opset: int = 23) -> ir.Model:
    """Return the graph the trace would leave for one layer: x (d0, ..., in) -> y; `axes=None` hides the rank of x."""
    shape = None if axes is None else ir.Shape([*(f"d{i}" for i in range(axes - 1)), layer.in_features])
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
    node, stored = factored_node(x, layer, LAYER)
    y = node.outputs[0]
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [y], nodes=[node], initializers=stored, opset_imports={"": opset, DOMAIN: 1}, name="layer")
    return ir.Model(graph, ir_version=11 if opset >= 23 else 10)


def factored_node(x: ir.Value, layer: FactoredLinear, name: str) -> tuple[ir.Node, list[ir.Value]]:
    """Return the node the trace would leave for a layer, and its weights."""
    weights: list[ir.Value | None] = []
    for weight in INPUTS[1:]:
        tensor = getattr(layer, weight)
        weights.append(None if tensor is None else initializer(f"{name}.{weight}", tensor.detach().numpy()))
    while weights and weights[-1] is None:  # torch's exporter cuts trailing absent inputs off
        weights.pop()
    attributes = {
        "axis": layer.axis,
        "rank": layer.rank,
        "kept_count": layer.kept_count,
        "in_features": layer.in_features,
        "out_features": layer.out_features,
    }
    if layer.pivot_side is not None:
        attributes["pivot_side"] = layer.pivot_side
    node = ir.node(OP_TYPE, [x, *weights], attributes, domain=DOMAIN, version=1, metadata_props={SCOPE: name})
    return node, [value for value in weights if value is not None]


def run_graph(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run a graph in onnxruntime, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = ir.to_proto(model).SerializeToString()
    return list(onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds))


def initializer(name: str, array: np.ndarray) -> ir.Value:
    """Return a constant of a graph."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
