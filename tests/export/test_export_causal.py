"""Language models: one graph for a prompt and for one token more, with a cache that is updated where it lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from losparse import OneShotLoSparse, compress_
from losparse.errors import LosparseError
from losparse_export import Call, ExportReport, export_model
from losparse_export.tracing.trace import TraceOnce
from losparse_runtime import Session
from losparse_runtime.contract.tensors import LOGITS_FROM, MASK, POSITIONS, TOKENS

from .causal import causal_model, generated_by_runs, generated_by_torch

PROMPT, COUNT = [5, 9, 31, 7, 12], 20


@dataclass(frozen=True)
class Exported:
    """A model, its folder, and what was said of it."""

    model: Any
    folder: Path
    report: ExportReport
    tracer: TraceOnce

    def session(self, **options: Any) -> Session:
        return Session(self.folder, threads=1, **options)


Make = Callable[..., Exported]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Export a model of an architecture; once each, for a trace takes ten seconds and more."""
    known: dict[str, Exported] = {}

    def make(architecture: str = "LlamaForCausalLM") -> Exported:
        if architecture not in known:
            model, folder = causal_model(architecture), tmp_path_factory.mktemp("causal") / "folder"
            tracer = TraceOnce()
            known[architecture] = Exported(model, folder, export_model(model, folder, tracer=tracer), tracer)
        return known[architecture]

    return make


@pytest.mark.parametrize(
    "architecture", ["LlamaForCausalLM", "MistralForCausalLM", "GPT2LMHeadModel", "GPTNeoXForCausalLM"]
)
def test_the_same_tokens_as_pytorch(architecture: str, made: Make) -> None:
    """Grouped heads; a window of 5 tokens; heads of one product, learned positions; interleaved heads, half rotated."""
    exported = made(architecture)
    with exported.session() as session:
        assert generated_by_runs(session, PROMPT, COUNT) == generated_by_torch(exported.model, PROMPT, COUNT)
        assert all(state.in_place for state in session.signature.states)
        assert len(session.signature.states) == 4


def test_what_was_compared(made: Make) -> None:
    """Behind earlier tokens too, those of one text and of several, with padding in front of the shorter ones."""
    cases = made().report.parity.cases
    assert {(case["batch"], case["length"], case.get("past", 0)) for case in cases} >= {
        (1, 1, 23),
        (3, 1, 24),
        (1, 4, 7),
    }
    assert any(case["padded"] for case in cases)


def test_padding_on_the_left_changes_nothing(made: Make) -> None:
    with made().session() as session:
        alone = session.run({TOKENS: np.array([PROMPT])})
        ids, mask = np.array([[0, 0, *PROMPT], [3, 4, *PROMPT]]), np.array([[0, 0, *[1] * 5], [1] * 7])
        both = session.run({TOKENS: ids, MASK: mask})
    # The order of sums differs: a few times the rounding of numbers around 1.
    np.testing.assert_allclose(both["logits"][0, 2:], alone["logits"][0], atol=1e-6)


def test_positions_follow_the_mask(made: Make) -> None:
    with made().session() as session:
        mask = np.array([[0, 0, 1, 1, 1]])
        checked = session.signature.check({TOKENS: np.array([PROMPT]), MASK: mask})
    assert checked[POSITIONS].tolist() == [[0, 0, 0, 1, 2]]


def test_a_buffer_is_updated_where_it_lies(made: Make) -> None:
    """Two texts of other lengths in one buffer with room for 64 tokens: each goes on behind its own last one."""
    exported = made()
    with exported.session() as session:
        prompts = [PROMPT, PROMPT[:3]]
        wanted = [generated_by_runs(session, prompt, COUNT) for prompt in prompts]
        signature = session.signature
    raw = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
    rows = [
        {spec.name: np.zeros((1, *spec.sized({"batch": 1, "past": 64})[1:]), np.float32) for spec in signature.pasts}
    ]
    rows.append({name: buffer.copy() for name, buffer in rows[0].items()})
    first = [
        _bound(raw, signature, row, np.array([prompt]), len(prompt)) for row, prompt in zip(rows, prompts, strict=True)
    ]
    made_tokens = [[int(logits[0, -1].argmax())] for logits in first]
    both = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    for step in range(COUNT - 1):
        lengths = np.array([[len(prompt) + step + 1] for prompt in prompts])
        tokens = np.array([[tokens[-1]] for tokens in made_tokens])
        logits = _bound(raw, signature, both, tokens, lengths)
        for row, tokens_of_row in enumerate(made_tokens):
            tokens_of_row.append(int(logits[row, -1].argmax()))
    assert made_tokens == wanted


