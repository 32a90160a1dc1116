"""Parity, with numbers worked by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from losparse_runtime import Comparison, InputError, Parity, Session, compare, compare_sessions

MakeFolder = Callable[..., Any]


def test_numbers_worked_by_hand() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
    actual = np.array([[3.0, 4.0], [0.0, 1.0], [1.0, 2.0]])
    parity = compare(actual, reference)
    assert parity.max_abs == 2.0  # 2 - 0 in the last row
    assert parity.max_rel == 0.5  # over the largest entry of the reference, 4
    assert parity.cosine == pytest.approx(1 / math.sqrt(5))  # (1, 2) with (1, 0)
    assert parity.top1_agreement == 2 / 3
    assert (parity.finite, parity.rows) == (True, 3)
    assert (parity.worst_output, parity.worst_index, parity.worst_batch) == ("output", (2, 1), 0)


def test_equal_arrays() -> None:
    array = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    parity = compare(array, array.copy())
    assert (parity.max_abs, parity.max_rel, parity.top1_agreement) == (0.0, 0.0, 1.0)
    assert parity.cosine == pytest.approx(1.0)
    assert parity.passed(0)


def test_each_output_has_its_own_scale() -> None:
    reference = {"small": np.array([[0.1, 0.2]]), "large": np.array([[100.0, 200.0]])}
    actual = {"small": np.array([[0.1, 0.3]]), "large": np.array([[100.0, 201.0]])}
    parity = compare(actual, reference)
    assert parity.max_rel == pytest.approx(0.5)  # of "small": 0.1 / 0.2
    assert (parity.max_abs, parity.worst_output) == (1.0, "large")


def test_names_choose_outputs() -> None:
    parity = compare({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2), "c": np.zeros(2)}, ["a"])
    assert parity.max_abs == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_never_passes(bad: float, side: int) -> None:
    pair = [np.ones((2, 3)), np.ones((2, 3))]
    pair[side][1, 2] = bad
    parity = compare(pair[0], pair[1])
    assert not parity.finite
    assert not parity.passed(1e300)
    assert (parity.max_abs, parity.max_rel, parity.cosine) == (math.inf, math.inf, -1.0)
    assert parity.worst_index == (1, 2)
    assert parity.top1_agreement == 0.5


def test_the_same_infinity_on_both_sides_does_not_pass_either() -> None:
    array = np.array([[1.0, np.inf]])
    assert not compare(array, array).passed(1.0)


def test_the_tolerance_is_inclusive() -> None:
    parity = compare(np.array([0.5]), np.array([0.25]))
    assert parity.passed(0.25)
    assert not parity.passed(0.2499)


@pytest.mark.parametrize("tolerance", [-1.0, math.inf, math.nan])
def test_a_tolerance_that_decides_nothing(tolerance: float) -> None:
    with pytest.raises(InputError, match=r"^tolerance must be a finite number >= 0, got "):
        compare(np.ones(2), np.ones(2)).passed(tolerance)


def test_zeros() -> None:
    zero, one = np.zeros((1, 2)), np.ones((1, 2))
    same = compare(zero, zero)
    assert (same.max_rel, same.cosine) == (0.0, 1.0)
    assert compare(one, zero).max_rel == math.inf
    assert compare(one, zero).cosine == 0.0


def test_cosine_of_extreme_numbers() -> None:
    assert compare(np.array([[1e-200, 0.0]]), np.array([[1e200, 0.0]])).cosine == pytest.approx(1.0)


def test_centred_cosine_counts_rows_by_their_length() -> None:
    reference, actual = (
        np.array([[3.0, 0.0], [-3.0, 0.1], [0.0, -0.1]]),
        np.array([[3.0, 0.0], [-3.0, -0.1], [0.0, 0.1]]),
    )
    parity = compare(actual, reference)  # whose rows have the mean 0
    assert parity.cosine == pytest.approx(-1.0)  # of the third row
    assert parity.centred_cosine == pytest.approx((18 - 0.02) / (18 + 0.02))
    # Of several outputs the smallest; rows of zeros on both sides agree.
    both = compare({"a": actual, "b": np.zeros((1, 2))}, {"a": reference, "b": np.zeros((1, 2))})
    assert both.centred_cosine == parity.centred_cosine
    assert compare(np.zeros(2), np.ones(2)).centred_cosine == 0.0
    assert compare(np.full(2, 1e200), np.full(2, 1e200)).centred_cosine == 0.0  # out of the range of its sums


def test_centred_cosine_does_not_count_what_is_always_said() -> None:
    random = np.random.default_rng(0)
    reference, noise = random.normal(size=(2, 50, 3)) + np.array([[[100.0, -50.0, 20.0]], [[0.0, 0.0, 0.0]]])
    constant = np.tile(reference.mean(axis=0), (50, 1))
    assert compare(constant, reference).cosine > 0.99
    assert compare(constant + noise, reference).centred_cosine == pytest.approx(0.0, abs=0.2)
    # By hand: a and r less the mean row of r.
    actual = reference + 0.3 * noise
    a, r = (array - reference.mean(axis=0) for array in (actual, reference))
    expected = (a * r).sum() / np.linalg.norm(a) / np.linalg.norm(r)
    assert compare(actual, reference).centred_cosine == pytest.approx(expected)
    # The same in two comparisons; and with all rows equal nothing is taken off.
    parts = Comparison()
    parts.add(actual[:20], reference[:20])
    parts.add(actual[20:], reference[20:])
    assert parts.parity().centred_cosine == pytest.approx(expected)
    flat = np.tile([1.0, 2.0], (4, 1))
    assert compare(flat + 1e-7 * noise[:4, :2], flat).centred_cosine == pytest.approx(1.0)


def test_centred_cosine_of_rows_of_several_widths() -> None:
    """As of one number a token: less the mean number."""
    rows = [
        (np.array([[1.0, 2.0, 6.0]]), np.array([[1.0, 2.0, 5.0]])),
        (np.array([[4.0, 2.0]]), np.array([[3.0, 1.0]])),
    ]
    comparison = Comparison()
    for actual, reference in rows:
        comparison.add(actual, reference)
    a, r = np.array([1, 2, 6, 4, 2]) - 2.4, np.array([1, 2, 5, 3, 1]) - 2.4  # 12 / 5
    expected = (a * r).sum() / np.linalg.norm(a) / np.linalg.norm(r)
    assert comparison.parity().centred_cosine == pytest.approx(expected)


def test_flip_margin_is_what_the_reference_preferred_its_class_by() -> None:
    reference = np.array([[2.0, 1.0, 0.0], [0.5, 0.2, 0.4], [1.0, 3.0, 0.0]])
    actual = np.array([[2.0, 1.0, 0.0], [0.1, 0.2, 0.4], [2.0, 1.0, 0.0]])
    parity = compare(actual, reference)
    assert parity.flip_margin == pytest.approx(3.0 - 1.0)  # the third row; the second leads by 0.5 - 0.4
    assert parity.top1_agreement == pytest.approx(1 / 3)
    assert compare(actual[:2], reference[:2]).flip_margin == pytest.approx(0.1)
    assert compare(reference, reference).flip_margin == 0.0


def test_half_precision_and_scalars() -> None:
    assert compare(np.array(1.5, np.float16), np.array(1.0, np.float32)).max_abs == 0.5
    # In half precision this difference would overflow to infinity.
    assert compare(np.array([60000], np.float16), np.array([-60000], np.float16)).max_abs == 120000


def test_to_dict_is_json() -> None:
    parity = compare(np.array([[1.0, np.nan]]), np.array([[1.0, 2.0]]))
    data = json.loads(json.dumps(parity.to_dict(), allow_nan=False))
    assert data["max_abs"] is None
    assert data["worst_index"] == [0, 1]
    assert set(data) == set(Parity.__dataclass_fields__)


@pytest.mark.parametrize(
    ("actual", "reference", "names", "message"),
    [
        (
            np.ones(2),
            np.ones(3),
            None,
            r"^output 'output' has shape \(2,\) on the first side and \(3,\) on the second$",
        ),
        (
            {"a": np.ones(1)},
            {"b": np.ones(1)},
            None,
            r"^the outputs differ: a on the first side, b on the second; choose",
        ),
        ({"a": np.ones(1)}, {"b": np.ones(1)}, ["a"], r"^the second side has no output 'a'; it has b$"),
        (
            np.ones((0, 2)),
            np.ones((0, 2)),
            None,
            r"^output 'output' must hold numbers, at least one, got float64 of shape",
        ),
        (np.array(["a"]), np.array(["a"]), None, r"^output 'output' must hold numbers"),
        ({}, {}, None, r"^nothing to compare: give at least one batch"),
    ],
)
def test_what_cannot_be_compared(actual: Any, reference: Any, names: list[str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(actual, reference, names)


def test_a_mask_hides_padding() -> None:
    reference = np.arange(12.0).reshape(2, 3, 2)
    actual = reference.copy()
    actual[0, 2] = np.nan
    actual[1, 1, 0] += 0.5
    mask = np.array([[1, 1, 0], [0, 1, 1]])
    parity = compare(actual, reference, mask=mask)
    assert (parity.finite, parity.max_abs, parity.rows) == (True, 0.5, 4)
    assert parity.worst_index == (1, 1, 0)  # the place in the whole output
    assert not compare(actual, reference).finite
    with pytest.raises(
        InputError, match=r"^output 'output' has shape \(2, 3, 2\), which does not begin with the mask's"
    ):
        compare(actual, reference, mask=mask[:, :2])
    with pytest.raises(InputError, match=r"^nothing to compare"):
        compare(actual, reference, mask=np.zeros_like(mask))


def test_a_mask_may_be_for_some_outputs_only() -> None:
    reference = {"tokens": np.array([[1.0, 2.0, 3.0]]), "text": np.array([[1.0, 2.0, 3.0]])}
    actual = {"tokens": np.array([[1.0, 2.0, 9.0]]), "text": np.array([[1.0, 2.0, 3.5]])}
    parity = compare(actual, reference, mask=np.array([[1, 1, 0]]), masked=["tokens"])
    assert (parity.max_abs, parity.worst_output, parity.top1_agreement) == (0.5, "text", 1.0)


def test_batches_add_up() -> None:
    comparison = Comparison()
    comparison.add(np.array([[1.0, 2.0]]), np.array([[1.0, 2.0]]))
    comparison.add(np.array([[4.0, 1.0], [1.0, 2.0]]), np.array([[1.0, 4.0], [1.0, 2.0]]))
    comparison.add(np.array([[0.0, 8.0]]), np.array([[0.5, 8.0]]))
    parity = comparison.parity()
    assert (parity.max_abs, parity.worst_batch, parity.worst_index, parity.rows) == (3.0, 1, (0, 0), 4)
    assert parity.max_rel == 3 / 8  # over the largest reference of all batches
    assert parity.top1_agreement == 3 / 4


def batches(session: Session) -> list[dict[str, Any]]:
    return [session.encode(["a b c", "d"]), session.encode(["e"])]


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "question-answering"])
def test_a_session_equals_itself(make_folder: MakeFolder, task: str) -> None:
    session = Session(make_folder(task).path, threads=1)
    parity = compare_sessions(session, session, batches(session))
    assert parity.passed(0)
    assert parity.top1_agreement == 1
    rows = {"text-classification": 3, "token-classification": 11, "question-answering": 6}
    assert parity.rows == rows[task]


def test_sessions_that_differ(make_folder: MakeFolder) -> None:
    one, two = (Session(make_folder(name=f"f{seed}", seed=seed).path, threads=1) for seed in (0, 1))
    parity = compare_sessions(one, two, batches(one))
    expected = [one.run(batch)["logits"] - two.run(batch)["logits"] for batch in batches(one)]
    assert parity.max_abs == pytest.approx(max(float(np.abs(difference).max()) for difference in expected))
    assert not parity.passed(1e-4)


def test_what_a_model_says_at_padding_is_not_compared(make_folder: MakeFolder) -> None:
    one, two = (
        Session(make_folder("token-classification", name=name, poison=name == "bad").path, threads=1)
        for name in ("good", "bad")
    )
    ids = np.array([[4, 5, 11], [4, 5, 6]])  # "h", which is NaN in one of them
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    assert compare_sessions(two, one, [{"input_ids": ids, "attention_mask": mask}]).passed(0)
    assert not compare_sessions(two, one, [{"input_ids": ids}]).finite


def test_no_batches(make_folder: MakeFolder) -> None:
    session = Session(make_folder().path, threads=1)
    with pytest.raises(InputError, match=r"^nothing to compare"):
        compare_sessions(session, session, [])
