"""`losparse run`: what a folder of each task says to some texts."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from losparse.cli import run
from losparse.cli.main import Load
from losparse.data.tables import read_table

from ..runtime.conftest import MakeFolder, make_folder
from .conftest import Command, Pass, edit_json, loaded_by

__all__ = ["make_folder"]  # a fixture of the runtime's tests


def reading(content: bytes | str, encoding: str = "utf-8") -> Load:
    """Return the loader of a `run` that is given this on stdin: bytes, or the text of a program's own stand-in."""
    whole = isinstance(content, str)
    stdin = io.StringIO(content) if whole else io.TextIOWrapper(io.BytesIO(content), encoding=encoding)
    return lambda name: SimpleNamespace(add_options=partial(run.add_options, stdin=stdin))


def test_run_classifies(losparse: Command, whole_pass: Pass) -> None:
    done = losparse("run", whole_pass.onnx, "the film was great", "a dull plot")
    assert (done.code, done.err) == (0, "")
    rows = [line.split(None, 2) for line in done.out.splitlines()]
    assert rows[0] == ["label", "score", "text"]
    assert [(row[0], row[2]) for row in rows[1:]] == [("good", "the film was great"), ("bad", "a dull plot")]


def test_run_refuses_stdin_of_another_encoding(losparse: Command, whole_pass: Pass) -> None:
    for content, line in ((b"caf\xe9\n", 1), (b"a\r\ncaf\xe9\nb\n", 2), (b"a\n\nb\n\xff", 4), (b"a\n\xc3", 2)):
        done = losparse("run", whole_pass.onnx, load=reading(content))
        done.refused(f"error: line {line} of stdin is not UTF-8; convert it first")
    losparse("run", whole_pass.onnx, "a", "\udce9").refused("error: text 2 of 2 is not UTF-8; convert it first")


def test_stdin_of_the_right_encoding_is_read_by_lines(losparse: Command, whole_pass: Pass) -> None:
    content = "a dull plot\r\ncafé was great".encode("latin-1")
    lines = losparse("run", whole_pass.onnx, load=reading(content, "latin-1")).out.splitlines()[1:]
    assert [line.split(None, 2)[2] for line in lines] == ["a dull plot", "café was great"]