def _bound(raw: Any, signature: Any, buffers: dict[str, Any], tokens: Any, lengths: Any) -> Any:
    """Run on buffers that are past and present at once; `lengths` counts every text's tokens, these included."""
    lengths = np.broadcast_to(lengths, (len(tokens), 1))
    mask = (np.arange(lengths.max()) < lengths).astype(np.int64)
    positions = lengths - tokens.shape[1] + np.arange(tokens.shape[1])
    binding = raw.io_binding()
    for name, array in ((TOKENS, tokens), (MASK, mask), (POSITIONS, positions)):
        binding.bind_cpu_input(name, np.ascontiguousarray(array))
    for state in signature.states:
        buffer = buffers[state.past]
        place = ("cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
        binding.bind_input(state.past, *place)
        binding.bind_output(state.present, *place)
    binding.bind_output("logits", "cpu")
    raw.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()[-1]


def test_the_logits_of_the_last_token_alone(made: Make) -> None:
    exported = made()
    raw = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in raw.get_overridable_initializers()] == [LOGITS_FROM]
    with exported.session() as session:
        feeds = session.signature.check({TOKENS: np.array([PROMPT])})
    whole = raw.run(["logits"], feeds)[0]
    last = raw.run(["logits"], {**feeds, LOGITS_FROM: np.array([-1])})[0]
    assert whole.shape[1] == len(PROMPT) and last.shape[1] == 1
    np.testing.assert_allclose(last[:, 0], whole[:, -1], atol=1e-6)  # a product of one row is summed in another order


def test_heads_are_not_repeated_and_nothing_is_appended(made: Make) -> None:
    for architecture in ("LlamaForCausalLM", "MistralForCausalLM"):
        graph = onnx.load(made(architecture).folder / "model.onnx").graph
        kinds = [node.op_type for node in graph.node]
        assert kinds.count("GroupQueryAttention") == 2
        assert not {"Attention", "GatherND", "Transpose"} & set(kinds)
        assert kinds.count("Cos") == 1, "all layers share one pair"


@pytest.mark.parametrize("precision", ["int8", "int8-rows", "int8-weights", "int4-weights"])
def test_precisions(precision: str, made: Make, tmp_path: Path) -> None:
    exported = made()
    report = export_model(exported.model, tmp_path / "out", precision=precision, tracer=exported.tracer)
    assert report.parity.cosine > 0.9
    with Session(tmp_path / "out", threads=1) as session:
        assert len(generated_by_runs(session, PROMPT, 5)) == 5
        assert all(state.in_place for state in session.signature.states)


@pytest.mark.parametrize("opset", [18])
def test_older_operators(opset: int, made: Make, tmp_path: Path) -> None:
    exported = made()
    export_model(exported.model, tmp_path / "out", opset=opset, tracer=exported.tracer)
    with Session(tmp_path / "out", threads=1) as session:
        assert generated_by_runs(session, PROMPT, COUNT) == generated_by_torch(exported.model, PROMPT, COUNT)


def test_a_compressed_model(tmp_path: Path) -> None:
    """Factored layers whose factors fold and meet, as in an encoder."""
    model = causal_model(seed=1)
    compress_(model, OneShotLoSparse(keep=0.6, multiple=1), [{TOKENS: torch.tensor([PROMPT])}])
    report = export_model(model, tmp_path / "out")
    assert len(report.plan.layers) == 14
    with Session(tmp_path / "out", threads=1) as session:
        assert generated_by_runs(session, PROMPT, COUNT) == generated_by_torch(model, PROMPT, COUNT)


def test_a_call_behind_earlier_tokens_is_for_models_that_keep_them(made: Make, tmp_path: Path) -> None:
    exported = made()
    export_model(exported.model, tmp_path / "out", calls=Call(1, 1, past=16), tracer=exported.tracer)
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = BertForSequenceClassification(BertConfig(vocab_size=20, **sizes)).eval()
    with pytest.raises(LosparseError, match=r"^past of calls= is for models that keep .*, got 16; leave it out$"):
        export_model(encoder, tmp_path / "other", calls=Call(1, 1, past=16))
    assert not (tmp_path / "other").exists()


def test_models_that_keep_something_else_are_refused(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, state_size=4)).eval()
    with pytest.raises(LosparseError, match=r"^MambaForCausalLM: .*; state-space and linear-attention models are not"):
        export_model(model, tmp_path / "out", task="causal-lm")
