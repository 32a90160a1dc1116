"""Tokenizer files, and how long a text may be."""

from __future__ import annotations

import json
import logging

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
)

from losparse_export.folder.assets import (
    copy_tokenizer,
    longest_text,
    match_tokenizers,
    settle_length,
    tokenizer_limit,
)
from losparse_export.opening.load import Loaded
from losparse_export.opening.sentence import Sentences
from losparse_runtime.contract.task import TASKS
from losparse_runtime.text.encoder import TextEncoder


def word_tokenizer(folder, **settings):
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "Hello"])}
    tokenizer = BertTokenizer(vocab=words, **settings)
    tokenizer.save_pretrained(folder)
    return folder


def test_tokenizers_that_agree_are_not_spoken_of(tmp_path, caplog):
    folder = word_tokenizer(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert match_tokenizers(folder, folder)
    assert caplog.text == ""


def test_a_tokenizer_whose_settings_contradict_its_file_is_told(tmp_path, caplog):
    source, folder = word_tokenizer(tmp_path / "cased", do_lower_case=False), word_tokenizer(tmp_path / "lower")
    with caplog.at_level(logging.WARNING):
        match_tokenizers(source, folder)
    assert "tokenizer.json gives other tokens than transformers for" in caplog.text


def test_a_tokenizer_that_knows_none_of_the_texts(tmp_path, caplog):
    """Neither special nor unknown tokens: the texts it is tried with have no tokens at all."""
    Tokenizer(WordLevel({"a": 0})).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with caplog.at_level(logging.WARNING):
        match_tokenizers(tmp_path, tmp_path)
    assert caplog.text == ""


def test_a_tokenizer_without_token_types(tmp_path):
    folder = word_tokenizer(tmp_path)
    file = folder / "tokenizer_config.json"
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    assert not match_tokenizers(folder, folder)


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


def test_texts_are_lowered_before_the_tokenizer_where_the_folder_asks_for_it(tmp_path, caplog):
    source, folder = word_tokenizer(tmp_path / "cased", do_lower_case=False), tmp_path / "folder"
    folder.mkdir()
    with caplog.at_level(logging.WARNING):
        assert copy_tokenizer(source, folder, lower_case=True)
        match_tokenizers(source, folder, lower_case=True)
    assert caplog.text == ""
    lowered, own = (Tokenizer.from_file(str(place / "tokenizer.json")) for place in (folder, source))
    assert lowered.encode("Hello").ids == own.encode("hello").ids != own.encode("Hello").ids


def test_what_the_class_of_a_tokenizer_says_is_written(tmp_path):
    """Llama's pad on the left, and do not write so: the runtime would pad on the right."""
    source, folder = tmp_path / "source", tmp_path / "folder"
    folder.mkdir()
    words = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", "▁", "a", "<pad>"])}
    LlamaTokenizer(vocab=words, merges=[], pad_token="<pad>").save_pretrained(source)
    settings = json.loads((source / "tokenizer_config.json").read_text())
    assert "padding_side" not in settings
    copy_tokenizer(source, folder), match_tokenizers(source, folder)
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {**settings, "padding_side": "left"}
    encoder = TextEncoder(folder, max_length=16, pad_token_id=None)
    assert (encoder.padding_side, encoder.truncation_side, encoder.pad_id) == ("left", "right", 5)
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    copy_tokenizer(source, folder), match_tokenizers(source, folder)
    assert TextEncoder(folder, max_length=16, pad_token_id=None).padding_side == "left"


def test_a_tokenizer_without_a_class_is_named_so_that_transformers_4_opens_it(tmp_path):
    """By the older name it would tell the texts of a pair by token types, which version 5 does not."""
    source, folder = word_tokenizer(tmp_path / "source"), tmp_path / "folder"
    folder.mkdir()
    opened = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(source / "tokenizer.json")))
    opened.save_pretrained(source)
    settings = json.loads((source / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "TokenizersBackend"
    copy_tokenizer(source, folder)
    assert not match_tokenizers(source, folder)  # it says no token types
    written = json.loads((folder / "tokenizer_config.json").read_text())
    names = ["input_ids", "attention_mask"]
    assert written == {**settings, "tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names}
    again = AutoTokenizer.from_pretrained(folder)
    assert again("a", "b").input_ids == opened("a", "b").input_ids and again.model_input_names == names


def test_how_long_a_text_may_be_is_said_where_every_client_looks(tmp_path):
    """fastembed and transformers.js cut by tokenizer_config.json alone, and refuse one that does not say."""
    file = word_tokenizer(tmp_path) / "tokenizer_config.json"
    for before in ({}, {"model_max_length": 10**30, "pad_token": "[PAD]"}, {"model_max_length": 12}):
        file.write_text(json.dumps(before))
        settle_length(tmp_path, 9)
        assert json.loads(file.read_text()) == {**before, "model_max_length": 9}
    content = b'{"model_max_length":  9}'
    file.write_bytes(content)
    settle_length(tmp_path, 9)
    assert file.read_bytes() == content  # nothing to say
    (tmp_path / "other").mkdir()
    settle_length(tmp_path / "other", 9)
    assert not any((tmp_path / "other").iterdir())  # it has no tokenizer


def tiny(folder=None, task="feature-extraction", **settings):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertModel(BertConfig(**sizes, vocab_size=8, max_position_embeddings=32, **settings))
    return Loaded(model, TASKS[task], "tiny", folder)


@pytest.mark.parametrize(("own", "limit", "expected"), [(None, 16, 16), (24, 16, 24), (8, 16, 8), (64, 16, 32)])
def test_the_longest_text(tmp_path, own, limit, expected):
    """What the sentence encoder says counts more than what its tokenizer says."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    assert longest_text(tiny(tmp_path), Sentences(max_length=own)) == expected
    assert longest_text(tiny(), None) == 32


def test_how_vectors_are_made_is_asked_of_encoders_alone():
    assert tiny(task="text-classification").sentences is None
    assert tiny().sentences.pooling == "mean"
    assert tiny(architectures=["TinyForCausalLM"]).sentences.pooling == "lasttoken"
