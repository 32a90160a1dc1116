"""The paper's formulas, by numbers worked out by hand."""

from __future__ import annotations

import itertools

import pytest
import torch

from losparse.calibration.statistics import LayerStatistics
from losparse.errors import LosparseError
from losparse.methods import SVD, LoSparse, StructuredPruning
from losparse.methods.losparse.algorithm import (
    CubicSchedule,
    accumulate_sensitivity,
    balanced_svd,
    close_window,
    group_importance,
    update_masks,
)
from losparse.methods.losparse.coupling import separate
from losparse.methods.losparse.layer import FactoredLinearTraining


def random_weight(out: int = 24, in_: int = 16) -> torch.Tensor:
    return torch.randn(out, in_, generator=torch.Generator().manual_seed(0))


def test_svd_is_the_best_approximation_and_keeps_its_budget():
    weight = random_weight()
    method = SVD(keep=0.5, pivots=False)
    layer = method.factor("layer", weight, None, LayerStatistics(), method.at_share("layer", 0.5, *weight.shape))
    sigma = torch.linalg.svdvals(weight)
    # Eckart-Young: the squared error is the energy of the singular values left out
    error = (weight - layer.dense_weight()).square().sum()
    torch.testing.assert_close(error, sigma[layer.rank :].square().sum(), rtol=1e-4, atol=0)
    assert layer.parameter_count() <= 0.5 * weight.numel()


def test_the_split_is_balanced():
    u, v = balanced_svd(random_weight(), 5)
    torch.testing.assert_close(u.norm(dim=0), v.norm(dim=1), rtol=1e-4, atol=1e-5)


def test_half_precision_weights_are_factored_in_fp32():
    weight = random_weight().to(torch.bfloat16)
    layer = LoSparse(keep=0.4, low_rank=0.1, structure="foldable").start("layer", weight, None)
    assert layer.sparse.dtype == torch.bfloat16
    # three bf16 roundings (u, v, sparse) of O(1) values
    torch.testing.assert_close(layer.dense_weight().float(), weight.float(), atol=0.05, rtol=0)


def test_schedule_by_hand():
    schedule = CubicSchedule(initial=10, final=20, total=110)
    assert schedule.kept_share(10, 0.15) == 1.0
    # 40 of the 80 ramp steps are done: 0.15 + 0.85 * 0.5^3 = 0.25625
    assert schedule.kept_share(50, 0.15) == pytest.approx(0.25625)
    assert schedule.kept_share(90, 0.15) == pytest.approx(0.15)
    assert schedule.kept_share(110, 0.15) == 0.15
    assert not schedule.is_final(89)
    assert schedule.is_final(90)


def test_schedule_falls_monotonically():
    schedule = CubicSchedule(initial=3, final=5, total=40)
    shares = [schedule.kept_share(step, 0.1) for step in range(1, 41)]
    assert all(a >= b for a, b in itertools.pairwise(shares))


def test_a_schedule_longer_than_training_is_refused():
    with pytest.raises(LosparseError, match="needs more than 50 initial \\+ 60 final steps, training has 100"):
        LoSparse(initial_steps=50, final_steps=60).schedule(100)
    with pytest.raises(LosparseError, match="training has 1;"):
        LoSparse(initial_steps=1).schedule(1)


def hand_layer(elementwise: bool = False) -> FactoredLinearTraining:
    layer = FactoredLinearTraining(2, 2, rank=0, bias=False, elementwise=elementwise)
    layer.sparse.data = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
    return layer


def test_sensitivity_by_hand():
    layer = hand_layer()
    accumulate_sensitivity(layer, torch.tensor([[3.0, 1.0], [2.0, 9.0]]))  # |s g| = [[3, 2], [1, 0]]
    accumulate_sensitivity(layer, torch.tensor([[1.0, 1.0], [0.0, 9.0]]))  # |s g| = [[1, 2], [0, 0]]
    close_window(layer, beta=0.85, uncertainty_beta=None)
    # row means 2.5 and 1.5, then 0.5 and 0; windows' mean 2 and 0.25; times 1 - 0.85
    torch.testing.assert_close(group_importance(layer), torch.tensor([0.3, 0.0375]))
    assert layer.window_count == 0
    assert layer.score_sum.tolist() == [0, 0]


def test_columns_are_averaged_over_outputs():
    layer = FactoredLinearTraining(2, 2, rank=0, axis="in", bias=False)
    layer.sparse.data = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
    accumulate_sensitivity(layer, torch.tensor([[3.0, 1.0], [2.0, 9.0]]))
    assert layer.score_sum.tolist() == [2.0, 1.0]


def test_uncertainty_by_hand():
    layer = hand_layer(elementwise=True)
    accumulate_sensitivity(layer, torch.tensor([[3.0, 1.0], [2.0, 9.0]]))
    close_window(layer, beta=0.5, uncertainty_beta=0.5)
    # first window: uncertainty = 0.5 * |I - 0| and average = 0.5 * I, so the score is I^2 / 4: rows (9 + 4) / 8, 1 / 8
    torch.testing.assert_close(group_importance(layer), torch.tensor([13 / 8, 1 / 8]))


def test_masks_cover_all_layers_by_one_threshold():
    first, second = hand_layer(), hand_layer()
    first.score_avg.copy_(torch.tensor([4.0, 1.0]))
    second.score_avg.copy_(torch.tensor([3.0, 2.0]))
    layers = {"a": first, "b": second}
    update_masks(layers, separate(layers), budget=5)  # rows cost 2: two fit
    assert first.mask.tolist() == [True, False]
    assert second.mask.tolist() == [True, False]
    assert first.sparse[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"keep": 0.0}, r"keep must be a number in \(0, 1\], got 0.0"),
        ({"keep": 1.5}, r"keep must be a number in \(0, 1\], got 1.5"),
        ({"keep": float("nan")}, r"keep must be a finite number in \(0, 1\], got nan"),
        ({"keep": 0.2, "low_rank": 0.3}, "low_rank must not exceed keep=0.2, got 0.3"),
        ({"low_rank": -0.1}, r"low_rank must be a number in \[0, 1\], or a table of such numbers by kind .*, got -0.1"),
        ({"structure": "blocks"}, "structure must be one of rows, columns, foldable, narrow, got 'blocks'"),
        ({"window": 0}, "window must be a whole number of 1 or more, got 0"),
        ({"multiple": 0}, "multiple must be a whole number of 1 or more, or null, got 0"),
        ({"initial_share": 0.6, "final_share": 0.5}, "must be below 1"),
        ({"beta": 1.0}, r"beta must be a number in \[0, 1\)"),
    ],
)
def test_refuses_values_out_of_range(kwargs, message):
    with pytest.raises(LosparseError, match=message):
        LoSparse(**kwargs)


def test_pruning_has_no_low_rank_part():
    layer = StructuredPruning(keep=0.3).start("layer", random_weight(), None)
    assert layer.rank == 0
    assert layer.u is None
