"""Rows of a batch that are run one at a time, each without its padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from losparse_runtime.alone import run_alone

Arrays = dict[str, Any]


def mixing(inputs: Arrays) -> Arrays:
    """A model that adds the largest id of the batch to everything, and refuses padding."""
    ids = inputs["input_ids"]
    assert (inputs["attention_mask"] == 1).all() or not inputs["attention_mask"].any()
    return {"tokens": np.stack([ids + ids.max(), ids], axis=-1).astype(np.float32), "logits": ids[:, :1] + ids.max()}


def test_every_row_is_as_if_it_were_alone():
    ids = np.array([[1, 2, 3, 0], [0, 0, 5, 9], [7, 7, 7, 7], [0, 0, 0, 0]])
    found = run_alone(mixing, {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}, ["tokens"])
    assert found["logits"].tolist() == [[4], [14], [14], [0]]
    assert found["tokens"][..., 0].tolist() == [[4, 5, 6, 0], [0, 0, 14, 18], [14, 14, 14, 14], [0, 0, 0, 0]]
    assert found["tokens"].shape == (4, 4, 2) and found["tokens"].dtype == np.float32
