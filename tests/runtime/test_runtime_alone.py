"""Rows of a batch that are run one at a time, each without its padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from losparse_runtime import Metadata, read_metadata
from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.tensors import TensorSpec
from losparse_runtime.engine.alone import depends_on_batch, run_alone

from .conftest import MakeFolder

Arrays = dict[str, Any]
MIXING = Signature(
    inputs=tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask")),
    outputs=(TensorSpec("tokens", "float32", ("batch", "sequence", 2)), TensorSpec("logits", "float32", ("batch", 1))),
)


def mixing(inputs: Arrays) -> Arrays:
    """A model that adds the largest id of the batch to everything, and refuses padding."""
    ids = inputs["input_ids"]
    assert (inputs["attention_mask"] == 1).all() or not inputs["attention_mask"].any()
    return {"tokens": np.stack([ids + ids.max(), ids], axis=-1).astype(np.float32), "logits": ids[:, :1] + ids.max()}


def test_every_row_is_as_if_it_were_alone():
    ids = np.array([[1, 2, 3, 0], [0, 0, 5, 9], [7, 7, 7, 7], [0, 0, 0, 0]])
    found = run_alone(mixing, {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}, MIXING)
    assert found["logits"].tolist() == [[4], [14], [14], [0]]
    assert found["tokens"][..., 0].tolist() == [[4, 5, 6, 0], [0, 0, 14, 18], [14, 14, 14, 14], [0, 0, 0, 0]]
    assert found["tokens"].shape == (4, 4, 2) and found["tokens"].dtype == np.float32


def test_texts_run_alone_where_the_batch_may_change_them(make_folder: MakeFolder) -> None:
    metadata = read_metadata(make_folder().path)
    moved = {"tolerance": 1e-4, "batch_mates": {"max_abs": 2e-4, "cosine": 1.0, "top1_agreement": 1.0, "texts": 12}}
    within = {**moved, "tolerance": 3e-4}
    assert not depends_on_batch(metadata, "right") and depends_on_batch(metadata, "left")

    def changed(**fields: Any) -> Metadata:
        variants = {"fp32": replace(metadata.variant, **fields)}
        return replace(metadata, folder=replace(metadata.folder, variants=variants))

    assert not depends_on_batch(changed(precision="int8-static"), "right")
    assert depends_on_batch(changed(precision="int8-rows", mixes_texts=True), "right")
    assert depends_on_batch(changed(parity=moved), "right")
    assert not depends_on_batch(changed(parity=within), "right")


def test_a_folder_says_that_texts_mix_where_its_precision_does_not(make_folder: MakeFolder) -> None:
    folder = make_folder()

    def read(**fields: Any) -> Metadata:
        folder.edit(lambda data: data.update(fields))
        return read_metadata(folder.path)

    assert read(precision="int8").variant.mixes_texts and not read(precision="int8-rows").variant.mixes_texts
    for fields, written in (
        ({"precision": "int8-rows", "mixes_texts": True}, True),
        ({"precision": "int8", "mixes_texts": True}, None),
        ({"precision": "int8-rows", "mixes_texts": False}, None),
    ):
        variant = read(**fields).variant
        assert variant.numbers().get("mixes_texts") == written and variant.mixes_texts == fields["mixes_texts"]
