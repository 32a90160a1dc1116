"""Faults of a model's folder that were taken without a word, or blamed on something else: one line, at the start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from losparse.saving.folder import read_checkpoint

from .conftest import Command, Sources, edit_json

SLOW = {"type": "Split", "pattern": {"Regex": "(a+a+)+b"}, "behavior": "Isolated", "invert": False}


def add_token(folder: Path, number: int = 24) -> None:
    """Give a tokenizer a token beyond the 24 rows of the model's embedding."""
    data = json.loads((folder / "tokenizer.json").read_text())
    data["added_tokens"].append({**data["added_tokens"][0], "id": number, "content": "[NEW]"})
    data["model"]["vocab"] |= {"more": number - 1}
    (folder / "tokenizer.json").write_text(json.dumps(data))


def test_a_tokenizer_of_more_tokens_than_the_embedding_has_rows(
    losparse: Command, model_copy: Path, sources: Sources, tmp_path: Path
) -> None:
    add_token(model_copy)
    data = "--train", sources.train, "--validation", sources.validation
    losparse("compress", model_copy, tmp_path / "a", *data).refused(
        "has tokens up to number 24, and the model's embedding 24 rows (0..23)", "model.resize_token_embeddings(25)"
    )
    losparse("compress", model_copy, tmp_path / "a", "--method", "svd", "--keep", 0.5).refused("tokens up to number 24")
    losparse("export", model_copy, tmp_path / "a").refused("tokenizer.json: has 25 tokens and numbers beyond", "24")
    assert not (tmp_path / "a").exists()


def test_a_tokenizer_that_was_cut_short_is_not_exported(losparse: Command, model_copy: Path, tmp_path: Path) -> None:
    file = model_copy / "tokenizer.json"
    file.write_text(file.read_text()[:-30])
    losparse("export", model_copy, tmp_path / "a").refused(
        "tokenizer.json: tokenizers cannot read it", "token ids only"
    )


def test_a_tokenizer_that_panics_of_every_text(losparse: Command, model_copy: Path, tmp_path: Path) -> None:
    file = model_copy / "tokenizer.json"
    data = json.loads(file.read_text())
    data["post_processor"]["single"][0]["SpecialToken"]["id"] = "[NONE]"
    file.write_text(json.dumps(data))
    losparse("export", model_copy, tmp_path / "a").refused("tokenizer.json: tokenizers panics of it", "token ids only")


def test_a_text_that_the_tokenizer_panics_of(losparse: Command, model_copy: Path, tmp_path: Path) -> None:
    edit_json(model_copy / "tokenizer.json", pre_tokenizer=SLOW)
    texts = tmp_path / "texts.txt"
    texts.write_text("the film\n\n" + "a" * 60 + "c\n")
    job = "compress", model_copy, tmp_path / "a", "--method", "rom", "--keep", 0.5, "--calibration", texts
    losparse(*job).refused("the tokenizer fails on one of the texts", "retry-limit-in-match")


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "tokenizer_config.json"])
def test_a_link_to_a_file_elsewhere_is_not_read(losparse: Command, model_copy: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (model_copy / name).unlink(missing_ok=True)
    (model_copy / name).symlink_to(secret)
    for command in (("export", model_copy, tmp_path / "a"), ("inspect", model_copy)):
        losparse(*command).refused(f"{name}' is a link to", "outside its folder, and would be copied")
    (model_copy / name).unlink()
    (model_copy / name).symlink_to(model_copy / name)  # a link that goes round is inside
    read_checkpoint(model_copy)


def test_links_of_the_hub_and_of_whole_folders_are_read(model_copy: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--o--n"
    snapshot, blobs, links = repository / "snapshots" / "abc", repository / "blobs", tmp_path / "links"
    for folder in (snapshot, blobs, links):
        folder.mkdir(parents=True)
    for number, file in enumerate(sorted(model_copy.iterdir())):
        (blobs / str(number)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(blobs / str(number))
        (links / file.name).symlink_to(file)
    assert read_checkpoint(snapshot).shapes == read_checkpoint(links).shapes == read_checkpoint(model_copy).shapes


@pytest.mark.parametrize("listed", ["../other.safetensors", "/tmp/other.safetensors", ["part.safetensors"], None])
def test_an_index_of_shards_stays_in_its_folder(
    losparse: Command, model_copy: Path, tmp_path: Path, listed: object
) -> None:
    tensors = load_file(model_copy / "model.safetensors")
    (model_copy / "model.safetensors").rename(tmp_path / "other.safetensors")
    save_file(tensors, model_copy / "other.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, listed)}
    (model_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    words = "must name files in its own folder" if isinstance(listed, str) else "must hold 'weight_map'"
    for command in (("export", model_copy, tmp_path / "a"), ("inspect", model_copy)):
        losparse(*command).refused(words)


def test_a_head_of_another_size_is_named(losparse: Command, model_copy: Path, tmp_path: Path) -> None:
    edit_json(model_copy / "config.json", id2label={str(number): f"class {number}" for number in range(5)})
    losparse("export", model_copy, tmp_path / "a").refused(
        "'classifier.bias' is 2 in the weights and 5 by config.json", "id2label names as many classes"
    )


def test_blocks_that_the_configuration_leaves_out(losparse: Command, model_copy: Path, tmp_path: Path) -> None:
    edit_json(model_copy / "config.json", num_hidden_layers=1)
    words = "config.json leaves out 'bert.encoder.layer.1.", "set the number of layers"
    losparse("export", model_copy, tmp_path / "a").refused(*words)
    losparse("compress", model_copy, tmp_path / "a", "--method", "svd", "--keep", 0.5).refused(*words)
