"""`CrossEncoder` answers by hand; beside theirs: `make test-sentence-transformers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from losparse_runtime import CrossEncoder, InputError

MakeFolder = Callable[..., Any]

A, B, CLS, SEP = 4, 5, 2, 3


def make_cross(make_folder: MakeFolder, said: dict[str, Any] | None = None, **options: Any) -> tuple[Any, Any]:
    """Open a folder of one output; returns what that is for some tokens and their types too."""
    folder = make_folder("regression").edit(lambda config: config.update(said or {}), "config.json")

    def output(ids: list[int], types: list[int]) -> float:
        return float((folder.weights.hidden(ids, types).sum(axis=0) @ folder.weights.head)[0])

    return CrossEncoder(folder.path, threads=1, **options), output


PAIR, TYPES = [CLS, A, SEP, B, SEP], [0, 0, 0, 1, 1]


def test_pairs_and_one_pair(make_folder: MakeFolder) -> None:
    encoder, output = make_cross(make_folder)
    raw = output(PAIR, TYPES)
    expected = 1 / (1 + np.exp(-raw))
    found = encoder.predict([("a", "b"), ["b", "a"]])
    assert found.shape == (2,) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    np.testing.assert_allclose(encoder.predict(("a", "b")), expected, rtol=1e-5)
    np.testing.assert_allclose(encoder.predict(sentences=[("a", "b")]), [expected], rtol=1e-5)
    np.testing.assert_allclose(encoder.predict(np.array([["a", "b"]])), [expected], rtol=1e-5)
    assert encoder.predict([]).shape == (0,)
    np.testing.assert_allclose(encoder.predict(("a", "b"), activation_fn="Identity"), raw, rtol=1e-5)
    np.testing.assert_allclose(encoder.predict(("a", "b"), activation_fn=lambda x: 2 * x), 2 * raw, rtol=1e-5)


def test_the_activation_is_what_config_says_even_of_a_regression(make_folder: MakeFolder) -> None:
    encoder, output = make_cross(make_folder, {"sentence_transformers": {"activation_fn": "torch.nn.modules.Tanh"}})
    np.testing.assert_allclose(encoder.predict(("a", "b")), np.tanh(output(PAIR, TYPES)), rtol=1e-5)


def test_rank_sorts_and_cuts(make_folder: MakeFolder) -> None:
    encoder, _ = make_cross(make_folder)
    texts = ["a", "b", "a", "c d"]
    scores = encoder.predict([("e", text) for text in texts])
    order = sorted(range(4), key=lambda place: -scores[place])
    ranked = encoder.rank("e", texts)
    assert [each["corpus_id"] for each in ranked] == order
    assert [each["score"] for each in ranked] == scores[order].tolist()
    assert set(ranked[0]) == {"corpus_id", "score"}
    best = encoder.rank("e", texts, top_k=2, return_documents=True)
    assert [each["text"] for each in best] == [texts[place] for place in order[:2]]
    assert encoder.rank("e", []) == []


def test_several_outputs(make_folder: MakeFolder) -> None:
    encoder = CrossEncoder(make_folder("text-classification").path, num_labels=3)
    raw = encoder.predict([("a", "b")])
    assert raw.shape == (1, 3)
    sums = np.exp(raw) / np.exp(raw).sum()
    np.testing.assert_allclose(encoder.predict([("a", "b")], apply_softmax=True), sums, rtol=1e-5)
    with pytest.raises(InputError, match=r"rank needs a model of one output, .* has 3"):
        encoder.rank("a", ["b"])


def test_what_cross_encoders_refuse(make_folder: MakeFolder) -> None:
    encoder, _ = make_cross(make_folder, max_length=7)
    for call, message in (
        (lambda: encoder.predict(["a"]), "inputs must be pairs of two texts, got .* at 0"),
        (lambda: encoder.predict("a"), "inputs must be pairs of texts, got str"),
        (lambda: encoder.predict([("a", "b"), "c"]), "inputs must be pairs of two texts, got 'c' at 1"),
        (lambda: encoder.predict([("a", 3)]), "inputs must be pairs of two texts"),
        (lambda: encoder.predict(("a", "b"), prompt="c"), "cannot honour prompt='c': a cross-encoder's prompt"),
        (lambda: encoder.predict(("a", "b"), convert_to_tensor=True), "there is no torch here"),
        (lambda: encoder.predict(("a", "b"), activation_fn="Swish"), "activation_fn must be one of Identity, Sigmoid"),
        (lambda: encoder.rank("a", ["b"], top_k=0), "top_k must be a whole number >= 1"),
        (lambda: encoder.rank(3, ["b"]), "query must be a string, got int"),
        (lambda: CrossEncoder(encoder.session, num_labels=2), "num_labels must be 1"),
        (lambda: CrossEncoder(encoder.session, max_length=99).predict(("a", "b")), r"max_length must be in .*\.\.16"),
        (lambda: CrossEncoder(encoder.session.folder, revision="x"), "cannot honour revision='x'"),
    ):
        with pytest.raises(InputError, match=message):
            call()
