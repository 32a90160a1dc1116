"""A part of the support matrix that is fast enough for every change, and the matrix as it is committed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from losparse_export.opening.families import TESTED

from .models import LEFT_OUT, Architecture, architectures, build, inputs, outputs
from .page import write_page
from .steps import COLUMNS, compress, outcome, reload, run

ROOT = Path(__file__).parents[2]
ALL = architectures()

# One of each kind that needed something of its own: masks and tables that no checkpoint holds, weights that
# transformers reads from outside a layer, names that change between memory and disk, positions of their own, experts.
CHOSEN = (
    "gpt_neo",
    "gptj",
    "t5-encoder",
    "nomic_bert",
    "gte",
    "jina_embeddings_v3",
    "deberta-v2",
    "deberta",
    "bart",
    "albert",
    "xlnet",
    "funnel",
    "mixtral",
    "qwen2_moe",
    "t5",
    "openai-gpt",
    "perceiver",
    "jamba",
)


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    """The matrix in the repository."""
    data: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "support.json").read_text(encoding="utf-8"))
    return data


@pytest.mark.parametrize("method", ["one-shot", "losparse"])
@pytest.mark.parametrize("name", CHOSEN)
def test_compressed_and_opened_again(name, method, tmp_path, committed):
    """Bit for bit the same numbers, or the refusal that the matrix has."""
    (cells,) = (row["cells"] for row in committed["rows"] if row["name"] == name)
    found = outcome(lambda: compress(ALL[name], method, tmp_path / "model"))
    assert found == cells[method]


def test_the_whole_way():
    """A model whose masks no checkpoint holds: reload and gate must both use the right ones."""
    row = run(ALL["gpt_neo"])
    assert row["cells"] == dict.fromkeys(COLUMNS, "ok")
    assert (row["class"], row["task"]) == ("GPTNeoForSequenceClassification", "text-classification")


@pytest.mark.parametrize("name", ["llama-causal", "bert-masked", "bart-generation"])
def test_what_is_not_exported_is_refused_in_the_words_of_the_page(name, committed):
    (row,) = (row for row in committed["rows"] if row["name"] == name)
    assert run(ALL[name])["cells"] == row["cells"]


def test_a_dense_model_opens_again_as_it_was(tmp_path):
    """The reference of the matrix: what transformers itself saves and opens."""
    architecture = ALL["gpt_neo"]
    model = build(architecture)
    model.save_pretrained(tmp_path)
    feeds = inputs(model, 2, 9, lengths=(9, 5))
    before, after = outputs(model, feeds), outputs(reload(architecture, tmp_path), feeds)
    assert torch.equal(before["logits"], after["logits"])


def test_the_matrix_is_of_every_architecture_and_has_no_fault(committed):
    rows = {row["name"]: row["cells"] for row in committed["rows"]}
    assert list(rows) == list(ALL)
    assert len(rows) >= 100
    for name, cells in rows.items():
        assert tuple(cells) == COLUMNS, name
        for column, cell in cells.items():
            assert cell == "ok" or re.match(r"refused: \S", cell), f"{name} {column}: {cell}"
    assert sum(cell == "ok" for cells in rows.values() for cell in cells.values()) > len(rows) * len(COLUMNS) / 2


def test_export_warns_of_what_the_matrix_does_not_have(committed):
    exported = {row["model_type"] for row in committed["rows"] if row["cells"]["fp32"] == row["cells"]["int8"] == "ok"}
    assert set(TESTED) == exported


def test_nothing_that_transformers_classifies_with_is_forgotten():
    """A new version of transformers with a new architecture shows here."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as known

    assert set(known) == (set(known) & set(ALL)) | set(LEFT_OUT)


def test_the_page_is_of_the_committed_numbers(committed, tmp_path):
    write_page(committed["rows"], tmp_path / "support.json", tmp_path / "support.md", committed["versions"])
    assert (tmp_path / "support.md").read_text() == (ROOT / "docs" / "support.md").read_text()
    assert json.loads((tmp_path / "support.json").read_text()) == committed
    said = {
        number
        for page in ("README.md", "docs/methods.md")
        for number in re.findall(r"(\d+) architectures", (ROOT / page).read_text())
    }
    assert said == {str(len(committed["rows"]))}


def test_faults_are_told_apart():
    """A cell that is no refusal in words is a fault, whatever was raised."""

    def broken() -> None:
        raise IndexError("list index out of range")

    assert outcome(broken) == "crash: IndexError: list index out of range"
    unknown = Architecture("none", "bert", "AutoModelForSequenceClassification", None, {"num_attention_heads": 7})
    assert outcome(lambda: compress(unknown, "svd", Path("unused"))).startswith("crash: ValueError")
