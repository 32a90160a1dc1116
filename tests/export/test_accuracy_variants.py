"""All variants of a folder on labelled texts: values, and standard errors against those of a formula."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from losparse.data.metrics import classification, pearson
from losparse.errors import LosparseError
from losparse_export import measure_variants
from losparse_export.accuracy.outcomes import Outcomes, score_all
from losparse_runtime import Session

from ..runtime.conftest import MakeFolder, make_folder
from ..runtime.several import put_together
from .test_export_accuracy import TEXTS, model_like, write

__all__ = ["make_folder"]  # a fixture of the runtime's tests

# An error of 300 draws is itself certain to 4.1 %: four times that is met by chance once in 15,000 seeds.
CERTAIN = 0.165


def right_or_wrong(right: Any) -> Outcomes:
    """A model of two classes that answers as it is told, on texts that are all of the first."""
    logits = np.where(np.array(right)[:, None], [1.0, 0.0], [0.0, 1.0])
    return Outcomes.one_row_each(logits, np.zeros(len(logits), int), classification)


def test_the_error_of_a_share_is_that_of_the_formula() -> None:
    right = np.random.default_rng(1).random(400) < 0.8
    share = float(right.mean())
    found = score_all(right_or_wrong(right))["accuracy"].to_json()
    assert found["value"] == share
    assert found["error"] == pytest.approx(math.sqrt(share * (1 - share) / 400), rel=CERTAIN)


def test_the_error_of_a_difference_is_of_what_differs() -> None:
    generator = np.random.default_rng(2)
    right = generator.random(400) < 0.8
    other = np.where(generator.random(400) < 0.05, ~right, right)
    one, two = (score_all(right_or_wrong(each))["accuracy"] for each in (right, other))
    steps = right.astype(float) - other
    found = one.minus(two)
    assert found["delta"] == pytest.approx(steps.mean())
    assert found["error"] == pytest.approx(steps.std() / math.sqrt(400), rel=CERTAIN)
    assert float(found["error"] or 0) < 0.6 * float(one.to_json()["error"] or 0), "pairs say more than two numbers"
    assert one.minus(one) == {"delta": 0.0, "error": 0.0}


def test_words_of_a_text_are_drawn_together() -> None:
    right = np.repeat(np.random.default_rng(3).random(200) < 0.7, 5)  # all words of a text are right, or none
    words = right_or_wrong(right)
    texts = Outcomes(words.predictions, words.labels, np.arange(0, 1001, 5), classification)
    share = float(right.mean())
    error = score_all(texts)["accuracy"].to_json()["error"]
    assert error == pytest.approx(math.sqrt(share * (1 - share) / 200), rel=CERTAIN)


def test_texts_without_words_of_their_own_may_be_drawn() -> None:
    words = right_or_wrong([True, False, True])
    texts = Outcomes(words.predictions, words.labels, np.array([0, 2, 2, 3]), classification)
    assert len(texts) == 3 and score_all(texts)["accuracy"].value == pytest.approx(2 / 3)


def test_the_error_of_a_correlation_is_that_of_the_formula() -> None:
    generator = np.random.default_rng(4)
    truth = generator.normal(size=500)
    said = 0.8 * truth + 0.6 * generator.normal(size=500)

    def metric(prediction: Any) -> dict[str, float]:
        return {"pearson": pearson(prediction.predictions, prediction.label_ids)}

    score = score_all(Outcomes.one_row_each(said, truth, metric))["pearson"]
    # (1 - r^2) / sqrt(n), of normal numbers; 500 of them are normal but for their own chance, 10 % more.
    assert score.to_json()["error"] == pytest.approx((1 - score.value**2) / math.sqrt(500), rel=CERTAIN + 0.1)


def test_one_example_has_no_error() -> None:
    score = score_all(right_or_wrong([True]))["accuracy"]
    assert score.to_json() == {"value": 1.0, "error": None} and score.minus(score) == {"delta": 0.0, "error": None}


def labelled(folder: Path, file: Path) -> Path:
    """Texts with the labels that the model itself gives, but for the last."""
    said = [each.label for each in Session(folder, threads=1).classify(TEXTS)]
    said[-1] = next(name for name in ("red", "green") if name != said[-1])
    return write(file, [{"text": text, "label": label} for text, label in zip(TEXTS, said, strict=True)])


def permuted(folder: Path) -> Path:
    """The folder, with the classes of its head in another order than it says."""
    model = onnx.load(folder / "model.onnx")
    (head,) = (tensor for tensor in model.graph.initializer if tensor.name == "head")
    head.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(head), 1, axis=1), "head"))
    onnx.save(model, folder / "model.onnx")
    contents = json.loads((folder / "losparse.json").read_text())
    contents["files"]["model.onnx"]["bytes"] = (folder / "model.onnx").stat().st_size
    (folder / "losparse.json").write_text(json.dumps(contents))
    return folder


def test_every_variant_beside_pytorch_and_another_folder(make_folder: MakeFolder, tmp_path: Path) -> None:
    right, wrong = make_folder().path, permuted(make_folder(name="permuted").path)
    folder = put_together(tmp_path / "both", {"fp32": right, "int8": wrong})
    data = labelled(right, tmp_path / "dev.jsonl")
    reference = model_like(Session(right, threads=1))
    found = measure_variants(
        folder, data, reference=reference, against={"dense": right, "same": (folder, "int8")}, progress=Counted(5)
    )
    assert (found["file"], found["texts"], found["metric"], found["skipped"]) == ("dev.jsonl", 6, "accuracy", {})
    assert list(found["models"]) == ["pytorch", "fp32", "int8", "dense", "same"]
    for name in ("pytorch", "fp32", "dense"):
        assert found["models"][name]["value"] == pytest.approx(5 / 6)
        assert set(found["models"][name]["metrics"]) == {"accuracy", "matthews"}
    assert found["models"]["int8"]["value"] <= 1 / 6, "permuted classes are found"
    assert (
        found["differences"]["fp32"]["pytorch"] == found["differences"]["fp32"]["dense"] == dict(delta=0.0, error=0.0)
    )
    drop = found["differences"]["int8"]["fp32"]
    assert drop["delta"] == found["models"]["int8"]["value"] - found["models"]["fp32"]["value"]
    assert 0 < drop["error"] < -drop["delta"] / 2
    assert found["differences"]["int8"]["same"] == {"delta": 0.0, "error": 0.0}
    assert json.loads(json.dumps(found)) == found


class Counted:
    """A progress that counts what is done."""

    def __init__(self, expected: int) -> None:
        self.expected = expected

    def stage(self, title: str, total: int | None = None) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def shown() -> Any:
            done: list[int] = []
            yield lambda more, **_: done.append(more)
            assert sum(done) == total == self.expected

        return shown()


@pytest.mark.parametrize("task", ["multi-label-classification", "regression", "token-classification"])
def test_other_tasks(make_folder: MakeFolder, tmp_path: Path, task: str) -> None:
    one = make_folder(task, seed=5).path
    folder = put_together(tmp_path / "both", {"fp32": one, "int8": make_folder(task, name="other", seed=6).path})
    session = Session(one, threads=1)
    rows: list[dict[str, Any]]
    if task == "token-classification":
        rows = [{"words": text.split(), "tags": [tag.label for tag in session.tag([text])[0]]} for text in TEXTS]
    elif task == "regression":
        rows = [{"text": text, "score": session.classify([text])[0].score} for text in TEXTS]
    else:
        rows = [{"text": text, "labels": session.classify([text])[0].labels()} for text in TEXTS]
    found = measure_variants(folder, write(tmp_path / "dev.jsonl", rows))
    assert found["models"]["fp32"]["value"] == pytest.approx(1.0)
    assert found["models"]["int8"]["value"] < 1
    assert found["models"]["int8"]["error"] > 0 and found["differences"]["int8"]["fp32"]["error"] > 0
    assert found["metric"] in found["models"]["fp32"]["metrics"]


def test_what_cannot_be_measured_together(make_folder: MakeFolder, tmp_path: Path) -> None:
    one, other = make_folder().path, make_folder("regression", name="other").path
    data = labelled(one, tmp_path / "dev.jsonl")
    with pytest.raises(LosparseError, match=r"^against= must have names that no variant has \(fp32\), got 'fp32'$"):
        measure_variants(one, data, against={"fp32": one})
    with pytest.raises(LosparseError, match=r"the task of '.*made' and '.*other' differ: 'text-class.*' and 'regr"):
        measure_variants(one, data, against={"dense": other})
    with pytest.raises(LosparseError, match=r"accuracy is measured for .*this model does feature-extraction"):
        measure_variants(make_folder("feature-extraction", name="vectors").path, data)
