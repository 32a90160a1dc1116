"""What int8-static is calibrated with."""

from __future__ import annotations

import numpy as np

from losparse_export.accuracy.texts import encode_calibration

from ..runtime.conftest import make_folder

__all__ = ["make_folder"]  # a fixture of the runtime's tests

SETTINGS = {"include_prompt": True, "truncate_dim": None, "similarity": None}


def test_scales_are_measured_on_texts_with_the_prompt_that_is_served(make_folder):
    folder = make_folder("feature-extraction")
    plain = encode_calibration(["c"], folder.path)
    np.testing.assert_array_equal(plain[0]["input_ids"], [[2, 6, 3]])
    embedding = {"prompts": {"query": "a b "}, "default_prompt_name": "query", **SETTINGS}
    folder.edit(lambda data: data.update(embedding=embedding))
    prompted = encode_calibration(["c"], folder.path)
    np.testing.assert_array_equal(prompted[0]["input_ids"], [[2, 4, 5, 6, 3]])
    assert encode_calibration(plain, folder.path) == plain