def test_stdin_and_a_txt_have_the_same_lines(losparse: Command, make_folder: MakeFolder, tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfa b\r\nc\rd\ne\xe2\x80\xa8f\ng"
    (tmp_path / "t.txt").write_bytes(content)
    texts = [row["text"] for row in read_table(tmp_path / "t.txt", plain=True).rows]
    assert texts == ["a b", "c\rd", "e\u2028f", "g"]
    folder = make_folder("feature-extraction").path
    for encoding in ("utf-8", "cp1252"):  # the mark says which it is
        assert losparse("run", folder, load=reading(content, encoding)).out == losparse("run", folder, *texts).out
    broken = reading(b"\xef\xbb\xbfa\rb\n\n\xffc\nd")
    losparse("run", folder, load=broken).refused("error: line 3 of stdin is not UTF-8")


def test_run_reads_lines_of_stdin(losparse: Command, whole_pass: Pass) -> None:
    done = losparse("run", whole_pass.onnx, load=reading("a dull plot\nthe film was great\r\n"))
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == ["bad", "good"]
    losparse("run", whole_pass.onnx, load=reading("")).refused("no text to run")


def test_every_line_of_stdin_has_an_answer(losparse: Command, make_folder: MakeFolder) -> None:
    folder = make_folder("feature-extraction").path
    done = losparse("run", folder, load=reading("a b\n\nc\n  \nd\n"))
    assert len(done.out.splitlines()) == 5
    assert done.out == losparse("run", folder, "a b", "", "c", "  ", "d").out


def test_a_blank_line_without_an_answer_is_refused_by_its_number(losparse: Command, make_folder: MakeFolder) -> None:
    lines = reading("a b\n\nc\n")
    answering = make_folder("question-answering", name="answering").path
    losparse("run", answering, "--question", "a", load=lines).refused(
        "text 2 of 3 is blank", "holds no answer", "take it out"
    )
    folder = make_folder("feature-extraction").path
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    losparse("run", folder, "a", "").refused("text 2 of 2 is blank", "no tokens", "take it out")


def test_an_error_says_where_its_count_begins(losparse: Command, make_folder: MakeFolder) -> None:
    folder = make_folder("feature-extraction", poison=True).path  # "h" is not finite
    arguments = ("run", folder, "--batch-size", 1)
    losparse(*arguments, *["a"] * 20, "h").refused("counted from text 16 (the first is 0)", "for text 4")
    assert "counted from" not in losparse(*arguments, "a", "h").err


def test_run_keeps_the_order_of_many_texts(losparse: Command, whole_pass: Pass) -> None:
    texts = [f"{'a ' * (number % 5)}{word}" for number, word in enumerate(["great", "dull"] * 20)]
    done = losparse("run", whole_pass.onnx, *texts, "--batch-size", 1, "--verbose")
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == ["good", "bad"] * 20
    assert done.err.startswith("losparse: running: ")


def test_run_refusals(losparse: Command, whole_pass: Pass, onnx_copy: Path, tmp_path: Path) -> None:
    folder = whole_pass.onnx
    losparse("run", tmp_path / "none", "text").refused("no such folder")
    losparse("run", folder, "text", "--provider", "CUDAExecutionProvider").refused(
        "is not installed", "or run without it: leave --provider out"
    )
    losparse("run", folder, "text", "--provider", "NoProvider").refused("'NoProvider'")
    losparse("run", folder, "text", "--question", "who").refused("--question", "text-classification")
    losparse("run", folder, "one", "two", "--pair", "three").refused("--pair", "2 texts", "got 1")
    edit_json(onnx_copy / "losparse.json", fingerprint="0" * 64)
    losparse("run", onnx_copy, "text").refused("fingerprint", "different exports")


@pytest.mark.parametrize(
    "arguments",
    [
        ("DIR", "a b", "c", "--question", "d"),
        ("DIR", "--question", "d", "a b", "c"),
        ("DIR", "a b", "--question", "d", "c"),
        ("--question", "d", "DIR", "a b", "c"),
        ("DIR", "--threads", 1, "a b", "--question", "d", "--provider", "CPUExecutionProvider", "c"),
        ("--provider", "CPUExecutionProvider", "DIR", "--question", "d", "--", "a b", "c"),
    ],
)
def test_texts_may_stand_on_either_side_of_flags(
    losparse: Command, make_folder: MakeFolder, arguments: tuple[object, ...]
) -> None:
    folder = make_folder("question-answering").path
    expected = losparse("run", folder, "a b", "c", "--question", "d").out
    done = losparse("run", *(folder if each == "DIR" else each for each in arguments))
    assert (done.code, done.out, len(expected.splitlines())) == (0, expected, 3)


def test_a_flag_takes_one_value_and_leaves_the_texts(losparse: Command, make_folder: MakeFolder) -> None:
    folder = make_folder().path
    behind = losparse("run", folder, "a", "b", "--pair", "d", "--pair", "e f")
    assert behind.code == 0 and len(behind.out.splitlines()) == 3
    assert losparse("run", folder, "--pair", "d", "a", "--pair", "e f", "b").out == behind.out
    losparse("run", folder, "a", "--unknown", "b").refused("unrecognized arguments: --unknown")
    losparse("run", folder, "a", "--provider", "CUDAExecutionProvider", "CPUExecutionProvider").refused(
        "--provider takes one name", "--provider CPUExecutionProvider too"
    )
    losparse("bench", folder, "more").refused("unrecognized arguments: more")


def test_run_loads_no_torch(whole_pass: Pass) -> None:
    program = f"from losparse.cli.main import main; main(['run', {str(whole_pass.onnx)!r}, 'text'])"
    assert loaded_by(program) == {"onnxruntime"}


def test_run_tags_words(losparse: Command, make_folder: MakeFolder) -> None:
    done = losparse("run", make_folder("token-classification").path, "a b", "c")
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["label", "score", "word", "text"]
    assert [(row[2], row[3]) for row in rows[1:]] == [("a", "1"), ("b", "1"), ("c", "2")]
    assert {row[0] for row in rows[1:]} <= {"red", "green", "blue"}


def test_run_answers(losparse: Command, make_folder: MakeFolder) -> None:
    folder = make_folder("question-answering").path
    losparse("run", folder, "a b c").refused("--question")
    losparse("run", folder, "a b c", "--question", "d", "--batch-size", 8).refused("--batch-size", "text by text")
    done = losparse("run", folder, "a b c", "--question", "d")
    assert done.code == 0 and done.out.splitlines()[0].split() == ["answer", "score", "start"]
    assert done.out.splitlines()[1][0] in "abc"


def test_run_embeds_as_json(losparse: Command, make_folder: MakeFolder) -> None:
    done = losparse("run", make_folder("feature-extraction").path, "a b", "c")
    vectors = [json.loads(line) for line in done.out.splitlines()]
    assert [len(vector) for vector in vectors] == [4, 4]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0, 1.0], abs=1e-6)


def test_run_puts_a_prompt_in_front(losparse: Command, make_folder: MakeFolder) -> None:
    settings = {"default_prompt_name": None, "include_prompt": True, "truncate_dim": None, "similarity": None}
    folder = make_folder("feature-extraction")
    folder.edit(lambda data: data.update(embedding={"prompts": {"query": "a b "}, **settings}))
    whole = losparse("run", folder.path, "a b c").out
    assert whole and losparse("run", folder.path, "c", "--prompt-name", "query").out == whole
    assert losparse("run", folder.path, "b c", "--prompt", "a ").out == whole
    losparse("run", folder.path, "c", "--prompt-name", "q").refused("'query'", "got 'q'")
    losparse("run", make_folder(name="classifier").path, "c", "--prompt", "a").refused(
        "--prompt is for feature-extraction;"
    )


def test_run_classifies_pairs(losparse: Command, make_folder: MakeFolder) -> None:
    folder = make_folder().path
    alone, paired = losparse("run", folder, "a"), losparse("run", folder, "a", "--pair", "d e f")
    assert (alone.code, paired.code) == (0, 0)
    assert alone.out.split()[4] != paired.out.split()[4]


@pytest.mark.parametrize("command", [("run", "a"), ("check",), ("bench", "--runs", 1, "--length", 4, "--no-memory")])
def test_a_folder_of_another_machine_says_so_once(
    losparse: Command, make_folder: MakeFolder, caplog: pytest.LogCaptureFixture, command: tuple[object, ...]
) -> None:
    folder, (name, *rest) = make_folder().path, command
    assert losparse(name, folder, *rest).code == 0 and caplog.messages == []
    edit_json(folder / "losparse.json", session={"disabled_optimizers": [], "provider": "AzureExecutionProvider"})
    losparse(name, folder, *rest)
    (line,) = caplog.messages
    assert "was planned for AzureExecutionProvider" in line and "add --provider AzureExecutionProvider" in line
    caplog.clear()
    losparse(name, folder, *rest, "--provider", "AzureExecutionProvider")
    # That provider runs nothing of the model, which is said; that the folder is for another one is not.
    (line,) = caplog.messages
    assert "no operator runs on AzureExecutionProvider" in line
