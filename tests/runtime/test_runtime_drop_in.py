"""`SentenceEncoder` answers by hand; beside theirs: `make test-sentence-transformers`."""

from __future__ import annotations

import inspect
import json
import logging
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from losparse_runtime import CrossEncoder, InputError, SentenceEncoder, Session
from tests.clients.blocks import run_block

from .conftest import file_record

MakeFolder = Callable[..., Any]

SETTINGS = {
    "prompts": {"query": "a b ", "passage": "d "},
    "default_prompt_name": None,
    "include_prompt": True,
    "truncate_dim": None,
    "similarity": "dot",
}
A, B, C, D, CLS, SEP = 4, 5, 6, 7, 2, 3


def make_encoder(make_folder: MakeFolder, settings: dict[str, Any] | None = None, **options: Any) -> tuple[Any, Any]:
    """Open a folder of mean pooling, not scaled; returns what the model's mean of some tokens is too."""
    folder = make_folder("feature-extraction")
    folder.edit(lambda data: data.update(normalize=False, embedding={**SETTINGS, **(settings or {})}))
    encoder = SentenceEncoder(folder.path, threads=1, **options)
    return encoder, lambda *ids: folder.weights.hidden(ids).mean(axis=0)


def test_a_string_is_one_vector_and_a_list_is_several(make_folder: MakeFolder) -> None:
    encoder, mean = make_encoder(make_folder)
    one, two = mean(CLS, A, SEP), mean(CLS, B, C, SEP)
    for texts in (["a", "b c"], ("a", "b c"), np.array(["a", "b c"]), iter(["a", "b c"])):
        np.testing.assert_allclose(encoder.encode(texts), [one, two], rtol=1e-6)
    np.testing.assert_allclose(encoder.encode("a"), one, rtol=1e-6)
    np.testing.assert_allclose(encoder.encode(sentences="a"), one, rtol=1e-6)
    assert encoder.encode([]).shape == (0,)
    assert encoder.encode([], output_value="token_embeddings") == []
    assert encoder.get_sentence_embedding_dimension() == encoder.get_embedding_dimension() == 4


@pytest.mark.parametrize(
    ("method", "options", "asked", "tokens"),
    [
        ("encode", {}, {}, [C]),
        ("encode", {}, {"prompt_name": "query"}, [A, B, C]),
        ("encode", {"default_prompt_name": "passage"}, {}, [D, C]),
        ("encode", {"default_prompt_name": "passage"}, {"prompt": ""}, [C]),
        ("encode", {"prompts": {"own": "b b "}, "default_prompt_name": "own"}, {}, [B, B, C]),
        ("encode_query", {}, {}, [A, B, C]),
        ("encode_query", {}, {"prompt": "d "}, [D, C]),
        ("encode_query", {"prompts": {}}, {}, [C]),
        ("encode_document", {}, {}, [D, C]),
        ("encode_document", {}, {"prompt_name": "query"}, [A, B, C]),
        ("encode_document", {"prompts": {"corpus": "a ", "passage": "b "}}, {}, [B, C]),
    ],
)
def test_prompts(
    make_folder: MakeFolder, method: str, options: dict[str, Any], asked: dict[str, Any], tokens: list[int]
) -> None:
    encoder, mean = make_encoder(make_folder, **options)
    np.testing.assert_allclose(getattr(encoder, method)("c", **asked), mean(CLS, *tokens, SEP), rtol=1e-6)


