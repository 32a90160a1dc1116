"""A method of one file is there once it has its line in `METHODS`: no other file changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from losparse import METHODS, CompressionJob, LosparseError, Recipe, compress_, compress_folder
from losparse.calibration.statistics import LayerStatistics
from losparse.layers.linear import find_targets, weight_of
from losparse.methods import OneShot, method_from_dict
from losparse.methods.one_shot.allocate import Candidates
from losparse.methods.one_shot.base import Allocation
from losparse.models.report import report

from ..cli.conftest import Command, losparse, make_model, make_tokenizer
from .toys.method import LongestRows

__all__ = ["losparse"]  # a fixture of the command line's tests


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line that a new method adds to the registry."""
    monkeypatch.setitem(METHODS, "longest-rows", LongestRows)


@pytest.mark.usefixtures("registered")
def test_a_toy_method_compresses_from_the_command_line(losparse: Command, tmp_path: Path) -> None:
    dense = make_model().eval()
    dense.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    settings = ("--method", "longest-rows", "--keep", 0.5, "--norm", 1)  # its own field is a flag
    done = losparse("compress", tmp_path / "model", tmp_path / "out", *settings)
    assert done.code == 0, done.err
    written = json.loads((tmp_path / "out" / "losparse_report.json").read_text())
    method = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["method"]
    assert written["compression"]["share"] == 0.5 and (method["name"], method["norm"]) == ("longest-rows", 1)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    for name, layer in find_targets(dense).items():
        weight, found = weight_of(layer), model.get_submodule(name)
        longest = weight.abs().sum(1).topk(len(weight) // 2).indices
        expected = torch.zeros_like(weight)
        expected[longest] = weight[longest]
        assert torch.equal(found.dense_weight(), expected)
    assert {layer.spec.words for layer in report(model).layers} == {
        "32x32, rank 0, kept 16, axis 'out'",
        "64x32, rank 0, kept 32, axis 'out'",
        "32x64, rank 0, kept 16, axis 'out'",
    }


@pytest.mark.usefixtures("registered")
def test_a_toy_method_is_listed_and_checked_like_any_other(losparse: Command) -> None:
    assert "longest-rows" in (listed := losparse("methods").out) and "the longest rows of every weight" in listed
    with pytest.raises(LosparseError, match=r"norm must be .* got 0"):
        LongestRows(norm=0)
    with pytest.raises(LosparseError, match=r"one of uniform, .* for LongestRows, got 'global'"):
        LongestRows(allocation="global")
    with pytest.raises(LosparseError, match="nrom"):
        method_from_dict({"name": "longest-rows", "nrom": 1})


class RowsByRank(LongestRows):
    """Says that it can follow allocations that give ranks, and keeps no rank."""

    allocations: ClassVar[tuple[Allocation, ...]] = OneShot.allocations


class RowsOfNoAccount(RowsByRank):
    """Says that a layer may have no size at all."""

    def candidates(self, name: str, weight: Tensor, statistics: LayerStatistics) -> Candidates:
        """Return none."""
        return Candidates([], np.zeros(0), np.zeros(0))


def test_sizes_that_a_method_does_not_make_are_refused() -> None:
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # The candidates of OneShot are ranks, and rows have none: half of the weights was asked for, nothing would be left.
    with pytest.raises(
        LosparseError, match=r"RowsByRank.factor must give '.*' rank \d+ and 0 kept, as asked, got rank 0"
    ):
        compress_(model, RowsByRank(keep=0.5, allocation="global"))
    with pytest.raises(
        LosparseError, match=r"RowsOfNoAccount.candidates must return at least one size of '.*', got none"
    ):
        compress_(model, RowsOfNoAccount(keep=0.5, allocation="global"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert compress_(model, LongestRows(keep=0.5)).share == 0.5


def test_without_its_line_there_is_no_such_method(losparse: Command, tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "model")
    done = losparse("compress", tmp_path / "model", tmp_path / "out", "--method", "longest-rows")
    assert done.code == 2 and "longest-rows" in done.err and not (tmp_path / "out").exists()


def test_a_method_of_ones_own_needs_no_line_in_python(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    job = CompressionJob(tmp_path / "model", tmp_path / "small", Recipe(method=LongestRows(keep=0.25)))
    done = compress_folder(job)
    assert done is not None and done.compression.share == 0.25
    with pytest.raises(LosparseError, match=r"LongestRows' looks at no texts; leave out --calibration"):
        compress_folder(replace(job, out=tmp_path / "other", calibration=tmp_path / "texts.txt"))
    model = make_model()
    assert compress_(model, LongestRows(keep=0.25)).share == 0.25
    model.save_pretrained(tmp_path)
    assert report(AutoModelForSequenceClassification.from_pretrained(tmp_path)).share == 0.25
