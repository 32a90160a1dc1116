"""A tokenizer that panics in Rust: one line, and the process goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from losparse_runtime import InputError, Session, TokenizerError
from losparse_runtime.text.panics import HOLD_SWITCH, PanicError, panics_caught

MakeFolder = Callable[..., Any]
ROOT = Path(__file__).parents[2]

SLOW = {"type": "Split", "pattern": {"Regex": "(a+a+)+b"}, "behavior": "Isolated", "invert": False}
LONG = "a" * 60 + "c"  # the expression tries two ways at every letter


@pytest.fixture
def slow(make_folder: MakeFolder) -> Callable[[str], Path]:
    """A folder of a task whose tokenizer takes too long for some texts."""

    def make(task: str) -> Path:
        return Path(make_folder(task).edit(lambda data: data.update(pre_tokenizer=SLOW), "tokenizer.json").path)

    return make


def test_a_session_refuses_the_text_and_goes_on(slow: Callable[[str], Path]) -> None:
    session = Session(slow("text-classification"))
    with pytest.raises(InputError, match=r"the tokenizer refuses these texts: .*retry-limit-in-match") as caught:
        session.classify(LONG)
    assert "\n" not in str(caught.value)
    assert session.classify("a")[0].label in ("red", "green", "blue")


def test_a_question_that_panics_is_refused(slow: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="the tokenizer refuses these texts"):
        Session(slow("question-answering")).answer(LONG, "a b c")


def test_the_command_line_prints_one_line(slow: Callable[[str], Path]) -> None:
    environment = {**os.environ, "RUST_BACKTRACE": "1"}
    environment.pop(HOLD_SWITCH, None)
    command = [sys.executable, "-m", "losparse.cli", "run", str(slow("text-classification")), LONG]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("losparse: error: the tokenizer refuses") and done.stderr.count("\n") == 1


def test_other_output_passes_and_other_errors_stay(capfd: pytest.CaptureFixture[str]) -> None:
    before = os.environ.get(HOLD_SWITCH)
    os.environ[HOLD_SWITCH] = "1"
    try:
        with pytest.raises(KeyboardInterrupt), panics_caught():
            os.write(2, b"said by a library\n")
            raise KeyboardInterrupt
        panic = type("PanicException", (BaseException,), {})
        with pytest.raises(PanicError, match="over and out"), panics_caught():
            os.write(2, b"warned\n\nthread 'x' panicked at lib.rs:\nover\nand out\nstack backtrace:\n")
            raise panic("over\nand out")
    finally:
        if before is None:
            del os.environ[HOLD_SWITCH]
        else:
            os.environ[HOLD_SWITCH] = before
    assert capfd.readouterr().err == "said by a library\nwarned\n"


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOLD_SWITCH, "1")


def file_of_stderr() -> tuple[int, int]:
    found = os.fstat(2)
    return found.st_dev, found.st_ino


@pytest.mark.usefixtures("held")
def test_stderr_is_its_own_behind_threads_that_overlap() -> None:
    """The second goes in while the first is inside, and comes out behind it."""
    before, first_out, second_in = file_of_stderr(), threading.Event(), threading.Event()

    def second() -> None:
        with panics_caught():
            second_in.set()
            assert first_out.wait(20)

    thread = threading.Thread(target=second)
    with panics_caught():
        thread.start()
        assert second_in.wait(20)
    first_out.set()
    thread.join(20)
    assert file_of_stderr() == before


@pytest.mark.usefixtures("held")
def test_without_a_place_for_temporary_files_texts_are_read_all_the_same(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder().path

    def refused(*_: object) -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    assert Session(folder).classify("a")[0].label in ("red", "green", "blue")
    assert capfd.readouterr().err == ""


def test_a_tokenizer_of_more_tokens_than_the_model_has(make_folder: MakeFolder) -> None:
    folder = make_folder().edit(lambda data: data.update(vocab_size=11), "config.json").path
    session = Session(folder)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: has 12 tokens and numbers beyond the model's 11"):
        session.classify("a b")
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**data, "vocab_size": 12}))
    assert Session(folder).classify("a b")[0].label in ("red", "green", "blue")
