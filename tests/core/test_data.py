"""Files to rows and texts: what is read, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losparse.data.loading import load_examples, load_texts
from losparse.data.tables import read_table
from losparse.errors import LosparseError

from .conftest import Write, classify, jsonl


def test_csv_with_quotes_line_breaks_and_a_byte_order_mark(write: Write) -> None:
    path = write("a.csv", b'\xef\xbb\xbftext,label\r\n"one, two",x\r\n"three\nfour",y\r\n\r\n"say ""hi""",x\r\n')
    examples = classify(path)
    assert examples.texts == ["one, two", "three\nfour", 'say "hi"']
    assert examples.labels == [0, 1, 0]
    assert examples.label_names == ("x", "y")
    assert examples.pairs is None


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "question-answering"])
def test_columns_are_not_those_of_plain_text(write: Write, task: str) -> None:
    path = write("a.txt", "one\n\ntwo\n")
    columns = {"text_column": "review_body", "pair_column": "title"}
    assert load_texts(path, task=task, **columns) == (["one", "two"], None)
    assert load_examples(path, task="causal-lm", text_column="review_body").texts == ["one", "two"]
    with pytest.raises(LosparseError, match="leave out --pair-column, got 'title'"):
        load_examples(path, task="causal-lm", pair_column="title")


@pytest.mark.parametrize("row", [{"text": "no \ud83d", "label": "x"}, {"text": "no", "label": "\udc00"}])
def test_half_a_character_is_refused_by_line(write: Write, row: dict[str, str]) -> None:
    path = write("a.jsonl", jsonl({"text": "yes \U0001f600", "label": "y"}, row))
    with pytest.raises(LosparseError, match=r"a\.jsonl, line 2: '\w+' must be whole characters, got '\\ud") as error:
        classify(path)
    str(error.value).encode()  # the message itself can be printed


def test_half_a_character_among_words(write: Write) -> None:
    path = write("a.jsonl", jsonl({"tokens": ["a", "b"], "tags": ["x", "y"]}, {"tokens": ["\ud83d"], "tags": ["x"]}))
    with pytest.raises(LosparseError, match=r"line 2: 'tokens' must be whole characters"):
        load_examples(path, task="token-classification")
    with pytest.raises(LosparseError, match=r"line 2: 'tokens' must be whole characters"):
        load_texts(path, task="token-classification")
    with pytest.raises(LosparseError, match=r"line 1: 'tokens' must be a text that is not empty, got \['a', 3\]"):
        load_texts(write("b.jsonl", jsonl({"tokens": ["a", 3]})), task="token-classification")


def test_tsv_takes_quotes_as_they_are(write: Write) -> None:
    examples = classify(write("a.tsv", 'sentence\tlabel\n"half\t0\nwhole\t1\n'))
    assert examples.texts == ['"half', "whole"]


def test_jsonl_keeps_unicode_line_separators_inside_a_text(write: Write) -> None:
    path = write("a.jsonl", '{"text": "one\u2028two", "label": true}\n\n{"text": "b", "label": false}\n')
    examples = classify(path)
    assert examples.texts == ["one\u2028two", "b"]
    assert examples.label_names == ("false", "true")


def test_a_text_longer_than_the_csv_module_allows(write: Write) -> None:
    long = "word " * 60_000
    assert classify(write("a.csv", f"text,label\n{long},a\nb,b\n")).texts[0] == long


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=20).filter(str.strip), min_size=2, max_size=5))
def test_csv_round_trip(texts: list[str]) -> None:
    import csv
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        with path.open("w", newline="", encoding="utf-8") as sink:
            rows = [["text", "label"], *([text, number] for number, text in enumerate(texts))]
            csv.writer(sink, quoting=csv.QUOTE_ALL).writerows(rows)
        assert classify(path).texts == texts


@pytest.mark.parametrize(
    ("header", "text", "pair"),
    [
        ("text,label", "1", None),
        ("sentence1,sentence2,label", "1", "2"),
        ("premise,hypothesis,label", "1", "2"),
        ("label,sentence", "2", None),
    ],
)
def test_default_columns(write: Write, header: str, text: str, pair: str | None) -> None:
    names = header.split(",")
    rows = [",".join(label if name == "label" else str(i + 1) for i, name in enumerate(names)) for label in "ab"]
    examples = classify(write("a.csv", "\n".join([header, *rows])))
    assert examples.texts == [text] * 2
    assert examples.pairs == (None if pair is None else [pair] * 2)


