"""Tiny models and data, built from configs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from losparse.data.examples import Examples
from losparse.data.loading import load_examples
from losparse.layers.factored import FactoredLinear

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.1,
}


def build_bert(seed: int = 0, **overrides: Any) -> BertForSequenceClassification:
    """Return a BERT classifier of 12 target layers; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(**{**TINY, **overrides})).eval()


@pytest.fixture
def tiny_bert() -> Callable[..., BertForSequenceClassification]:
    return build_bert


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Words are the numbers 2 to 99, and each is its own id; 99 ends a text."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{str(i): i for i in range(2, 100)}}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", eos_token="99")


def toy_items(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return texts of random ids whose label is whether id 7 occurs: learnable in a few dozen steps."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for i in range(count):
        length = int(torch.randint(5, 12, (), generator=generator))
        ids = torch.randint(10, 100, (length,), generator=generator).tolist()
        if i % 2:
            ids[1 : length // 2 + 1] = [7] * (length // 2)
        items.append({"input_ids": ids, "attention_mask": [1] * length, "labels": i % 2})
    return items


def run_two_processes(worker: str, folder: Path) -> None:
    """Run a script in two gloo processes; it gets the folder, and writes "same" into it when all went well."""
    root = Path(__file__).parents[2]
    script = folder / "worker.py"
    script.write_text(worker.format(path=[str(root)]))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launch, str(script), str(folder)], cwd=root, capture_output=True, text=True, timeout=300)
    assert (folder / "same").exists(), done.stderr[-3000:]


def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad a batch of toy items."""
    longest = max(len(item["input_ids"]) for item in items)
    pad = {
        key: [item[key] + [0] * (longest - len(item[key])) for item in items] for key in ("input_ids", "attention_mask")
    }
    return {**{k: torch.tensor(v) for k, v in pad.items()}, "labels": torch.tensor([item["labels"] for item in items])}


def batches(count: int = 3) -> list[dict[str, torch.Tensor]]:
    """Return padded batches of four toy items each."""
    return [collate(toy_items(4, seed)) for seed in range(count)]


def build_llama() -> LlamaForCausalLM:
    """Return a decoder of three blocks whose keys and values are shared by two heads each."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


def outputs(model: nn.Module, which: list[dict[str, torch.Tensor]] | None = None) -> torch.Tensor:
    """Return the logits of a model of all batches, in one row."""
    with torch.no_grad():
        return torch.cat([model(**batch).logits.flatten() for batch in which or batches()])


def sizes_of(model: nn.Module) -> dict[str, FactoredLinear]:
    """Return the factored layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FactoredLinear)}


Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file by its name and its content, and return its path."""

    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def jsonl(*rows: Any) -> str:
    """Return rows as the content of a jsonl file."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def classify(path: Path | str, **options: Any) -> Examples:
    """Read labelled texts of one class each."""
    return load_examples(path, task="text-classification", **options)
