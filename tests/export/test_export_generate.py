"""Exported language models generate the tokens that transformers generates, prompt by prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from losparse_export import export_model
from losparse_runtime import Session

from ..runtime.decoder_models import BEGIN, END, PAD, VOCABULARY, byte_tokenizer

PROMPTS = ["Hello", "A much longer prompt than the others", "x", "Other", "é€"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Session]:
    """A tiny Llama with fewer heads of keys than of queries, and its exported folder, open."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        initializer_range=0.3,  # so that tokens differ, and the first and the second choice are far from each other
        bos_token_id=BEGIN,
        eos_token_id=[END, 79],
        pad_token_id=PAD,
    )
    model = LlamaForCausalLM(config).eval()
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder / "model")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(folder / "model")
    export_model(folder / "model", folder / "onnx")
    return model, Session(folder / "onnx", threads=1)


def theirs(model: Any, prompt: str, **choices: Any) -> list[int]:
    """Continue one prompt alone: beside longer ones, transformers counts padding among the tokens of a penalty."""
    ids = torch.tensor([list(prompt.encode())])
    made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **choices)
    return list(made[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_tokens_are_those_of_transformers(llama: tuple[Any, Session], penalty: float, batch_size: int) -> None:
    model, session = llama
    choices = {"max_new_tokens": 40, "repetition_penalty": penalty}
    expected = [theirs(model, prompt, **choices) for prompt in PROMPTS]
    results = session.generate(PROMPTS, batch_size, **choices)  # type: ignore[arg-type]
    assert [list(each.tokens) for each in results] == expected
    assert [each.finish_reason for each in results] == [
        "stop" if each[-1] in (END, 79) else "length" for each in expected
    ]
    assert len({tuple(each) for each in expected}) == len(PROMPTS)
    assert len({len(each) for each in expected}) > 1 or penalty == 1  # some end before others


def test_the_cache_is_in_place(llama: tuple[Any, Session]) -> None:
    _, session = llama
    assert session.signature.states and all(state.in_place for state in session.signature.states)
    assert session.language_model._graph.shared


def test_text_to_the_last_position(llama: tuple[Any, Session]) -> None:
    model, session = llama
    prompt = PROMPTS[1] * 2
    left = 96 - len(prompt)
    (result,) = session.generate(prompt, max_new_tokens=left, stop_tokens=())
    assert list(result.tokens) == theirs(model, prompt, max_new_tokens=left, eos_token_id=[])
    assert len(result.tokens) == left
