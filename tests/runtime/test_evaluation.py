"""Perplexity and accuracy among choices, of models whose probabilities are known by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies
from numpy.typing import NDArray

from losparse_runtime import (
    FolderModel,
    InputError,
    Question,
    RunError,
    Session,
    measure_choices,
    measure_perplexity,
)
from losparse_runtime.evaluation.likelihood import log_probabilities
from losparse_runtime.evaluation.rows import Row, score_rows
from losparse_runtime.evaluation.windows import windows

from .decoder_models import BEGIN, END, KINDS, Made, write_decoder

LETTERS = 128


class Bigrams:
    """A language model of letters that knows the letter before, and how many stand before in this run.

    Letter b behind a is as likely as `table` says; the more letters stand before, the surer all of it.
    """

    name, positions = "bigrams", 64

    def __init__(self, end: int | None = 3, begin: tuple[int, ...] = ()) -> None:
        self.table = np.random.default_rng(0).normal(size=(LETTERS, LETTERS)).astype(np.float32)
        self.end, self.begin = end, begin
        self.shapes: list[tuple[int, ...]] = []

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        return [*(self.begin if special else ()), *(ord(letter) for letter in text)]

    def logits(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[Any]:
        assert (mask == 1).sum() == (np.sort(mask)[:, ::-1] == mask).all() * mask.sum(), "padded on the right"
        self.shapes.append(ids.shape)
        before = np.arange(1, ids.shape[1] + 1, dtype=np.float32)[:, None] / 8
        return self.table[ids] * before

    def loss(self, tokens: list[int], at: int) -> float:
        """Nats of one token of a row that is read from its beginning on."""
        row = self.table[tokens[at - 1]].astype(np.float64) * (at / 8)
        return float(np.log(np.exp(row).sum()) - row[tokens[at]])


def test_logarithms_are_those_of_float64() -> None:
    random = np.random.default_rng(0)
    logits = (random.normal(size=(150, 5000)) * 10).astype(np.float32)
    tokens = random.integers(0, 5000, 150)
    tokens[::3] = logits[::3].argmax(1)
    wide = logits.astype(np.float64)
    expected = wide[np.arange(150), tokens] - np.log(np.exp(wide - wide.max(1, keepdims=True)).sum(1)) - wide.max(1)
    logs, first = log_probabilities(logits, tokens)
    # float32 exponentials of one sign: their relative error, 1e-7, is the sum's
    np.testing.assert_allclose(logs, expected, rtol=0, atol=1e-6)
    assert (first == (logits.argmax(1) == tokens)).all() and first[::3].all()


def test_large_and_small_logits_overflow_nothing() -> None:
    logs, _ = log_probabilities(np.array([[1e4, -1e4], [-np.inf, 0.0]], np.float32), np.array([1, 0]))
    assert logs.tolist() == [-2e4, -math.inf]


@given(strategies.integers(2, 60), strategies.integers(2, 20), strategies.data())
def test_every_token_is_predicted_once(tokens: int, window: int, data: strategies.DataObject) -> None:
    stride = data.draw(strategies.integers(1, window))
    counted = []
    for each in windows(tokens, window, stride):
        assert each.end - each.begin <= window
        for place in range(each.end - each.counted, each.end):
            before = place - each.begin
            assert before >= (1 if each.begin == 0 or stride == window else window - stride)
            counted.append(place)
    # Side by side a window's first token has nothing before it; else only the first of all has not.
    unseen = set(range(0, tokens, window)) if stride == window else {0}
    assert counted == [place for place in range(tokens) if place not in unseen]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9, 1, 1), "window must be 2 tokens or more, so that one can be predicted, got 1"),
        ((9, 4, 5), r"stride must be in 1\.\.4, the tokens of a window, got 5"),
        ((1, 4, 4), "2 tokens or more together, so that one can be predicted, got 1"),
    ],
)
def test_windows_that_cannot_be_are_refused(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        windows(*arguments)


def test_perplexity_is_that_of_the_losses_by_hand() -> None:
    model = Bigrams()
    found = measure_perplexity(model, ["ab", "cdef g"], window=4, stride=3)
    stream = [ord(letter) for letter in "ab"] + [3] + [ord(letter) for letter in "cdef g"] + [3]
    # windows 0-4, 3-7, 6-10: three tokens of the first are predicted, then three of each
    losses = [model.loss(stream[0:4], at) for at in (1, 2, 3)]
    losses += [model.loss(stream[3:7], at) for at in (1, 2, 3)] + [model.loss(stream[6:10], at) for at in (1, 2, 3)]
    mean = sum(losses) / 9
    # float32 logits of about 1
    assert found.loss == pytest.approx(mean, abs=1e-6)
    assert found.perplexity == pytest.approx(math.exp(mean), rel=1e-6)
    assert (found.texts, found.tokens, found.counted, found.window, found.stride) == (2, 10, 9, 4, 3)
    assert (found.bytes, found.words) == (8, 3)
    assert found.bits_per_byte == pytest.approx(mean * 10 / 8 / math.log(2))
    assert found.word_perplexity == pytest.approx(math.exp(mean * 10 / 3))
    assert found.to_dict()["loss"] == found.loss and found.to_dict()["perplexity"] == found.perplexity


def test_one_document_is_what_its_tokenizer_makes_of_it() -> None:
    model = Bigrams(end=None, begin=(1,))
    found = measure_perplexity(model, "abc", whole=True)
    losses = [model.loss([1, 97, 98, 99], at) for at in (1, 2, 3)]
    assert (found.tokens, found.counted, found.window) == (4, 3, 64)
    assert found.loss == pytest.approx(sum(losses) / 3, abs=1e-6)
    assert measure_perplexity(Bigrams(), ["abc", "d"], whole=True).tokens == 5, "an end between them, and none behind"
    with pytest.raises(InputError, match="bigrams: has no token that ends a text; set eos_token"):
        measure_perplexity(model, ["abc", "d"], whole=True)


def test_a_text_that_ends_by_itself_gets_no_second_end() -> None:
    assert measure_perplexity(Bigrams(), ["ab\x03", "c"]).tokens == 5


def test_fewer_windows_are_evenly_taken() -> None:
    model = Bigrams()
    text = "".join(chr(32 + place % 90) for place in range(80))
    few = measure_perplexity(model, text, window=8, limit=3, whole=True)
    stream = model.tokens(text)
    # of ten windows the first, the fifth (4.5 to the even one) and the last
    losses = [model.loss(stream[begin : begin + 8], at) for begin in (0, 32, 72) for at in range(1, 8)]
    assert few.counted == 21 and few.loss == pytest.approx(sum(losses) / 21, abs=1e-6)
    assert measure_perplexity(model, text, window=8, limit=99, whole=True).counted == 70
    with pytest.raises(InputError, match="limit must be 1 or more, got 0"):
        measure_perplexity(model, text, limit=0)
    with pytest.raises(InputError, match="window must be at most the 64 positions of bigrams, got 65"):
        measure_perplexity(model, text, window=65)


def test_runs_hold_as_many_tokens_as_they_may() -> None:
    model = Bigrams()
    rows = [Row(list(range(40, 40 + size)), size - 1) for size in (3, 9, 2, 8, 30, 3)]
    scores = score_rows(model, rows, run_tokens=18)
    assert model.shapes == [(1, 30), (2, 9), (3, 3)], "the longest first; a row that is too long runs alone"
    expected = [-sum(model.loss(list(row.tokens), at) for at in range(1, len(row.tokens))) for row in rows]
    assert [score.log for score in scores] == pytest.approx(expected, abs=1e-5)


def test_logits_that_are_no_numbers_are_refused() -> None:
    model = Bigrams()
    model.table[ord("b")] = np.nan
    assert measure_perplexity(model, "aab", whole=True).counted == 2, "what nobody reads may be anything"
    with pytest.raises(RunError, match="bigrams: its logits have NaN"):
        measure_perplexity(model, "aba", whole=True)


# Choices


def log_of(model: Bigrams, front: list[int], text: str) -> float:
    tokens = [*front, *map(ord, text)]
    return -sum(model.loss(tokens, at) for at in range(len(front), len(tokens)))


def test_choices_are_as_likely_as_their_tokens_behind_the_context() -> None:
    model = Bigrams(begin=(1,))
    found = measure_choices(model, [Question("ab ", ("c", "de"), 1), Question("xy", (" f", "ghi", "\tj"), 0)])
    expected = [
        [log_of(model, [1, 97, 98], " c"), log_of(model, [1, 97, 98], " de")],
        [log_of(model, [1, 120, 121], text) for text in (" f", " ghi", "\tj")],
    ]
    for logs, wanted in zip(found.logs, expected, strict=True):
        assert logs == pytest.approx(wanted, abs=1e-5)
    picks = [int(np.argmax(each)) for each in expected]
    by_length = [int(np.argmax(np.divide(e, s))) for e, s in zip(expected, ([1, 2], [2, 3, 2]), strict=True)]
    assert (found.picks(), found.picks(normalised=True)) == (picks, by_length)
    assert found.accuracy == ((picks[0] == 1) + (picks[1] == 0)) / 2
    assert found.accuracy_normalised == ((by_length[0] == 1) + (by_length[1] == 0)) / 2
    assert found.chance == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_length_counts_against_no_choice_by_normalising() -> None:
    """Every letter is equally likely, so the shorter choice wins, and by length none does."""
    model = Bigrams()
    model.table[:] = 0
    found = measure_choices(model, [Question("a", ("bbbb", "b"), 0)] * 4 + [Question("a", ("b", "bb"), 0)])
    # The space before a choice is one of its tokens and none of its characters: 5/4 of log 128 a letter, and 2.
    assert found.picks() == [1, 1, 1, 1, 0] and found.picks(normalised=True) == [0, 0, 0, 0, 1]
    told = found.to_dict()
    assert (told["accuracy"], told["accuracy_normalised"], told["questions"]) == (0.2, 0.8, 5)
    assert told["accuracy_error"] == pytest.approx(math.sqrt(0.2 * 0.8 / 4))
    assert measure_choices(model, [Question("a", ("b", "c"), 0)]).to_dict()["accuracy_error"] is None


def test_an_empty_context_is_the_token_that_begins_or_ends_a_text() -> None:
    begun, ended = Bigrams(begin=(1,)), Bigrams(end=3)
    question = Question("", ("ab", "cd"), 0)
    for model, front in ((begun, [1]), (ended, [3])):
        found = measure_choices(model, [question])
        assert found.logs[0] == pytest.approx([log_of(model, front, text) for text in question.choices], abs=1e-5)
    with pytest.raises(InputError, match="question 0: nothing stands in front of a choice"):
        measure_choices(Bigrams(end=None), [question])


def test_a_long_context_loses_its_beginning() -> None:
    model = Bigrams(begin=(1,))
    found = measure_choices(model, [Question("z" * 100, ("ab", "c"), 0)])
    # 64 positions, of which the choice with its space takes 3
    assert found.logs[0][0] == pytest.approx(log_of(model, [122] * 61, " ab"), abs=1e-4)
    with pytest.raises(InputError, match="question 0: a choice has 64 tokens, and bigrams reads 64 at once"):
        measure_choices(model, [Question("z", ("a" * 63, "b"), 0)])


def test_tokens_that_reach_over_the_end_of_the_context_belong_to_the_choice() -> None:
    class Merging(Bigrams):
        def tokens(self, text: str, *, special: bool = True) -> list[int]:
            return super().tokens(text.replace("b c", "X"), special=special)

    model = Merging()
    found = measure_choices(model, [Question("ab", ("c", "d"), 0)])
    assert found.logs[0] == pytest.approx([log_of(model, [97], "X"), log_of(model, [97, 98], " d")], abs=1e-5)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (("a", ("b",), 0), "2 choices or more, none empty, got"),
        (("a", ("b", " "), 0), "2 choices or more, none empty, got"),
        (("a", ("b", "c"), 2), r"answer must be in 0\.\.1, the number of a choice, got 2"),
        (("a", ("b", "c"), -1), "answer must be in"),
    ],
)
def test_questions_that_are_none_are_refused(question: tuple[str, tuple[str, ...], int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Question(*question)


def test_no_question_is_refused() -> None:
    with pytest.raises(InputError, match="at least one question, got none"):
        measure_choices(Bigrams(), [])


# Folders


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_says_what_its_logits_say(tmp_path: Path, kind: Any) -> None:
    session = Session(write_decoder(tmp_path / "lm", Made(kind)), threads=1)
    model = FolderModel(session)
    found = measure_perplexity(model, ["Hello", "you, there"], window=6, stride=4)
    stream = [*b"Hello", END, *b"you, there", END]
    losses = []
    for begin, first in ((0, 1), (4, 2), (8, 2), (12, 2)):
        ids = np.array([stream[begin : begin + 6]])
        logits = session.run({"input_ids": ids})["logits"][0].astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        losses += [-logs[at - 1, ids[0, at]] for at in range(first, ids.shape[1])]
    # fp32, and rows that run together are padded
    assert found.counted == 16 and found.loss == pytest.approx(np.mean(losses), abs=1e-5)
    chosen = measure_choices(model, [Question("Hello", ("you", "there, you"), 0)])
    alone = measure_choices(model, [Question("Hello", ("you", "there, you"), 0)], run_tokens=1)
    assert chosen.logs[0] == pytest.approx(alone.logs[0], abs=1e-5), "padding says nothing"


def test_a_folder_ends_texts_as_its_tokenizer_does_or_as_it_generates(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "lm", Made(ends=[BEGIN, END]))
    assert FolderModel(Session(folder, threads=1)).end == END
    (folder / "tokenizer_config.json").unlink()
    assert FolderModel(Session(folder, threads=1)).end == BEGIN


def test_a_folder_that_predicts_no_text_is_refused(make_folder: Any) -> None:
    with pytest.raises(InputError, match="is for text-classification, and predicts no text"):
        FolderModel(Session(make_folder().path, threads=1))
