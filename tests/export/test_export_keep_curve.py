"""Latency against keep: models of random weights, timed in turns."""

from __future__ import annotations

import pytest
from transformers import BertConfig

from losparse import LoSparse
from losparse_export import Call, latency_by_keep
from losparse_export.keep_curve import _keeping

CONFIG = BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128, vocab_size=100)


def test_rows_of_dense_and_of_every_keep() -> None:
    rows = latency_by_keep(
        CONFIG,
        LoSparse(keep=0.4, structure="foldable"),
        (0.2, 0.5),
        call=Call(2, 8),
        seconds=0.02,
        precisions=("fp32",),
    )
    assert [(row["keep"], row["variant"]) for row in rows] == [(1.0, "fp32"), (0.2, "fp32"), (0.5, "fp32")]
    assert all((row["batch"], row["length"], row["how"]) == (2, 8, "timed") for row in rows)
    assert rows[0]["speedup"] == 1.0 and all(row["ms"] > 0 and row["speedup"] > 0 for row in rows)


@pytest.mark.parametrize(("keep", "low_rank"), [(0.5, 0.2), (0.4, 0.2), (0.3, 0.15), (0.1, 0.05)])
def test_the_low_rank_part_is_at_most_half_of_what_is_kept(keep: float, low_rank: float) -> None:
    method = LoSparse(keep=0.6, low_rank=0.2, initial_steps=5, final_steps=5)
    found = _keeping(method, keep)
    assert (found.keep, found.low_rank, found.structure) == (keep, pytest.approx(low_rank), method.structure)
