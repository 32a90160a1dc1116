"""A model with a past is traced by its signature alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from losparse_export.tracing.capture import capture_program
from losparse_runtime.contract.feeds import Draw
from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.tensors import State, TensorSpec, Vocabulary

SUMS = Signature(
    inputs=(
        TensorSpec("input_ids", "int64", ("batch", "sequence")),
        TensorSpec("attention_mask", "int64", ("batch", "past+sequence")),
        TensorSpec("past", "float32", ("batch", "past", 1)),
    ),
    outputs=(
        TensorSpec("sums", "float32", ("batch", "sequence")),
        TensorSpec("present", "float32", ("batch", "past+sequence", 1)),
    ),
    states=(State("past", "present"),),
    vocabulary=Vocabulary(size=50, padding=0),
)


class RunningSum(nn.Module):
    """Returns for every token the sum of all so far, and the tokens so far."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        whole = torch.cat([past, input_ids[..., None].float()], dim=1)
        return (whole[..., 0] * attention_mask).cumsum(1)[:, past.shape[1] :], whole


@pytest.fixture(scope="module")
def program() -> nn.Module:
    feeds = SUMS.counted_feeds(batch=2, length=4, past=3)
    sample = {name: torch.from_numpy(array) for name, array in feeds.items()}
    return capture_program(RunningSum(), sample, signature=SUMS, longest=20, name="toy").module()


@pytest.mark.parametrize("draw", [Draw(1, 1, past=9), Draw(3, 5), Draw(2, 7, past=1, padding="drawn")])
def test_a_traced_state_holds_for_every_past(program, draw):
    feeds = {name: torch.from_numpy(array) for name, array in SUMS.random_feeds(draw).items()}
    for traced, wanted in zip(program(**feeds), RunningSum()(**feeds), strict=True):
        np.testing.assert_allclose(traced, wanted, rtol=1e-5)