def test_a_prompt_wins_over_its_name_and_says_so(make_folder: MakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    encoder, mean = make_encoder(make_folder)
    with caplog.at_level(logging.WARNING):
        found = encoder.encode("c", "query", "d ")
    np.testing.assert_allclose(found, mean(CLS, D, C, SEP), rtol=1e-6)
    assert "prompt_name='query' is left out" in caplog.text


def test_vectors_are_cut_before_they_are_scaled(make_folder: MakeFolder) -> None:
    encoder, mean = make_encoder(make_folder, {"truncate_dim": 3})
    whole = mean(CLS, A, SEP)
    np.testing.assert_allclose(encoder.encode("a"), whole[:3], rtol=1e-6)
    for size in (2, 4, 9):  # more than the folder keeps, and more than there are
        np.testing.assert_allclose(encoder.encode("a", truncate_dim=size), whole[:size], rtol=1e-6)
    cut = whole[:2] / np.linalg.norm(whole[:2])
    np.testing.assert_allclose(encoder.encode("a", truncate_dim=2, normalize_embeddings=True), cut, rtol=1e-6)
    with encoder.truncate_embeddings(None):
        assert encoder.encode("a").shape == (4,) == (encoder.get_embedding_dimension(),)
    assert encoder.encode("a").shape == (3,) == (encoder.get_embedding_dimension(),)


def test_vectors_of_tokens_have_no_padding(make_folder: MakeFolder) -> None:
    folder = make_folder("feature-extraction")
    long, short = SentenceEncoder(folder.path).encode(["a b c", "d"], output_value="token_embeddings")
    np.testing.assert_allclose(long, folder.weights.hidden([CLS, A, B, C, SEP]), rtol=1e-6)
    np.testing.assert_allclose(short, folder.weights.hidden([CLS, D, SEP]), rtol=1e-6)


def test_bits_are_signs(make_folder: MakeFolder) -> None:
    encoder, mean = make_encoder(make_folder)
    bits = np.packbits(mean(CLS, A, SEP) > 0)  # four signs, then zeros
    assert encoder.encode("a", precision="ubinary").tolist() == bits.tolist()
    assert encoder.encode("a", precision="binary").tolist() == [int(bits[0]) - 128]


def test_texts_are_cut_where_it_is_set(make_folder: MakeFolder) -> None:
    encoder, mean = make_encoder(make_folder)
    assert encoder.max_seq_length == encoder.get_max_seq_length() == 16
    encoder.max_seq_length = 4
    np.testing.assert_allclose(encoder.encode("a b c d"), mean(CLS, A, B, SEP), rtol=1e-6)
    assert encoder.tokenize("a b c d")["input_ids"].tolist() == [[CLS, A, B, SEP]]
    assert encoder.tokenizer.encode("a").ids == [CLS, A, SEP]
    with pytest.raises(InputError, match=r"^max_seq_length must be in 1..16, .*, got 17; set it in"):
        encoder.max_seq_length = 17


# Worked by hand: (3, 4) and (0, 2), each with (1, 0).
@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("cosine", [3 / 5, 0]),
        ("dot", [3, 0]),
        ("euclidean", [-((4 + 16) ** 0.5), -(5**0.5)]),
        ("manhattan", [-6, -3]),
    ],
)
def test_similarities(make_folder: MakeFolder, measure: str, expected: list[float]) -> None:
    encoder, _ = make_encoder(make_folder, similarity_fn_name=measure)
    vectors = np.array([[3, 4], [0, 2]])
    np.testing.assert_allclose(encoder.similarity(vectors, [1, 0]), np.array(expected)[:, None], rtol=1e-6)
    np.testing.assert_allclose(encoder.similarity([[1, 0]], vectors), [expected], rtol=1e-6)
    np.testing.assert_allclose(encoder.similarity_pairwise(vectors, [[1, 0]] * 2), expected, rtol=1e-6)


def test_the_similarity_is_the_folders_own_or_cosine(make_folder: MakeFolder) -> None:
    assert make_encoder(make_folder)[0].similarity_fn_name == "dot"
    assert SentenceEncoder(make_folder("feature-extraction", name="silent").path).similarity_fn_name == "cosine"


