"""Rankings by a cross-encoder, and classes with a probability each, against numbers computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from losparse_runtime import Classification, InputError, Ranked, Session

from .conftest import Answering
from .test_runtime_tasks import TEXTS, MakeFolder, ids


@pytest.mark.parametrize("earlier", [True, False])
def test_several_classes_at_once_are_sigmoids(make_folder: MakeFolder, earlier: bool) -> None:
    folder = make_folder("text-classification" if earlier else "multi-label-classification")
    if earlier:  # exporters wrote the task of every model with one row of logits a text so
        folder.edit(lambda data: data.update(problem_type="multi_label_classification"), "config.json")
    session = Session(folder.path, threads=1)
    assert session.task == "multi-label-classification"
    result = session.classify("a b")[0]
    logits = folder.weights.hidden(ids("a b")).sum(axis=0) @ folder.weights.head
    np.testing.assert_allclose(list(result.scores.values()), 1 / (1 + np.exp(-logits)), rtol=1e-4)


def test_labels_are_those_from_a_threshold_on_the_highest_first() -> None:
    found = Classification("b", 0.9, {"a": 0.5, "b": 0.9, "c": 0.49})
    assert (found.labels(), found.labels(0.95), found.labels(0.4)) == (["b", "a"], [], ["b", "a", "c"])
    for threshold in (1.5, -0.1, True, "half", float("nan")):
        with pytest.raises(InputError, match=r"^threshold must be a probability in 0\.\.1, got "):
            found.labels(threshold)  # type: ignore[arg-type]


def raw_scores(folder: Any, query: str, texts: list[str]) -> list[float]:
    """The one output for each pair: [CLS] query [SEP] text [SEP]."""
    outputs = []
    for text in texts:
        first, second = ids(query), ids(text)[1:]
        hidden = folder.weights.hidden([*first, *second], [0] * len(first) + [1] * len(second))
        outputs.append(float(hidden.sum(axis=0) @ folder.weights.head[:, 0]))
    return outputs


@pytest.mark.parametrize("earlier", [True, False])
def test_a_regression_gives_its_raw_number(make_folder: MakeFolder, earlier: bool) -> None:
    folder = make_folder("regression")
    if earlier:
        folder.edit(lambda data: data.update(task="text-classification"))
    session = Session(folder.path, threads=1)
    assert session.task == "regression"
    results = session.classify(["a b"] * 3, pairs=["c", "d", "e"])
    assert [list(each.scores) for each in results] == [["stars"]] * 3
    np.testing.assert_allclose([each.score for each in results], raw_scores(folder, "a b", ["c", "d", "e"]), rtol=1e-5)
    assert [each.index for each in session.rank("a b", ["c", "d", "e"])] == list(
        np.argsort([-r.score for r in results])
    )


ACTIVATED: dict[str | None, Callable[[Any], Any]] = {
    None: lambda raw: 1 / (1 + np.exp(-raw)),  # as CrossEncoder does where config.json says nothing
    "torch.nn.modules.activation.Sigmoid": lambda raw: 1 / (1 + np.exp(-raw)),
    "torch.nn.modules.linear.Identity": lambda raw: raw,
    "torch.nn.modules.activation.Tanh": np.tanh,
}


@pytest.mark.parametrize("activation", ACTIVATED)
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_rank_sorts_by_the_score_of_the_model(make_folder: MakeFolder, activation: str | None, batch_size: int) -> None:
    folder = make_folder("regression")
    if activation is not None:
        said = {"activation_fn": activation, "version": "5.0.0"}
        folder.edit(lambda data: data.update(sentence_transformers=said), "config.json")
    texts = [*TEXTS, "a"]
    ranked = Session(folder.path, threads=1).rank("b c", texts, batch_size=batch_size)
    raw = np.array(raw_scores(folder, "b c", texts))
    expected = ACTIVATED[activation](raw)
    assert [each.index for each in ranked] == np.argsort(-raw, kind="stable").tolist()
    for each in ranked:
        assert isinstance(each, Ranked)
        assert (each.text, each.score) == (texts[each.index], pytest.approx(expected[each.index], rel=1e-4, abs=1e-6))


def test_scores_that_an_activation_rounds_to_one_are_still_told_apart(make_folder: MakeFolder) -> None:
    logits = np.array([[60.0], [40.0], [80.0], [60.0]], np.float32)
    session = Answering(make_folder("regression").path, lambda inputs: {"logits": logits})
    ranked = session.rank("a", ["b"] * 4)
    assert [(each.index, each.score) for each in ranked] == [(2, 1.0), (0, 1.0), (3, 1.0), (1, 1.0)]


def test_a_model_of_numbers_ranks_by_them(make_folder: MakeFolder) -> None:
    folder = make_folder("regression")
    folder.edit(lambda data: data.update(problem_type="regression"), "config.json")
    ranked = Session(folder.path, threads=1).rank("a", "b")
    assert ranked == [Ranked(0, "b", pytest.approx(raw_scores(folder, "a", ["b"])[0], rel=1e-5))]


def test_rank_refusals(make_folder: MakeFolder) -> None:
    with pytest.raises(InputError, match=r"^rank needs a model of one output, .*many has 3; use classify with pairs=$"):
        Session(make_folder("multi-label-classification", name="many").path, threads=1).rank("a", ["b"])
    folder = make_folder("regression")
    session = Session(folder.path, threads=1)
    with pytest.raises(InputError, match=r"^query must be a string, got int$"):
        session.rank(3, ["b"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^texts must hold at least one text, got an empty list$"):
        session.rank("a", [])
    folder.edit(lambda data: data.update(sbert_ce_default_activation_function="torch.nn.ReLU"), "config.json")
    with pytest.raises(InputError, match=r"names activation 'torch.nn.ReLU', rank knows Identity, Sigmoid, Tanh; use"):
        Session(folder.path, threads=1).rank("a", ["b"])