def test_named_columns_win_and_switch_off_the_default_pair(write: Write) -> None:
    path = write("a.csv", "sentence1,sentence2,mood\na,b,x\nc,d,y\n")
    examples = classify(path, text_column="sentence1", label_column="mood")
    assert (examples.texts, examples.pairs) == (["a", "c"], None)
    assert classify(path, text_column="sentence2", pair_column="sentence1", label_column="mood").pairs == ["a", "c"]


def test_texts_alone(write: Write) -> None:
    assert load_texts(write("a.csv", "sentence\na\nb\n")) == (["a", "b"], None)


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("text,label\na,x\nb,y\n", {"text_column": "body"}, ["column 'body'", "text, label", "--text-column"]),
        ("body,label\na,x\nb,y\n", {}, ["column called text or sentence", "body, label", "--text-column"]),
        ("text,mood\na,x\nb,y\n", {}, ["column called label", "--label-column"]),
        ("text,label\na,x\nb,y\n", {"pair_column": "second"}, ["column 'second'", "--pair-column"]),
        ("", {}, ["is empty"]),
        (" \n\n", {}, ["is empty"]),
        ("text,label\n", {}, ["has no rows"]),
        ("text,text\na,x\n", {}, ["line 1", "must differ"]),
        ("text,label\na,x\n ,y\n", {}, ["line 3", "'text'", "not empty"]),
        ("text,label\na,x\nb,\n", {}, ["line 3", "'label'"]),
        ("text,label\na,x\nb,x\n", {}, ["one class only", "'x'"]),
        ("text,label\na,0.5\nb,1.5\n", {}, ["line 2", "must be a label", "0.5"]),
        ("text,label\na,x,y\n", {}, ["line 2", "expected 2 values", "got 3", "quote"]),
        ('text,label\na,x\n"b,y\n', {}, ["line 3", "unexpected end of data"]),
    ],
)
def test_refused_csv(write: Write, content: str, options: dict[str, str], words: list[str]) -> None:
    with pytest.raises(LosparseError) as caught:
        classify(write("a.csv", content), **options)
    message = str(caught.value)
    assert "\n" not in message and "a.csv" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": "a", "label": 0}\n{"text": \n', ["line 2", "JSON object"]),
        ('["a", 0]\n', ["line 1", "got list"]),
        ('{"text": "a", "label": 0}\n{"text": "b", "label": ' + "1" * 5000 + "}", ["line 2", "JSON object", "digits"]),
        ('{"text": "a", "label": 0}\n{"text": 5, "label": 1}\n', ["line 2", "'text'", "got 5"]),
        ('{"text": "a", "label": 0}\n{"label": 1}\n', ["line 2", "'text'", "got None"]),
        ('{"text": "a", "label": 0}\n{"text": "b", "label": [1]}\n', ["line 2", "'label'"]),
        ('{"text": "a", "label": 0}\n{"text": "b", "label": ["' + "b" * 90 + '"]}\n', ["got ['bbb", "bbb..."]),
    ],
)
def test_refused_jsonl(write: Write, content: str, words: list[str]) -> None:
    with pytest.raises(LosparseError) as caught:
        classify(write("a.jsonl", content))
    assert all(word in str(caught.value) for word in words)


def test_bytes_that_are_not_utf8_are_named_with_their_line(write: Write) -> None:
    with pytest.raises(LosparseError, match=r"line 3: byte 0xe9 is not utf-8"):
        classify(write("a.csv", b"text,label\na,x\ncaf\xe9,y\n"))
    with pytest.raises(LosparseError, match=r"line 2: byte 0xe9 is not utf-8"):  # the mark at the beginning counts not
        classify(write("b.csv", b"\xef\xbb\xbftext,label\ncaf\xe9\n\n\n"))


def test_files_that_are_not_there_or_not_data(write: Write, tmp_path: Path) -> None:
    with pytest.raises(LosparseError, match=r"no data file 'data/train.csv'.*\.csv, \.tsv or \.jsonl"):
        classify("data/train.csv")
    with pytest.raises(LosparseError, match=r"must be a \.csv, \.tsv or \.jsonl file, got .*xlsx"):
        classify(write("a.xlsx", "x"))
    with pytest.raises(LosparseError, match="got the folder"):
        classify(tmp_path)
    with pytest.raises(LosparseError, match="task must be one of"):
        load_examples(write("a.csv", "text,label\na,x\n"), task="poetry")


def test_rows_are_read_in_order_with_their_lines(write: Write) -> None:
    table = read_table(write("a.csv", 'text,label\n"a\nb",x\nc,y\n'))
    assert table.lines == [3, 4]
    assert table.where(1).endswith("a.csv, line 4")
