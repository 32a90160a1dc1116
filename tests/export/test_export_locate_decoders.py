"""A fault that is planted in one layer of a decoder is named by that layer, in the graph as it is exported.

Their activations are made of many nodes, and their blocks have no normalisation behind them, so the residual stream
goes through sums. Weights and tolerance are those of `test_export_locate`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, GPTNeoConfig, GPTNeoForSequenceClassification

from losparse.methods import LoSparse
from losparse.random_factors import random_factors_
from losparse_export import TaskModel, trace_model
from losparse_export.build import Built, build_graph
from losparse_export.folder.model import save_model
from losparse_export.parity.gate import Case, make_feeds
from losparse_export.parity.locate import first_difference
from losparse_export.target import prepare_model
from losparse_runtime.contract.task import TASKS

from .test_export_locate import TOLERANCE, change

_IDS = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}


def gpt2() -> Any:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_inner=64, n_positions=40, **_IDS)
    return GPT2ForSequenceClassification(config)


def gpt_neo() -> Any:
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64, "window_size": 8}
    kinds = [[["global", "local"], 1]]
    config = GPTNeoConfig(max_position_embeddings=40, attention_types=kinds, **sizes, **_IDS)
    return GPTNeoForSequenceClassification(config)


@pytest.fixture(scope="module", params=[gpt2, gpt_neo], ids=["gpt2", "gpt_neo"])
def decoder(request: pytest.FixtureRequest) -> tuple[TaskModel, Built]:
    """A factored decoder and the graph that an export of it writes."""
    torch.manual_seed(0)
    model = request.param().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif parameter.dim() == 1:
                parameter.uniform_(0.8, 1.2)
    random_factors_(model, LoSparse(keep=0.5, low_rank=0.1, structure="foldable", multiple=4), seed=1)
    wrapped = TaskModel(model, TASKS["text-classification"])
    return wrapped, build_graph(prepare_model(trace_model(wrapped)))


def located(decoder: tuple[TaskModel, Built], folder: Path, weight: str | None) -> str | None:
    model, built = decoder
    graph = built.graph.clone()
    if weight is not None:
        change(graph, weight)
    save_model(graph, folder)
    found = first_difference(model, folder, make_feeds(model, Case(2, 7, padded=True)), TOLERANCE)
    return None if found is None else found.layer


def test_a_right_graph_has_no_difference(decoder, tmp_path):
    assert located(decoder, tmp_path, None) is None


def test_every_wrong_weight_is_named_by_its_layer(decoder, tmp_path):
    weights = [name for name, value in decoder[1].graph.graph.initializers.items() if of_a_layer(name, value)]
    # The second block: normalisations, attention and both parts of the feed-forward, in factors; and the head.
    assert len(weights) > 12
    found = {weight: located(decoder, tmp_path, weight) for weight in weights}
    assert [weight for weight, layer in found.items() if layer is None or not weight.startswith(f"{layer}.")] == []


def of_a_layer(name: str, value: ir.Value) -> bool:
    """Tell whether a constant is a weight of the last block, or behind it."""
    tensor = value.const_value
    numbers = tensor is not None and tensor.dtype == ir.DataType.FLOAT and tensor.size > 4
    return numbers and name.startswith(("transformer.h.1.", "transformer.ln_f.", "score."))
