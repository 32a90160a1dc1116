"""What the page shows beside the table: curves of training, and how far layers are from the dense weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from losparse.building.layers import _origin_of_blocks, relative_error, weight_before
from losparse.pipeline.steps import training_curve


def test_a_long_log_is_shortened_to_means() -> None:
    # Rows of 2 steps each, losses 0, 1, 2, ...; two rows make one.
    log = [{"step": 2.0 * (row + 1), "loss": float(row), "learning_rate": 0.1 / (row + 1)} for row in range(6)]
    assert training_curve(log) == log
    short = training_curve(log, most=3)
    assert [(row["step"], row["loss"]) for row in short] == [(4, 0.5), (8, 2.5), (12, 4.5)]
    assert short[-1]["learning_rate"] == log[-1]["learning_rate"]


def test_a_row_of_more_steps_counts_more() -> None:
    log = [{"step": 1.0, "loss": 4.0}, {"step": 4.0, "loss": 8.0}]
    assert training_curve(log, most=1) == [{"step": 4.0, "loss": 7.0}]  # (1 * 4 + 3 * 8) / 4


@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 399, 400, 401, 1999])
def test_a_curve_has_at_most_two_hundred_rows(count: int) -> None:
    curve = training_curve([{"step": float(step), "loss": 1.0} for step in range(1, count + 1)])
    assert len(curve) <= 200 and (not count or curve[-1]["step"] == count)


def test_error_is_relative_to_the_dense_weight() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert relative_error(torch.tensor([[3.0, 0.0], [0.0, 0.0]]), weight) == pytest.approx(0.8)  # 4 of 5
    assert relative_error(weight, weight) == 0.0
    assert relative_error(weight[:1], weight) is None, "neurons went, and nothing says which"
    assert relative_error(weight, None) is None and relative_error(weight, torch.zeros(2, 2)) is None


def test_the_dense_weight_of_a_layer_that_stores_it_transposed() -> None:
    """A square one has the same shape either way: only its numbers tell."""
    layer = Conv1D(4, 4)
    found = weight_before("h.0.attn", {"h.0.attn": layer}, None)
    assert found is not None and torch.equal(found, layer.weight.T)


def config(kept: list[int] | None) -> Any:
    return SimpleNamespace() if kept is None else SimpleNamespace(losparse_kept_layers=kept)


@pytest.mark.parametrize(
    ("now", "before", "origin"),
    [
        (None, None, None),
        ([1, 3], None, [1, 3]),
        ([1, 5], [1, 3, 5], [0, 2]),  # the dense model has lost blocks itself: numbers are of the model before that
        ([1, 3], [1, 3], [0, 1]),
    ],
)
def test_blocks_are_those_they_were(now: Any, before: Any, origin: list[int] | None) -> None:
    assert _origin_of_blocks(config(now), config(before)) == origin
    layers = {f"layer.{block}.dense": nn.Linear(2, 2) for block in range(6)}
    for block, was in enumerate(origin or [0, 1]):
        found = weight_before(f"layer.{block}.dense", layers, origin)
        assert found is not None and torch.equal(found, layers[f"layer.{was}.dense"].weight)
    assert weight_before("other", layers, origin) is None
