"""The pytest plugin in a process of its own, as CI runs it: no torch, and a JUnit report that says numbers."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from losparse_runtime import InputError
from losparse_runtime.testing import assert_accuracy
from losparse_runtime.testing.rows import read_labelled

from .conftest import Folder, MakeFolder

PLUGIN = "losparse_runtime.testing.plugin"
TESTS = """
import sys

def test_accuracy(assert_accuracy):
    found = assert_accuracy({folder!r}, {data!r}, at_least={at_least}, threads=1)
    assert found["fp32"].texts == 4

def test_latency(assert_latency):
    assert_latency({folder!r}, against={folder!r}, at_most_ratio=3.0, length=8, threads=1, min_seconds=0.05)

def test_no_torch():
    assert not {{"torch", "transformers", "pydantic", "losparse_export"}} & set(sys.modules)
"""


@pytest.fixture
def made(make_folder: MakeFolder) -> Folder:
    return make_folder("text-classification")


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def run(folder: Path) -> tuple[int, ElementTree.Element]:
    command = [sys.executable, "-m", "pytest", "-q", "--junitxml=junit.xml"]
    if not any(each.value == PLUGIN for each in entry_points(group="pytest11")):  # of a tree that is not installed
        command += ["-p", PLUGIN]
    done = subprocess.run([*command, "test_model.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode, ElementTree.parse(folder / "junit.xml").getroot()


def test_the_plugin_passes_and_fails_with_numbers_in_the_report(made: Folder, tmp_path: Path) -> None:
    labels = made.labels if hasattr(made, "labels") else None
    assert labels is None or labels
    data = write(tmp_path, "data.csv", "text,label\na film,0\nthe plot,0\na story,0\na fine film,0\n")
    for at_least, code in ((0.0, 0), (1.0, 1)):
        text = TESTS.format(folder=str(made.path), data=str(data), at_least=at_least)
        write(tmp_path, "test_model.py", text)
        found, root = run(tmp_path)
        right = assert_accuracy(made.path, data, at_least=0.0, threads=1)["fp32"].right
        assert found == (code if right < 4 else 0)
        properties = {each.get("name"): each.get("value") for each in root.iter("property")}
        assert str(properties["latency"]).startswith("takes ")
        failures = [str(each.get("message")) for each in root.iter("failure")]
        if found:
            (message,) = failures
            assert f"accuracy {right / 4:.4f} (standard error" in message and "at least 1 is asked" in message
            assert "\x1b" not in message
        assert "standard error" in str(properties["accuracy of fp32"])  # also of the test that failed


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.csv", "text,label\n,1\n", "row 1: 'text' must be a text that is not empty"),
        ("rows.csv", "words,label\na,1\n", "has no column text or sentence or"),
        ("rows.csv", "text,label\na,1,2\n", "line 2 has 3 values, the first line names 2"),
        ("rows.csv", "text,label,text\na,1,b\n", "column names must differ, got text, label, text"),
        ("rows.csv", "", "must have at least one row"),
        ("rows.jsonl", '{"text": "a", "label": null}\n', "row 1: 'label' must be a label or class id, got None"),
        ("rows.jsonl", "[1]\n", "must have at least one row, each with its columns"),
        ("rows.txt", "a\n", "must be an existing .csv, .tsv, .jsonl file"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_labelled(write(tmp_path, name, text))


def test_rows_are_read_as_they_stand(tmp_path: Path) -> None:
    csv = write(tmp_path, "a.csv", 'sentence1,sentence2,label\n"a, b",c,yes\n')
    found = read_labelled(csv)
    assert (found.texts, found.pairs, found.labels) == (["a, b"], ["c"], ["yes"])
    tsv = write(tmp_path, "a.tsv", 'text\tlabel\n"quoted" word\t1\n')
    assert read_labelled(tsv).texts == ['"quoted" word']
    jsonl = write(tmp_path, "a.jsonl", '{"text": "two\\nlines", "label": 0}\n\n')
    assert (read_labelled(jsonl).texts, read_labelled(jsonl).labels) == (["two\nlines"], ["0"])


def test_the_same_rows_as_for_training(tmp_path: Path) -> None:
    from losparse.data.columns import PAIR_OF, TEXT_COLUMNS
    from losparse.data.loading import load_examples
    from losparse_runtime.testing.rows import PAIRS
    from losparse_runtime.testing.rows import TEXTS as USUAL

    assert (USUAL, PAIRS) == (TEXT_COLUMNS, PAIR_OF)
    file = write(tmp_path, "a.csv", "premise,hypothesis,label\na b,c,no\nd,e,yes\n")
    ours, theirs = read_labelled(file), load_examples(file, task="text-classification")
    assert (ours.texts, ours.pairs) == (theirs.texts, theirs.pairs)
    assert ours.labels == [theirs.label_names[label] for label in theirs.labels]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_texts_with_rare_line_breaks_are_whole(suffix: str, tmp_path: Path) -> None:
    from losparse.data.loading import load_examples

    texts = ["one\u2028text", "next\x85line", "form\x0cfeed"]
    separator = {"csv": ",", "tsv": "\t"}.get(suffix)
    if separator is None:
        lines = [json.dumps({"text": text, "label": "a"}, ensure_ascii=False) for text in texts]
    else:
        lines = [f"text{separator}label", *(f"{text}{separator}a" for text in texts)]
    file = write(tmp_path, f"a.{suffix}", "\n".join(lines) + "\n")
    assert read_labelled(file).texts == texts
    # Training wants two labels.
    more = '{"text": "b", "label": "b"}' if separator is None else f"b{separator}b"
    write(tmp_path, f"a.{suffix}", "\n".join([*lines, more]) + "\n")
    assert read_labelled(file).texts == load_examples(file, task="text-classification").texts


def test_the_runtime_and_its_assertions_need_no_pytest() -> None:
    code = "import sys, losparse_runtime, losparse_runtime.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_data_that_is_not_of_the_model_is_refused(made: Folder) -> None:
    with pytest.raises(InputError, match="label 'nowhere' is none of"):
        assert_accuracy(made.path, [("a film", "nowhere")], at_least=0.5, threads=1)
    with pytest.raises(InputError, match="at least one pair"):
        assert_accuracy(made.path, [], at_least=0.5, threads=1)
    with pytest.raises(InputError, match=r"share of right answers in \[0, 1\], got 87"):
        assert_accuracy(made.path, [("a", "0")], at_least=87, threads=1)
