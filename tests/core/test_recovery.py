"""Recovery of a language model that was compressed without training: packed texts, a teacher, adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from losparse import ROM, Training, compress_, fine_tune
from losparse.data.examples import Examples
from losparse.data.loading import tokenize
from losparse.layers.factored import FactoredLinear
from losparse.training.batches import calibration_batches
from losparse.training.opening import text_length
from losparse_runtime.contract.task import CAUSAL_LM

from .conftest import build_llama

METHOD = ROM(keep=0.3)


def tied_llama(**overrides: Any) -> LlamaForCausalLM:
    """A decoder as SmolLM2 is one: heads that share keys and values, one table for the first layer and the last."""
    torch.manual_seed(0)
    config = LlamaConfig(**{**build_llama().config.to_dict(), "tie_word_embeddings": True, **overrides})
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def rows(tokenizer: Any) -> Any:
    """Blocks of texts that count up to 40."""
    texts = [" ".join(map(str, range(start, 41))) for start in range(2, 34)]
    return tokenize(Examples(texts, None, [None] * 32, ()), tokenizer, task="causal-lm", max_length=16)


@pytest.fixture
def dense(tokenizer: Any, rows: Any, tmp_path: Path) -> LlamaForCausalLM:
    model = tied_llama()
    training = Training(max_steps=60, learning_rate=1e-2, batch_size=8, freeze_embeddings=False)
    fine_tune(model, tokenizer, rows, rows, training, output_dir=tmp_path / "dense", quiet=True)
    return model


def loss_of(model: LlamaForCausalLM, rows: Any) -> float:
    ids = torch.tensor([row["input_ids"] for row in rows])
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_student_recovers_what_compression_lost(
    tokenizer: Any, rows: Any, dense: LlamaForCausalLM, tmp_path: Path, rank: int
) -> None:
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    batches = calibration_batches(rows, tokenizer, Training(batch_size=8), task=CAUSAL_LM)
    lost = tied_llama()
    lost.load_state_dict(before)
    compress_(lost, METHOD, batches)
    student = tied_llama()
    student.load_state_dict(before)
    training = Training(
        max_steps=60,
        learning_rate=1e-2 if rank else 2e-3,
        batch_size=4,
        gradient_accumulation=2,
        distill_weight=1.0,
        lora_rank=rank,
        lora_also="small" if rank else "head",
    )
    work = tmp_path / "work"
    result = fine_tune(
        student, tokenizer, rows, rows, training, output_dir=work, method=METHOD, teacher=dense, quiet=True
    )
    told = loss_of(dense, rows), loss_of(lost, rows), loss_of(student, rows)
    assert result.metrics["loss"] == pytest.approx(told[2], rel=1e-4)
    assert told[1] > told[0] + 0.1, "compression costs something"
    assert told[2] < told[0] + 0.3 * (told[1] - told[0]), "most of it comes back"
    assert result.compression is not None and result.compression.share <= 0.3
    assert any(isinstance(module, FactoredLinear) for module in student.modules())
    assert student.lm_head.weight is student.model.embed_tokens.weight, "still one table"
    assert torch.equal(student.lm_head.weight, before["lm_head.weight"]), "and frozen"
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items()), "nobody trains it"


def test_blocks_have_the_usual_length_where_nobody_says(tokenizer: Any) -> None:
    tokenizer.model_max_length = 4096
    long, short = tied_llama(max_position_embeddings=2048), tied_llama()
    for model, wanted, expected in ((long, None, 512), (short, None, 64), (long, 1024, 1024), (short, 8, 8)):
        assert text_length(model, tokenizer, wanted, usual=512) == expected
    assert text_length(long, tokenizer, None) == 2048
    assert text_length(long, tokenizer, None, short, usual=512) == 64, "the teacher reads them too"
