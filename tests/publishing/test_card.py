"""Model cards: every number of the folder and of the build is there, and none that nobody measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from losparse import CardSettings
from losparse.errors import LosparseError
from losparse.publishing.card import model_card
from losparse.publishing.facts import Measured, read_facts

MakeFolder = Callable[..., Any]

REPO = "me/model"
ACCURACY = {"file": "dev.csv", "texts": 872, "metric": "accuracy", "pytorch": 0.91, "onnx": 0.9}


def build_of(path: Path) -> Path:
    """Write the build of a folder: a dense model, the variant that is there, and one that did not pass."""
    build = path.parent / "build"
    build.mkdir()
    path.rename(build / "onnx")
    timing = {"batch": 1, "length": 128, "noisy": False}
    facts = {
        "format": 1,
        "name": "minilm-sst2",
        "recipe": {"model": "/home/me/secret/models/minilm"},
        "metric": "accuracy",
        "texts": 872,
        "models": {
            "dense": {
                "kind": "baseline",
                "precision": "fp32",
                "bytes": 90_000_000,
                "accuracy": {"value": 0.912, "error": 0.009},
            },
            "fp32": {
                "kind": "variant",
                "precision": "fp32",
                "file": "model.onnx",
                "bytes": 1,
                "accuracy": {"value": 0.9, "error": 0.01, "deltas": {"dense": {"delta": -0.012, "error": 0.004}}},
                "passed": True,
                "failures": [],
            },
            "int8": {"kind": "variant", "precision": "int8", "bytes": 5, "accuracy": None, "passed": False},
        },
        "bench": {
            "machine": {"cpu": "A CPU"},
            "models": {"dense": {"folder": "/home/me/secret"}},
            "results": [
                {**timing, "model": "dense", "median_ms": 12.345, "speedup": 1.0},
                {**timing, "model": "fp32", "median_ms": 3.0, "speedup": 4.115, "speedup_low": 4.0},
            ],
        },
    }
    (build / "build.json").write_text(json.dumps(facts))
    return build


def table(card: str) -> list[dict[str, str]]:
    """Return the rows of a card's table by column."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_a_build_gives_every_number(make_folder: MakeFolder) -> None:
    build = build_of(make_folder().path)
    facts = read_facts(build)
    assert facts == read_facts(build / "onnx")  # beside build.json it is the same
    card = model_card(facts, REPO)
    size = (build / "onnx" / "model.onnx").stat().st_size
    assert table(card) == [
        {
            "model": "dense",
            "file": "-",
            "MB": "90.0",
            "accuracy": "0.9120 ± 0.0090",
            "against dense": "-",
            "1 x 128": "12.35 ms",
            "largest difference to PyTorch": "-",
        },
        {
            "model": "fp32",
            "file": "`model.onnx`",
            "MB": f"{size / 1e6:.1f}",
            "accuracy": "0.9000 ± 0.0100",
            "against dense": "-0.0120 ± 0.0040",
            "1 x 128": "3.00 ms, 4.1x",
            "largest difference to PyTorch": "1.0e-06",
        },
    ]
    assert "accuracy on 872 texts" in card and "speed-up over dense, on A CPU" in card
    assert "secret" not in card and "int8" not in card


def test_a_folder_alone_gives_what_its_export_measured(make_folder: MakeFolder) -> None:
    folder = make_folder()
    (row,) = read_facts(folder.path).rows
    assert row.accuracy is None and row.speedups == {} == row.milliseconds
    assert list(table(model_card(read_facts(folder.path), REPO))[0]) == [
        *("model", "file", "MB", "largest difference to PyTorch")
    ]
    folder.edit(lambda data: data.update(accuracy=ACCURACY, times={"cpu-amx 1x128 1t": 1.5}))
    facts = read_facts(folder.path)
    (row,) = facts.rows
    assert row.cosine is None
    folder.edit(lambda data: data["parity"].update(cosine=0.987654321))
    assert table(model_card(read_facts(folder.path), REPO))[0]["cosine with PyTorch"] == "0.987654"
    assert row.accuracy == Measured(0.9) and row.delta is not None and row.delta.value == pytest.approx(-0.01)
    (line,) = table(model_card(facts, REPO))
    assert (line["accuracy"], line["against PyTorch"], line["cpu-amx 1x128 1t"]) == ("0.9000", "-0.0100", "1.50 ms")
    folder.edit(
        lambda data: data["accuracy"].update(error=0.012, differences={"pytorch": {"delta": -0.01, "error": 0.004}})
    )
    (line,) = table(model_card(read_facts(folder.path), REPO))
    assert (line["accuracy"], line["against PyTorch"]) == ("0.9000 ± 0.0120", "-0.0100 ± 0.0040")


@pytest.mark.parametrize(
    ("task", "pipeline", "library", "call"),
    [
        ("text-classification", "text-classification", "onnx", ".classify("),
        ("multi-label-classification", "text-classification", "onnx", ".classify("),
        ("regression", "text-ranking", "onnx", ".rank("),
        ("token-classification", "token-classification", "onnx", ".tag("),
        ("question-answering", "question-answering", "onnx", ".answer("),
        ("feature-extraction", "sentence-similarity", "sentence-transformers", "SentenceEncoder(folder).encode("),
    ],
)
def test_the_header_and_the_way_to_use_it_are_of_the_task(
    make_folder: MakeFolder, task: str, pipeline: str, library: str, call: str
) -> None:
    card = model_card(read_facts(make_folder(task).path), REPO)
    header = ModelCard(card).data
    assert (header.pipeline_tag, header.library_name) == (pipeline, library)
    assert {"losparse", "onnx"} < set(header.tags) and header.base_model is None
    assert call in card and f'snapshot_download("{REPO}")' in card
    assert ('SentenceTransformer("me/model", backend="onnx"' in card) == (task == "feature-extraction")


def test_what_a_person_says_is_in_the_header(make_folder: MakeFolder) -> None:
    folder = make_folder().edit(lambda data: data.update(accuracy=ACCURACY))
    settings = CardSettings(
        title="Small and fast",
        summary="It tells colours.",
        base_model="them/base",
        license="apache-2.0",
        language=("en",),
        datasets=("stanfordnlp/sst2",),
        tags=("colours", "onnx"),
    )
    card = model_card(read_facts(folder.path), REPO, settings)
    header = ModelCard(card).data
    assert (header.base_model, header.license, header.language) == ("them/base", "apache-2.0", ["en"])
    assert header.datasets == ["stanfordnlp/sst2"] and header.metrics == ["accuracy"]
    assert header.tags.count("onnx") == 1 and "colours" in header.tags
    (result,) = header.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.9, "stanfordnlp/sst2")
    assert "# Small and fast\n\nIt tells colours.\n" in card


def test_a_model_of_the_hub_is_the_base_and_a_folder_is_not(make_folder: MakeFolder) -> None:
    folder = make_folder()
    for name, base in (("them/base", "them/base"), ("base", None)):
        folder.edit(lambda data, name=name: data["source"].update(model=name))
        assert ModelCard(model_card(read_facts(folder.path), REPO)).data.base_model == base


def test_a_damaged_build(make_folder: MakeFolder) -> None:
    build = build_of(make_folder().path)
    for content, message in (("{", "cannot be read as JSON"), ("[]", "must hold an object with 'models'")):
        (build / "build.json").write_text(content)
        with pytest.raises(LosparseError, match=rf"build\.json: {message}.*run the build again$"):
            read_facts(build)
