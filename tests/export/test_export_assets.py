"""Tokenizer files, and what a sentence-transformers folder says about pooling."""

from __future__ import annotations

import json
import logging

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertTokenizer

from losparse.errors import LosparseError
from losparse_export.assets import (
    Pooling,
    compare_tokenizers,
    copy_tokenizer,
    read_pooling,
    sentence_limit,
    tokenizer_limit,
)

TRANSFORMER = {"type": "sentence_transformers.models.Transformer", "path": ""}
POOLING = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}
NORMALIZE = {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"}


def sentence_folder(folder, modules, pooling=None):
    (folder / "modules.json").write_text(json.dumps(modules))
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("modules", "pooling", "expected"),
    [
        (
            [TRANSFORMER, POOLING, NORMALIZE],
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
            Pooling("mean", True),
        ),
        (
            [TRANSFORMER, POOLING],
            {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True},
            Pooling("cls", False),
        ),
        ([TRANSFORMER, POOLING], {"pooling_mode": "cls"}, Pooling("cls", False)),
        ([TRANSFORMER, POOLING], {"pooling_mode_lasttoken": True}, Pooling("lasttoken", False)),
        ([TRANSFORMER, POOLING], {"pooling_mode_max_tokens": True}, Pooling("max", False)),
        ([TRANSFORMER, POOLING], {"pooling_mode": ["mean"]}, Pooling("mean", False)),
        ([TRANSFORMER, NORMALIZE], None, Pooling("mean", True)),
        ([], None, Pooling("mean", False)),
    ],
)
def test_pooling(tmp_path, modules, pooling, expected):
    assert read_pooling(sentence_folder(tmp_path, modules, pooling)) == expected


def test_pooling_of_a_plain_folder_and_of_none(tmp_path):
    assert read_pooling(tmp_path) == read_pooling(None) == Pooling("mean", False)


def test_a_layer_behind_the_pooling_is_said_to_be_left_out(tmp_path, caplog):
    dense = {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}
    sentence_folder(tmp_path, [TRANSFORMER, POOLING, dense], {"pooling_mode": "mean"})
    with caplog.at_level(logging.WARNING):
        assert read_pooling(tmp_path) == Pooling(None, False)
    assert "puts Dense behind its pooling, which is not exported" in caplog.text


@pytest.mark.parametrize(
    "settings",
    [{"pooling_mode_weightedmean_tokens": True}, {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}],
)
def test_other_pooling_is_not_recorded(tmp_path, caplog, settings):
    sentence_folder(tmp_path, [TRANSFORMER, POOLING, NORMALIZE], settings)
    with caplog.at_level(logging.WARNING):
        assert read_pooling(tmp_path) == Pooling(None, True)
    assert "losparse by one of mean, cls, max, lasttoken: no pooling is recorded" in caplog.text


def test_damaged_modules_file(tmp_path):
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(LosparseError, match=r"modules\.json: cannot be read as JSON"):
        read_pooling(tmp_path)


@pytest.mark.parametrize(("limit", "expected"), [(256, 256), (None, None), (0, None), ("long", None)])
def test_sentence_limit(tmp_path, limit, expected):
    assert sentence_limit(tmp_path) is None
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}))
    assert sentence_limit(tmp_path) == expected


def test_a_sentence_encoder_that_lowers_case_itself_is_told(tmp_path, caplog):
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    with caplog.at_level(logging.WARNING):
        sentence_limit(tmp_path)
    assert "lowers the case of texts before its tokenizer does" in caplog.text


def word_tokenizer(folder, **settings):
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "Hello"])}
    tokenizer = BertTokenizer(vocab=words, **settings)
    tokenizer.save_pretrained(folder)
    return folder


def test_tokenizers_that_agree_are_not_spoken_of(tmp_path, caplog):
    folder = word_tokenizer(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert compare_tokenizers(folder, folder)
    assert caplog.text == ""


def test_a_tokenizer_whose_settings_contradict_its_file_is_told(tmp_path, caplog):
    source, folder = word_tokenizer(tmp_path / "cased", do_lower_case=False), word_tokenizer(tmp_path / "lower")
    with caplog.at_level(logging.WARNING):
        compare_tokenizers(source, folder)
    assert "tokenizer.json gives other tokens than transformers for" in caplog.text


def test_a_tokenizer_that_knows_none_of_the_texts(tmp_path, caplog):
    """Neither special nor unknown tokens: the texts it is tried with have no tokens at all."""
    Tokenizer(WordLevel({"a": 0})).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with caplog.at_level(logging.WARNING):
        compare_tokenizers(tmp_path, tmp_path)
    assert caplog.text == ""


def test_a_tokenizer_without_token_types(tmp_path):
    folder = word_tokenizer(tmp_path)
    file = folder / "tokenizer_config.json"
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    assert not compare_tokenizers(folder, folder)


@pytest.mark.parametrize(("limit", "expected"), [(512, 512), (int(1e30), None), (None, None), ("long", None)])
def test_tokenizer_limit(tmp_path, limit, expected):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    assert tokenizer_limit(tmp_path) == expected


def test_tokenizer_files_are_copied_byte_for_byte(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir(), folder.mkdir()
    files = {"tokenizer.json": b'{"odd":  1}\n\n', "vocab.txt": "ä\r\n".encode(), "weights.bin": b"no"}
    for name, data in files.items():
        (source / name).write_bytes(data)
    assert copy_tokenizer(source, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        name: data for name, data in files.items() if name != "weights.bin"
    }


def test_vocabulary_alone_is_converted(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir(), folder.mkdir()
    (source / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "film"]))
    (source / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert copy_tokenizer(source, folder)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert vocabulary["film"] == 6


def test_no_tokenizer(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert not copy_tokenizer(tmp_path, tmp_path)
    assert "has no tokenizer; the exported folder takes token ids only" in caplog.text
