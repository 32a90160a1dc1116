"""What an export writes for sentence-transformers: read again it means what it was written from.

`make test-sentence-transformers` opens it with sentence-transformers itself.
"""

from __future__ import annotations

import json

import pytest

from losparse_export.folder.sentence import write_sentence_files
from losparse_export.opening.sentence import Sentences, read_activation, read_sentences
from losparse_runtime.contract.embedding import Embedding
from losparse_runtime.contract.folder import Folder, Source
from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.tensors import TensorSpec

PROMPTS = {"query": "query: ", "document": "", "own": "of my own: "}


def contents_of(sentences, task="feature-extraction"):
    """What a folder holds that makes vectors so, of 8 numbers a token."""
    tokens = TensorSpec("input_ids", "int64", ("batch", "sequence"))
    vectors = TensorSpec("last_hidden_state", "float32", ("batch", "sequence", 8))
    return Folder(
        task=task,
        source=Source("made", "bert", "BertModel", False, None),
        graphs={"model": Signature((tokens,), (vectors,))},
        variants={},
        files={},
        labels=None,
        max_length=sentences.max_length or 512,
        type_ids=True,
        pooling=sentences.pooling,
        normalize=sentences.normalize,
        embedding=sentences.embedding,
        parameters={},
        versions={},
    )


def write(folder, sentences, **options):
    (folder / "tokenizer.json").write_text("{}")
    write_sentence_files(folder, contents_of(sentences, **options), lower_case=sentences.lower_case)


@pytest.mark.parametrize(
    "pooling",
    [
        *("mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean", "cls+mean", "max+weightedmean"),
        *("mean+cls", "mean+mean", "lasttoken+max"),  # the switches of older releases cannot say these
    ],
)
def test_every_pooling_is_read_as_it_was_written(tmp_path, pooling):
    sentences = Sentences(pooling, False, Embedding(prompts={"query": "", "document": ""}), 48)
    write(tmp_path, sentences)
    assert read_sentences(tmp_path) == sentences
    written = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert written["word_embedding_dimension"] == 8
    assert ("pooling_mode" in written) == (pooling in ("mean+cls", "mean+mean", "lasttoken+max"))


@pytest.mark.parametrize(
    "sentences",
    [
        Sentences("mean", True, Embedding(PROMPTS, "own", False, 4, "dot"), 9, True),
        Sentences("cls", False, Embedding(PROMPTS, None, True, None, "cosine"), 512),
    ],
)
def test_every_setting_is_read_as_it_was_written(tmp_path, sentences):
    write(tmp_path, sentences)
    assert read_sentences(tmp_path) == sentences
    assert (tmp_path / "2_Normalize" / "config.json").is_file() == sentences.normalize


def test_folders_that_make_no_vectors_get_no_such_files(tmp_path):
    for name, sentences, task in (
        ("unpooled", Sentences(pooling=None), "feature-extraction"),
        ("other", Sentences(), "token-classification"),
    ):
        (tmp_path / name).mkdir()
        write(tmp_path / name, sentences, task=task)
        assert [file.name for file in (tmp_path / name).iterdir()] == ["tokenizer.json"]
    write_sentence_files(tmp_path, contents_of(Sentences()), lower_case=False)
    assert not (tmp_path / "modules.json").exists()  # it has no tokenizer


def test_the_score_of_a_cross_encoder_is_where_sentence_transformers_6_says_it(tmp_path, caplog):
    file = tmp_path / "config_sentence_transformers.json"
    assert read_activation(tmp_path) is None and read_activation(None) is None
    file.write_text(json.dumps({"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}))
    assert read_activation(tmp_path) == "torch.nn.modules.linear.Identity"
    assert not caplog.records
    said = {"model_type": "CrossEncoder", "prompts": {"a": "rank: "}, "default_prompt_name": "a"}
    file.write_text(json.dumps(said))
    assert read_activation(tmp_path) is None
    assert "puts prompt 'a' in front of texts, which is not exported" in caplog.text
    file.write_text(json.dumps({"model_type": "SentenceTransformer", "activation_fn": "x"}))
    assert read_activation(tmp_path) is None