def test_vectors_that_do_not_fit(make_folder: MakeFolder) -> None:
    encoder, _ = make_encoder(make_folder)
    for first, second, message in (
        ([[1, 2]], [[1, 2, 3]], "embeddings2 must have 2 features, got 3"),
        ([[[1, 2]]], [[1, 2]], r"embeddings1 must have shape \(vectors, features\), got \(1, 1, 2\)"),
        ([[1], [1, 2]], [[1]], "embeddings1 must be vectors of numbers, all of one length"),
    ):
        with pytest.raises(InputError, match=f"^{message}$"):
            encoder.similarity(first, second)
    with pytest.raises(InputError, match=r"^embeddings2 must have 1 vectors, as embeddings1 has, got 2$"):
        encoder.similarity_pairwise([[1]], [[1], [2]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convert_to_tensor": True}, r"convert_to_tensor=True: there is no torch here; take numpy and call"),
        ({"convert_to_numpy": False}, r"convert_to_numpy=False: there is no torch here"),
        ({"pool": {"input": 1}}, r"pool=.*: one process reads all texts; use threads="),
        ({"chunk_size": 5}, r"chunk_size=5: one process reads all texts; use batch_size"),
        ({"device": "cuda:1"}, r"computes on cpu, got device='cuda:1'; choose it when opening, by providers="),
        ({"device": ["cpu", "cpu"]}, r"computes on cpu, got device=\['cpu', 'cpu'\]"),
        ({"output_value": None}, r"output_value must be 'sentence_embedding' or 'token_embeddings', got None"),
        ({"precision": "int8"}, r"precision must be 'float32' or 'binary' or 'ubinary', got 'int8'"),
        ({"precision": "binary", "output_value": "token_embeddings"}, r"precision must be 'float32', got 'binary'"),
        ({"batch_size": 0}, r"batch_size must be a whole number >= 1, got 0"),
        ({"truncate_dim": 0}, r"truncate_dim must be a whole number >= 1, got 0"),
        ({"prompt_name": "no"}, r"prompt_name must be one of the folder's prompts \('query', 'passage'\), got 'no'"),
        ({"sentences": "b"}, r"needs texts: inputs=, or sentences= as it was called, not both"),
    ],
)
def test_what_encode_refuses(make_folder: MakeFolder, options: dict[str, Any], message: str) -> None:
    encoder, _ = make_encoder(make_folder)
    with pytest.raises(InputError, match=message) as raised:
        encoder.encode("a", **options)
    assert "\n" not in str(raised.value)


def test_texts_that_are_none(make_folder: MakeFolder) -> None:
    encoder, _ = make_encoder(make_folder)
    for inputs, message in (
        (None, "needs texts"),
        (3, "inputs must be a string or a list of strings, got int"),
        ({"text": "a"}, "inputs must be a string or a list of strings, got dict"),
        (["a", ("a", "b")], "inputs must hold strings only, got tuple at 1"),
    ):
        with pytest.raises(InputError, match=message):
            encoder.encode(inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "torch"}, r"cannot honour backend='torch': the model is an ONNX file already"),
        ({"trust_remote_code": True}, r"cannot honour trust_remote_code=True: no code of a folder is ever run"),
        ({"revision": "main"}, r"cannot honour revision='main': give a folder; huggingface_hub.snapshot_download"),
        ({"processor_kwargs": {"a": 1}}, r"cannot honour processor_kwargs=\{'a': 1\}: the folder's tokenizer"),
        ({"promts": {}}, r"has no argument 'promts'; leave it out"),
        ({"device": "mps"}, r"computes on cpu, got device='mps'"),
        ({"model_kwargs": {"file_name": "model_q4.onnx"}}, r"file_name must be one of model.onnx, got 'model_q4.onnx'"),
        ({"model_kwargs": {"dtype": "fp16"}}, r"model_kwargs may have file_name and provider, got 'dtype'"),
        (
            {"model_kwargs": {"file_name": "model.onnx"}, "variant": "fp32"},
            r"takes variant= or model_kwargs\['file_name'\], not both",
        ),
        (
            {"model_kwargs": {"provider": "CPUExecutionProvider"}, "providers": ["CPUExecutionProvider"]},
            r"takes providers= or model_kwargs\['provider'\], not both",
        ),
        ({"default_prompt_name": "no"}, r"prompt_name must be one of the folder's prompts"),
        ({"similarity_fn_name": "near"}, r"similarity_fn_name must be 'cosine' or .*, got 'near'"),
        ({"truncate_dim": -1}, r"truncate_dim must be a whole number >= 1, got -1"),
    ],
)
def test_what_opening_refuses(make_folder: MakeFolder, options: dict[str, Any], message: str) -> None:
    folder = make_folder("feature-extraction")
    with pytest.raises(InputError, match=message):
        SentenceEncoder(folder.path, **options)


def test_arguments_that_ask_for_nothing(make_folder: MakeFolder) -> None:
    folder = make_folder("feature-extraction").path
    plain = SentenceEncoder(folder).encode("a")
    for options in (
        {"device": "cpu", "backend": "onnx", "trust_remote_code": False, "local_files_only": True, "token": None},
        {"model_kwargs": {"file_name": "model.onnx", "provider": "CPUExecutionProvider"}},
        {"model_kwargs": {"file_name": "model.onnx"}, "providers": ["CPUExecutionProvider"]},
    ):
        np.testing.assert_array_equal(SentenceEncoder(folder, **options).encode("a", device="cpu"), plain)


