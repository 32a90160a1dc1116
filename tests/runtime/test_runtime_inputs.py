"""What `run` accepts, what it adds, and the line it gives for everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from losparse_runtime import InputError, Session

MakeFolder = Callable[..., Any]
IDS = np.array([[2, 4, 5, 3], [2, 6, 3, 0]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.fixture
def session(make_folder: MakeFolder) -> Session:
    return Session(make_folder().path, threads=1)


def test_outputs_are_the_model_s(make_folder: MakeFolder) -> None:
    folder = make_folder()
    outputs = Session(folder.path, threads=1).run({"input_ids": IDS, "attention_mask": MASK})
    assert list(outputs) == ["logits"]
    hidden = folder.weights.words[IDS] + folder.weights.types[0]
    np.testing.assert_allclose(
        outputs["logits"], (hidden * MASK[:, :, None]).sum(axis=1) @ folder.weights.head, rtol=1e-5, atol=1e-6
    )


def test_mask_and_types_have_defaults(session: Session) -> None:
    whole = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), "token_type_ids": np.zeros_like(IDS)}
    np.testing.assert_array_equal(session.run({"input_ids": IDS})["logits"], session.run(whole)["logits"])


def test_an_array_need_not_be_contiguous(session: Session) -> None:
    strided = np.repeat(IDS, 2, axis=1)[:, ::2]
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(
        session.run({"input_ids": strided})["logits"], session.run({"input_ids": IDS})["logits"]
    )


def test_nan_outputs_are_returned_by_run(make_folder: MakeFolder) -> None:
    session = Session(make_folder(poison=True).path, threads=1)
    assert np.isnan(session.run({"input_ids": np.array([[11]])})["logits"]).all()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([IDS], r"^inputs must be a dict of arrays by name, got list; encode\(texts\) makes one$"),
        ({"ids": IDS}, r"^the model has no input ids; its inputs are input_ids, attention_mask, token_type_ids$"),
        ({3: IDS}, r"^the model has no input 3; "),
        ({"attention_mask": MASK}, r"^input input_ids, token_type_ids is missing; the model's inputs are input_ids, "),
        ({}, r"^input input_ids, attention_mask, token_type_ids is missing"),
        ({"input_ids": IDS.tolist()}, r"^input 'input_ids' must be a numpy array, got list; use np.asarray\(...\)$"),
        (
            {"input_ids": IDS.astype(np.int32)},
            r"^input 'input_ids' must be int64, got int32; cast .*astype\(np.int64\)$",
        ),
        ({"input_ids": IDS.astype(">i8")}, r"^input 'input_ids' must be int64, got >i8"),
        ({"input_ids": IDS, "attention_mask": MASK > 0}, r"^input 'attention_mask' must be int64, got bool"),
        ({"input_ids": IDS[0]}, r"^input 'input_ids' must have the 2 axes \(batch, sequence\), got shape \(4,\)$"),
        ({"input_ids": IDS[:0]}, r"^input 'input_ids' must have at least one entry on axis batch, got shape \(0, 4\)$"),
        ({"input_ids": IDS[:, :0]}, r"^input 'input_ids' must have at least one entry on axis sequence"),
        (
            {"input_ids": IDS, "attention_mask": MASK[:, :3]},
            r"^input 'attention_mask' has sequence size 3, input_ids has 4; they must be equal$",
        ),
        ({"input_ids": IDS, "token_type_ids": MASK[:1]}, r"^input 'token_type_ids' has batch size 1, input_ids has 2"),
        (
            {"input_ids": np.full((1, 17), 4)},
            r"^input_ids has 17 tokens a row, the model has 16 positions; .*encode\(texts, max_length=16\)$",
        ),
        ({"input_ids": np.array([[4, 12]])}, r"^input 'input_ids' must be in 0..11, got 12 at \(0, 1\); use the tok"),
        ({"input_ids": np.array([[4], [-1]])}, r"^input 'input_ids' must be in 0..11, got -1 at \(1, 0\)"),
        ({"input_ids": IDS, "token_type_ids": IDS}, r"^input 'token_type_ids' must be in 0..1, got 2 at \(0, 0\)"),
        ({"input_ids": IDS, "attention_mask": IDS}, r"^input 'attention_mask' must be in 0..1, got 2 at \(0, 0\)"),
    ],
)
def test_bad_inputs(session: Session, inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session.run(inputs)


def test_an_input_the_model_lacks_is_refused(make_folder: MakeFolder) -> None:
    session = Session(make_folder(types=False).path, threads=1)
    with pytest.raises(
        InputError, match=r"^the model has no input token_type_ids; its inputs are input_ids, attention"
    ):
        session.run({"input_ids": IDS, "token_type_ids": np.zeros_like(IDS)})


def test_a_fixed_axis_is_checked_against_the_model(make_folder: MakeFolder) -> None:
    folder = make_folder().edit(lambda data: data["inputs"][0].update(shape=["batch", 4]))
    with pytest.raises(InputError, match=r"^input 'input_ids' has 4 size 3, the model has 4; they must be equal$"):
        Session(folder.path, threads=1).run({"input_ids": IDS[:, :3]})


def test_without_a_vocabulary_size_ids_go_through(make_folder: MakeFolder) -> None:
    folder = make_folder()
    (folder.path / "config.json").unlink()
    assert Session(folder.path, threads=1).run({"input_ids": np.array([[11]])})["logits"].shape == (1, 3)
