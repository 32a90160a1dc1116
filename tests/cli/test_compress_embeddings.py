"""`losparse compress` with `--embeddings` and `--embedding-rank`: before training, without any, and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaForCausalLM

from losparse.layers.embedding import TiedHead
from losparse.models.tables import compact_tables
from losparse.pipeline.embeddings import count_tokens

from .conftest import FEW, Command, Sources, StopAt, make_model, name_classes, nothing_written

WORDS = "bert.embeddings.word_embeddings"
POSITIONS = "bert.embeddings.position_embeddings"


def report_of(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "out" / "losparse_report.json").read_text())


def test_tables_in_8_bits_stay_as_they_were_made_while_the_rest_is_trained(
    compress_into: Any, losparse: Command, sources: Sources, tmp_path: Path
) -> None:
    done = compress_into(*FEW, "--embeddings", "int8")
    assert done.code == 0, done.err
    assert f"embeddings: {WORDS} is 24x32, int8" in done.out.splitlines()
    report = report_of(tmp_path)
    assert report["recipe"]["embeddings"] == "int8" and set(report["compression"]["embeddings"]) == {WORDS, POSITIONS}
    before, after = (load_file(folder / "model.safetensors") for folder in (sources.model, tmp_path / "out"))
    rows, scale = after[f"{WORDS}.rows"], after[f"{WORDS}.scale"]
    assert rows.dtype == torch.int8
    off = (rows.float() * scale[:, None] - before[f"{WORDS}.weight"]).abs()
    assert (off <= scale[:, None] * 0.501).all(), "--no-freeze-embeddings trains no rows of 8 bits"
    types = f"{WORDS.rpartition('.')[0]}.token_type_embeddings.weight"
    assert not torch.equal(before[types], after[types]), "what is small stays a table, and is trained"
    shown = losparse("inspect", tmp_path / "out")
    assert shown.code == 0 and f"model: {report['compression']['model_parameters']:,} parameters" in shown.out


def test_a_resumed_training_has_the_same_tables(compress_into: Any, losparse: Command, tmp_path: Path) -> None:
    flags = ("--max-steps", 8, *FEW[2:], "--save-steps", 3, "--embeddings", "int8", "--embedding-rank", 0.25)
    assert compress_into(*flags, callbacks=[StopAt(5)]).code == 130
    compress_into(*flags, "--embedding-rank", 0.3, "--resume").refused("--resume", "recipe changed")
    assert compress_into(*flags, "--resume").code == 0
    resumed = load_file(tmp_path / "out" / "model.safetensors")
    assert compress_into(*flags, "--overwrite").code == 0
    straight = load_file(tmp_path / "out" / "model.safetensors")
    assert resumed.keys() == straight.keys() and all(torch.equal(resumed[name], straight[name]) for name in straight)
    assert resumed[f"{WORDS}.rows"].shape == (24, 8) and resumed[f"{WORDS}.mix"].shape == (8, 32)


def test_tables_alone_need_neither_a_method_nor_texts(compress_into: Any, sources: Sources, tmp_path: Path) -> None:
    done = compress_into("--method", "none", "--embeddings", "int8", train=None, validation=None)
    assert done.code == 0, done.err
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert set(compact_tables(model)) == {WORDS, POSITIONS}
    assert report_of(tmp_path)["compression"]["layers"] == []
    compress_into("--method", "none", train=None, validation=None).refused("changes nothing", "--embeddings")


def test_a_lower_rank_follows_the_words_of_the_texts(compress_into: Any, sources: Sources, tmp_path: Path) -> None:
    text = tmp_path / "texts.txt"
    text.write_text("the film\n" * 500)
    flags = ("--method", "svd", "--keep", 0.5, "--embedding-rank", 0.25)

    def lost(**files: Any) -> float:
        more = ("--calibration", text) if files else ()
        method = ("--method", "rom", "--keep", 0.5, "--embedding-rank", 0.25) if files else flags
        done = compress_into(*method, *more, "--overwrite", train=None, validation=None)
        assert done.code == 0, done.err
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
        dense = load_file(sources.model / "model.safetensors")[f"{WORDS}.weight"]
        the = 13  # five special words and eight others come before it
        return float((compact_tables(model)[WORDS].dense_weight() - dense)[the].norm() / dense[the].norm())

    assert lost(calibration=text) < 0.2 < lost()


def test_counts_are_of_tokens_that_have_a_row() -> None:
    rows = [{"input_ids": [1, 1, 3]}, {"input_ids": [3, 9]}]
    assert count_tokens(rows, 5).tolist() == [0, 2, 0, 2, 0]


def test_a_decoder_keeps_its_tied_head(compress_into: Any, decoder: Path, tmp_path: Path) -> None:
    untied = LlamaForCausalLM.from_pretrained(decoder)
    untied.lm_head.weight.data.copy_(untied.model.embed_tokens.weight)
    untied.config.tie_word_embeddings = True
    untied.save_pretrained(decoder)
    flags = ("--task", "causal-lm", "--max-steps", 2, "--max-length", 8, "--method", "none", "--embeddings", "int8")
    done = compress_into(*flags, model=decoder)
    assert done.code == 0, done.err
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert isinstance(model.lm_head, TiedHead) and not info["missing_keys"] and not info["unexpected_keys"]


def test_tables_go_with_fewer_blocks_a_teacher_and_adapters(
    compress_into: Any, model_copy: Path, tmp_path: Path
) -> None:
    name_classes(model_copy, "bad", "good")
    flags = ("--max-steps", 2, "--embeddings", "int8", "--keep-layers", 1, "--method", "svd", "--keep", 0.5)
    teaching = ("--teacher", model_copy, "--distill-weight", 0.5, "--distill-hidden", 1)
    done = compress_into(*flags, *teaching, "--lora-rank", 2)
    assert done.code == 0, done.err
    assert set(report_of(tmp_path)["compression"]["embeddings"]) == {WORDS, POSITIONS}
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--embeddings", "int4"), ("--embeddings", "float", "int8")),
        (("--embedding-rank", 1), ("--embedding-rank", "(0, 1)", "got '1'")),
        (("--embedding-rank", 0.9), ("no embedding table to make smaller",)),
    ],
)
def test_what_would_change_nothing_is_refused(
    compress_into: Any, tmp_path: Path, flags: tuple[object, ...], words: tuple[str, ...]
) -> None:
    compress_into(*FEW, *flags).refused(*words)
    assert nothing_written(tmp_path)


def test_a_table_that_is_not_finite_is_refused(compress_into: Any, tmp_path: Path, sources: Sources) -> None:
    model = make_model()
    model.bert.embeddings.word_embeddings.weight.data[3, 3] = float("inf")
    model.save_pretrained(tmp_path / "bad")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bad" / name).write_bytes((sources.model / name).read_bytes())
    compress_into(*FEW, "--embeddings", "int8", model=tmp_path / "bad").refused("NaN or infinity", WORDS)
