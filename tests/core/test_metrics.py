"""Metrics against values worked by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from losparse.data.metrics import classification, f1, matthews, pearson, spearman
from losparse.data.tasks.multi_label import multi_label
from losparse.data.tasks.question_answering import spans
from losparse.data.tasks.registry import TASK_DATA
from losparse.data.tasks.regression import regression
from losparse_runtime.contract.task import TASKS
from losparse_runtime.evaluation.likelihood import perplexity


def test_matthews_of_two_classes_by_hand():
    # 3 true and 2 false positives, 4 true and 1 false negatives: (3*4 - 2*1) / sqrt(5 * 4 * 6 * 5)
    truth = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    predicted = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0])
    assert matthews(predicted, truth) == pytest.approx(10 / math.sqrt(600))
    assert matthews(1 - predicted, truth) == pytest.approx(-10 / math.sqrt(600))


def test_matthews_of_three_classes_by_hand():
    # 4 of 6 right; predicted 2, 3, 1 of each class, true 2, 2, 2: (4*6 - 12) / sqrt((36 - 14)(36 - 12))
    assert matthews(np.array([0, 1, 1, 1, 2, 0]), np.array([0, 0, 1, 1, 2, 2])) == pytest.approx(12 / math.sqrt(528))


def test_matthews_at_its_ends():
    truth = np.array([5, 0, 2, 2])
    assert matthews(truth, truth) == 1.0
    assert matthews(np.full(4, 2), truth) == 0.0, "one class for all tells nothing"


@pytest.mark.parametrize("seed", range(5))
def test_what_is_counted_here_equals_scikit_learn(seed: int):
    from sklearn.metrics import f1_score, matthews_corrcoef

    generator = np.random.default_rng(seed)
    truth, predicted = generator.integers(0, seed + 2, (2, 40))
    assert matthews(predicted, truth) == pytest.approx(matthews_corrcoef(truth, predicted))
    right, said = generator.random((2, 40, seed + 1)) < 0.3
    found = multi_label(SimpleNamespace(predictions=said - 0.5, label_ids=right.astype(float)))
    each = [f1_score(right[:, column], said[:, column], zero_division=0.0) for column in range(seed + 1)]
    assert found["f1"] == pytest.approx(f1_score(right.reshape(-1), said.reshape(-1), zero_division=0.0))
    assert found["f1_macro"] == pytest.approx(np.mean(each))


def test_f1_of_nothing_is_none():
    nothing = np.zeros((3, 2), bool)
    assert f1(nothing, nothing) == 0.0 and f1(~nothing, ~nothing) == 1.0


def test_correlations_by_hand():
    one, other = np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 40.0])
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)
    assert spearman(one, other) == pytest.approx(4.5 / math.sqrt(22.5))
    # deviations -1, 0, 0, 1 and -10.5, -9.5, -8.5, 28.5
    assert pearson(one, other) == pytest.approx(39 / math.sqrt(2 * (10.5**2 + 9.5**2 + 8.5**2 + 28.5**2)))
    assert pearson(one, -one) == pytest.approx(-1.0)
    assert pearson(one, np.ones(4)) == spearman(np.ones(4), one) == 0.0


def prediction(predictions, label_ids):
    return SimpleNamespace(predictions=predictions, label_ids=label_ids)


LOGITS = np.array([[1.0, 0.0], [0.0, 1.0]])


def test_classification_of_texts_and_tokens():
    assert classification(prediction(LOGITS, np.array([0, 0]))) == {"accuracy": 0.5, "matthews": 0.0}
    assert classification(prediction((LOGITS, "hidden states"), np.array([0, 1]))) == {"accuracy": 1.0, "matthews": 1.0}
    tokens = prediction(np.stack([LOGITS, LOGITS]), np.array([[0, -100], [0, 1]]))
    assert classification(tokens) == {"accuracy": 1.0, "matthews": 1.0}


def peaks(*places, length=6, height=5.0):
    """Logits of one row a place, with a peak there; a pair of place and height sets another."""
    logits = np.zeros((len(places), length))
    for row, place in enumerate(places):
        at, value = place if isinstance(place, tuple) else (place, height)
        logits[row, at] = value
    return logits


def windows(*rows, start=1, stop=6):
    """Facts of rows: number of the question, and whether it has an answer; tokens start..stop - 1 are the context's."""
    return np.array([[question, start, stop, answerable] for question, answerable in rows])


EACH = windows((0, 1), (1, 1), (2, 0), (3, 0))


def test_spans_need_both_ends():
    # right in both ends, right in the start alone, wrongly an answer, rightly none
    first, last = np.array([2, 2, 0, 0]), np.array([3, 4, 0, 0])
    assert spans(prediction((peaks(2, 2, 2, 0), peaks(3, 3, 3, 0)), (first, last, EACH))) == {"accuracy": 0.5}