def test_the_name_of_a_file_chooses_the_variant(make_folder: MakeFolder) -> None:
    """By its place in the folder, and without `onnx/`, as sentence-transformers looks there by itself."""
    plain, other = make_folder("feature-extraction"), make_folder("feature-extraction", name="other", seed=1)
    data = json.loads((plain.path / "losparse.json").read_text())
    flat = {name: data[name] for name in ("precision", "opset", "ir_version", "session", "parity")}
    (plain.path / "onnx").mkdir()
    shutil.copyfile(other.path / "model.onnx", plain.path / "onnx" / "model_fp16.onnx")
    files = {"fp32": "model.onnx", "fp16": "onnx/model_fp16.onnx"}
    variants = {
        name: {**flat, "precision": name, "graphs": {"model": {"file": file, "fingerprint": data["fingerprint"]}}}
        for name, file in files.items()
    }
    plain.edit(
        lambda data: data.update(
            format=4,
            graphs={"model": {name: data[name] for name in ("inputs", "outputs")}},
            variants=variants,
            files={file: file_record(plain.path / file) for file in files.values()},
        )
    )
    for file, weights in (
        ("model.onnx", plain.weights),
        ("onnx/model_fp16.onnx", other.weights),
        ("model_fp16.onnx", other.weights),
    ):
        encoder = SentenceEncoder(plain.path, model_kwargs={"file_name": file}, threads=1)
        tokens = encoder.encode("a", output_value="token_embeddings")
        np.testing.assert_allclose(tokens, weights.hidden([CLS, A, SEP]), rtol=1e-6)
    with pytest.raises(InputError, match=r"file_name must be one of model\.onnx, onnx/model_fp16\.onnx, got 'x'"):
        SentenceEncoder(plain.path, model_kwargs={"file_name": "x"})


def test_an_open_session_is_taken_as_it_is(make_folder: MakeFolder) -> None:
    session = Session(make_folder("feature-extraction").path, threads=1)
    assert SentenceEncoder(session).session is session
    with pytest.raises(InputError, match=r"got an open session, which has its options already"):
        SentenceEncoder(session, threads=2)


def test_folders_of_other_tasks(make_folder: MakeFolder) -> None:
    with pytest.raises(InputError, match=r"^embed needs a feature-extraction folder"):
        SentenceEncoder(make_folder("regression").path)
    with pytest.raises(InputError, match=r"^rank needs a regression folder"):
        CrossEncoder(make_folder("feature-extraction", name="other").path)
    unpooled = make_folder("feature-extraction", name="unpooled").edit(lambda data: data.update(pooling=None))
    with pytest.raises(InputError, match="records no pooling"):
        SentenceEncoder(unpooled.path)


def test_the_bar_counts_texts_on_stderr(make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    encoder, _ = make_encoder(make_folder)
    encoder.encode(["a", "b", "c"], batch_size=2)
    assert capsys.readouterr().err == ""
    encoder.encode(["a", "b", "c"], batch_size=2, show_progress_bar=True)
    assert capsys.readouterr().err == "\rtexts: 0/3\rtexts: 2/3\rtexts: 3/3\n"


def test_the_order_of_arguments_is_theirs() -> None:
    """That of sentence-transformers 6.2, by which positional calls work."""
    encode = list(inspect.signature(SentenceEncoder.encode).parameters)[1:-1]
    assert encode == [
        *("inputs", "prompt_name", "prompt", "batch_size", "show_progress_bar", "output_value", "precision"),
        *("convert_to_numpy", "convert_to_tensor", "device", "normalize_embeddings", "truncate_dim", "pool"),
        "chunk_size",
    ]
    predict = list(inspect.signature(CrossEncoder.predict).parameters)[1:-1]
    assert predict == [
        *("inputs", "prompt_name", "prompt", "batch_size", "show_progress_bar", "activation_fn", "apply_softmax"),
        *("convert_to_numpy", "convert_to_tensor", "device", "pool", "chunk_size"),
    ]


def test_the_blocks_of_the_page(make_folder: MakeFolder) -> None:
    texts = ["a b", "c"]
    found = run_block("sentence_encoder", make_folder("feature-extraction").path, texts=texts)
    assert found["vectors"].shape == (2, 4)
    np.testing.assert_allclose(np.diag(found["scores"]), 1, rtol=1e-6)
    found = run_block("cross_encoder", make_folder("regression", name="cross").path, texts=texts)
    assert [each["score"] for each in found["best"]] == sorted(found["scores"].tolist(), reverse=True)
