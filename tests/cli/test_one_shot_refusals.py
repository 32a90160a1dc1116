"""What `losparse compress` without --train refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import T5Config, T5ForConditionalGeneration

from .conftest import Command, Sources, edit_json, make_tokenizer, nothing_written


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["method 'losparse' needs training", "--train FILE", "`losparse methods`"]),
        (["--method", "lpaf"], ["method 'lpaf' needs training", "--train FILE"]),
        (["--method", "pruning", "--calibration", "TEXTS"], ["method 'pruning' needs training", "--train FILE"]),
        (["--method", "none"], ["method 'none' without training changes nothing", "--keep-neurons", "--train FILE"]),
        (["--method", "svd", "--joint"], ["--joint needs texts", "add --calibration FILE, or leave --joint out\n"]),
        (["--method", "fwsvd"], ["method 'fwsvd' needs labels", "--train FILE", "`losparse methods`"]),
        (["--method", "fwsvd", "--calibration", "TEXTS"], ["method 'fwsvd' needs labels", "--train FILE"]),
        (["--method", "fwsvd", "--calibration", "TEXTS", "--train", "TRAIN"], ["fwsvd", "labels", "--calibration"]),
        (["--method", "losparse", "--calibration", "TEXTS", "--train", "TRAIN"], ["looks at no texts"]),
        (
            ["--method", "rom"],
            ["method 'rom' needs texts", "--calibration FILE, or take another method: `losparse methods`"],
        ),
        (["--method", "losparse-one-shot"], ["'losparse-one-shot' needs texts", "--calibration FILE"]),
        (["--method", "svd", "--calibration", "TEXTS"], ["method 'svd' looks at no texts", "--calibration"]),
        (["--method", "svd", "--no-sequential"], ["method 'svd' looks at no inputs", "--no-sequential"]),
        (["--method", "svd", "--keep-layers", 1, "--keep-layers-by", "importance"], ["importance needs texts"]),
        (
            ["--method", "svd", "--keep-neurons", 0.5],
            ["--keep-neurons needs texts", "--calibration FILE, or leave --keep-neurons out"],
        ),
        (
            ["--method", "rom", "--calibration", "TEXTS", "--keep-neurons", 0],
            ["argument --keep-neurons: must be a number in (0, 1], or none"],
        ),
        (
            ["--method", "svd", "--low-rank", 0.1],
            ["--low-rank is not for --method svd, which takes --keep, --allocation"],
        ),
        (["--method", "svd", "--mean"], ["--mean is not for --method svd", "takes --keep"]),
        (
            ["--method", "rom", "--calibration", "TEXTS", "--row-share", 0.5],
            ["--row-share is not for --method rom", "--mean; leave it out"],
        ),
        (["--method", "svd", "--allocation", "most"], ["--allocation", "'most'", "last-k"]),
        (["--method", "svd", "--last", 2], ["last is for allocation='last-k'"]),
        (["--method", "svd", "--keep", 0], ["argument --keep: must be a number in (0, 1], got '0'"]),
        (["--method", "svd", "--epochs", 2], ["--epochs is for training", "--train FILE"]),
        (["--method", "svd", "--no-freeze-embeddings"], ["--freeze-embeddings is for training"]),
        (["--method", "svd", "--task", "causal-lm"], ["--task is for training"]),
        (["--method", "svd", "--validation", "TRAIN"], ["--validation is for training"]),
        (["--method", "svd", "--label-column", "label"], ["--label-column is for training"]),
        (["--method", "svd", "--text-column", "body"], ["--text-column does nothing without --calibration"]),
        (["--method", "svd", "--resume"], ["--resume is for training"]),
        (["--method", "svd", "--targets", "*.nonesuch"], ["'*.nonesuch'", "matches none"]),
        (["--method", "svd", "--keep-layers", 3], ["number of blocks to keep must be in 1..2", "got 3"]),
        (["--method", "svd", "--json", "no/report.json"], ["--json", "existing folder"]),
        (["--method", "rom", "--calibration", "none.csv"], ["no data file 'none.csv'"]),
        (["--method", "rom", "--calibration", "TRAIN", "--text-column", "body"], ["no column 'body'"]),
        (["--method", "rom", "--calibration", "TEXTS", "--max-length", 64], ["--max-length", "32 positions"]),
        (
            ["--method", "rom", "--calibration", "TEXTS", "--calibration-examples", 0],
            ["argument --calibration-examples: must be a whole number of 1 or more, or none"],
        ),
    ],
)
def test_unfit_settings(
    squeeze: Any, sources: Sources, texts: Path, tmp_path: Path, flags: list[Any], words: list[str]
) -> None:
    files = {"TEXTS": texts, "TRAIN": sources.train}
    squeeze(*(files.get(flag, flag) for flag in flags)).refused(*words)
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": None}, ["as its architecture, got none", "--train"]),
        ({"architectures": []}, ["got none"]),
        ({"architectures": ["BertForMagic"]}, ["got 'BertForMagic'", "--train"]),
        ({"architectures": ["logging"]}, ["got 'logging'"]),
        ({"architectures": ["BertConfig"]}, ["got 'BertConfig'"]),
        ({"architectures": ["LlamaForCausalLM"]}, ["LlamaForCausalLM", "'llama'", "model_type 'bert'"]),
        ({"architectures": ["BertForMaskedLM"]}, ["lacks", "cls.predictions"]),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, ["already quantised"]),
    ],
)
def test_unfit_models(squeeze: Any, model_copy: Path, tmp_path: Path, changes: Any, words: list[str]) -> None:
    edit_json(model_copy / "config.json", **changes)
    squeeze("--method", "svd", model=model_copy).refused(*words)
    assert nothing_written(tmp_path)


def test_a_model_that_is_compressed_already(squeeze: Any, losparse: Command, tmp_path: Path) -> None:
    assert squeeze("--method", "svd").code == 0
    losparse("compress", tmp_path / "out", tmp_path / "again", "--method", "svd").refused("already compressed")


def test_texts_need_a_model_of_one_stack(squeeze: Any, texts: Path, tmp_path: Path) -> None:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 24}
    T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).save_pretrained(tmp_path / "t5")
    make_tokenizer().save_pretrained(tmp_path / "t5")
    refused = squeeze("--method", "rom", "--calibration", texts, model=tmp_path / "t5")
    refused.refused("an encoder and a decoder", "svd")
    assert squeeze("--method", "svd", "--keep", 0.5, model=tmp_path / "t5").code == 0


def test_too_little_text_for_a_block(squeeze: Any, decoder: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("the film\na plot")
    done = squeeze("--method", "rom", "--calibration", tmp_path / "short.txt", model=decoder)
    done.refused("max_length must be at most the 8 tokens", "got 16")
    assert nothing_written(tmp_path)