def test_a_span_does_not_end_before_it_starts():
    starts, ends = peaks(4), peaks(2, height=4.0)  # 4..4 has 5 + 0, 1..2 has 0 + 4
    label_ids = np.array([4]), np.array([4]), windows((0, 1))
    assert spans(prediction((starts, ends), label_ids)) == {"accuracy": 1.0}


def test_a_span_is_of_the_context_alone():
    # The question's tokens (1), a special one (5) and the padding (6, 7) are surer than the context's (2 to 4).
    starts, ends = peaks(3, height=1.0, length=8), peaks(4, height=1.0, length=8)
    starts[0, [1, 5, 6, 7]] = ends[0, [1, 5, 6, 7]] = 9.0
    label_ids = np.array([3]), np.array([4]), windows((0, 1), start=2, stop=5)
    assert spans(prediction((starts, ends), label_ids)) == {"accuracy": 1.0}


@pytest.mark.parametrize(("tokens", "accuracy"), [(30, 1.0), (31, 0.0)])
def test_a_span_is_as_long_as_a_session_looks_for(tokens, accuracy):
    starts, ends = peaks(1, length=40), peaks(tokens, length=40)  # token 1 to token `tokens`, so many of them
    label_ids = np.array([1]), np.array([tokens]), windows((0, 1), stop=40)
    assert spans(prediction((starts, ends), label_ids)) == {"accuracy": accuracy}


def test_questions_are_counted_and_not_their_windows():
    # Rows in another order than the questions'. Question 7: only its second window has the answer, and its first one
    # says so. Question 8: two windows have the answer, the surer one errs. Question 9: no window has one.
    questions = windows((9, 0), (7, 1), (8, 1), (7, 1), (8, 1), (9, 0))
    first = np.array([0, 2, 3, 0, 1, 0])
    starts = peaks(0, 2, 3, (0, 9.0), (5, 9.0), 0)
    label_ids = (first, first, questions)
    assert spans(prediction((starts, starts), label_ids)) == {"accuracy": pytest.approx(2 / 3)}
    # a window of question 9 that is sure of an answer makes it wrong
    starts[0] = peaks(4)
    assert spans(prediction((starts, starts), label_ids)) == {"accuracy": pytest.approx(1 / 3)}


def test_there_is_always_an_answer_where_every_question_has_one():
    starts = peaks(0)
    starts[0, 3] = 1.0
    label_ids = np.array([3]), np.array([3]), windows((0, 1))
    assert spans(prediction((starts, starts), label_ids)) == {"accuracy": 1.0}
    # an answer that no window holds whole is not one that may be left out
    label_ids = np.array([0]), np.array([0]), windows((0, 1))
    assert spans(prediction((starts, starts), label_ids)) == {"accuracy": 0.0}


def test_regression_takes_logits_of_one_column():
    found = regression(prediction(np.array([[1.0], [2.0], [4.0]], np.float32), np.array([2.0, 3.0, 5.0], np.float32)))
    assert found == {"pearson": pytest.approx(1.0), "spearman": pytest.approx(1.0), "mse": 1.0}


def test_perplexity():
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert math.isfinite(perplexity(1e6))
    assert TASK_DATA["causal-lm"].metric() is None, "logits of a vocabulary are not kept"
    assert TASK_DATA["causal-lm"].metrics_of_loss(0.0) == {"perplexity": 1.0}


def test_any_number_of_classes_by_hand():
    # Classes 0, 1, 2 are taken to apply above a logit of 0; right are 3 of 4 predicted, and 3 of 5 true.
    logits = np.array([[2.0, -1.0, 0.5], [-1.0, 1.0, -1.0], [3.0, -2.0, -2.0], [-1.0, -1.0, -1.0]])
    truth = np.array([[1.0, 0, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0]])
    found = multi_label(prediction(logits, truth))
    # each class: 2 of 2 and 2; 0 of 1 and 1; 1 of 1 and 2: 2 * right / (predicted + true)
    assert found == {
        "f1": pytest.approx(2 * 3 / (4 + 5)),
        "f1_macro": pytest.approx((1 + 0 + 2 / 3) / 3),
        "accuracy": 0.25,
    }
    assert multi_label(prediction(-np.ones((2, 1)), np.zeros((2, 1)))) == {"f1": 0.0, "f1_macro": 0.0, "accuracy": 1.0}


def test_every_task_that_is_trained_has_rows_and_a_metric():
    assert set(TASK_DATA) == {task.name for task in TASKS.values() if task.trained}
    for name in set(TASK_DATA) - {"causal-lm", "question-answering"}:
        logits = np.ones((4, TASKS[name].outputs_needed(2)))
        labels = logits if TASKS[name].labels == "classes" else np.ones(4)
        found = TASK_DATA[name].metric()(prediction(logits, labels))
        assert TASKS[name].metric in found
