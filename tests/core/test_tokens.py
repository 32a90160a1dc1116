"""Examples to token ids: lengths, labels at the first piece of a word, answers in windows of a long context."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from losparse.data.examples import Examples
from losparse.data.loading import tokenize
from losparse.data.tasks.question_answering import Answer, QuestionAnswering
from losparse.errors import LosparseError


def word_piece() -> PreTrainedTokenizerFast:
    """`play` and `##ing` are pieces; ids: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, then these words in order."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "play", "##ing", "Rome", "it", "stood", "in", "where"]
    inner = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def byte_level() -> PreTrainedTokenizerFast:
    """Pieces that begin with the space before their word, as in GPT-2 and RoBERTa."""
    words = ["<pad>", "a", "Ġ", "Ġb", "c", "Ġbc"]
    inner = Tokenizer(models.BPE({w: i for i, w in enumerate([*words, "b"])}, [("Ġ", "b"), ("Ġb", "c")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>")


def test_texts_are_cut_counted_and_labelled() -> None:
    examples = Examples(["a b c", "a"], None, [1, 0], ("x", "y"))
    rows = tokenize(examples, word_piece(), task="text-classification", max_length=4)
    assert rows[0]["input_ids"] == [2, 4, 5, 3]
    assert (rows[0]["labels"], rows[1]["labels"]) == (1, 0)
    assert rows[1]["attention_mask"] == [1, 1, 1]
    assert (len(rows), rows.truncated) == (2, 1)
    rows[0].pop("labels")
    assert "labels" in rows[0], "a collator that pops must not change the data"


def test_pairs_have_two_types() -> None:
    examples = Examples(["a"], ["b c"], [0], ("x", "y"))
    row = tokenize(examples, word_piece(), task="text-classification", max_length=16)[0]
    assert row["input_ids"] == [2, 4, 3, 5, 6, 3]
    assert row["token_type_ids"] == [0, 0, 0, 1, 1, 1]


def test_progress_adds_up_to_the_examples() -> None:
    done: list[int] = []
    examples = Examples(["a"] * 2500, None, [0] * 2500, ("x", "y"))
    rows = tokenize(examples, word_piece(), task="text-classification", max_length=8, progress=done.append)
    assert (sum(done), len(done), len(rows)) == (2500, 3, 2500)


def test_a_word_is_labelled_at_its_first_piece_only() -> None:
    examples = Examples([["a", "playing", "b"]], None, [[5, 6, 7]], tuple("abcdefgh"))
    row = tokenize(examples, word_piece(), task="token-classification", max_length=16)[0]
    assert row["input_ids"] == [2, 4, 7, 8, 5, 3]
    assert row["labels"] == [-100, 5, 6, -100, 7, -100]


def test_cut_words_lose_their_labels() -> None:
    examples = Examples([["a", "playing", "b"]], None, [[0, 1, 0]], ("x", "y"))
    rows = tokenize(examples, word_piece(), task="token-classification", max_length=4)
    assert (rows[0]["labels"], rows.truncated) == ([-100, 0, 1, -100], 1)


def test_pieces_that_begin_with_a_space_belong_to_the_word_behind_it() -> None:
    examples = Examples([["a", "bc", "b"]], None, [[0, 1, 2]], ("x", "y", "z"))
    row = tokenize(examples, byte_level(), task="token-classification", max_length=16)[0]
    assert row["input_ids"] == [1, 5, 3]
    assert row["labels"] == [0, 1, 2]


def test_answer_positions() -> None:
    examples = Examples(["where"], ["it stood in Rome"], [Answer("in Rome", 9)], ())
    row = tokenize(examples, word_piece(), task="question-answering", max_length=16)[0]
    assert row["input_ids"] == [2, 13, 3, 10, 11, 12, 9, 3]
    assert (row["start_positions"], row["end_positions"]) == (5, 6)


def test_a_long_context_gives_windows_and_only_those_with_the_answer_point_at_it() -> None:
    context = " ".join(["a"] * 20 + ["Rome"] + ["b"] * 20)
    examples = Examples(["where"], [context], [Answer("Rome", 40)], ())
    rows = tokenize(examples, word_piece(), task="question-answering", max_length=12)
    assert rows.truncated == 1
    spans = [(row["start_positions"], row["end_positions"]) for row in rows]
    for row, (start, end) in zip(rows, spans, strict=True):
        assert len(row["input_ids"]) <= 12
        assert (start, end) == ((row["input_ids"].index(9),) * 2 if 9 in row["input_ids"] else (0, 0))
    assert any(start for start, _ in spans) and (0, 0) in spans


def test_windows_know_their_question_and_their_context() -> None:
    class Small(QuestionAnswering):
        chunk = 2

    long, short = " ".join(["a"] * 20), "a b"
    answers = [Answer("a", 0), Answer("a", 0), Answer("", 0)]
    examples = Examples(["where"] * 3, [short, long, short], answers, ())
    rows = Small().tokenize(examples, word_piece(), max_length=12)
    assert rows.notes is not None and rows.truncated == 1
    questions = [window.question for window in rows.notes]
    assert [questions.count(number) for number in range(3)] == [1, len(rows) - 2, 1]
    assert questions == sorted(questions)
    for row, window in zip(rows, rows.notes, strict=True):
        # [CLS] question [SEP] context [SEP]
        assert (window.start, window.stop) == (3, len(row["input_ids"]) - 1)
        assert window.answerable == (window.question != 2)
    assert "notes" not in rows[0], "models are trained on rows without it"
    assert [tuple(row["notes"]) for row in rows.measurable()] == rows.notes
    assert rows[1:].notes == rows.notes[1:]


def test_tokenize_refuses() -> None:
    examples = Examples(["a"], None, [0], ("x", "y"))
    with pytest.raises(LosparseError, match="above the 2 special tokens"):
        tokenize(examples, word_piece(), task="text-classification", max_length=2)
    with pytest.raises(LosparseError, match="must be a fast one"):
        tokenize(examples, SimpleNamespace(is_fast=False), task="text-classification", max_length=8)
    long_question = Examples(["where " * 20], ["a"], [Answer("a", 0)], ())
    with pytest.raises(LosparseError, match=r"longest question \(20 tokens\)"):
        tokenize(long_question, word_piece(), task="question-answering", max_length=16)
