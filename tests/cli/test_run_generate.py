"""`losparse run` with the folder of a language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from losparse_runtime import Session

from ..runtime.conftest import write_folder
from ..runtime.decoder_models import Made, write_decoder
from .conftest import Command
from .test_run import reading


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_decoder(tmp_path_factory.mktemp("made") / "lm", Made(sharp=0.4))
    template = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    return folder


def said(folder: Path, *prompts: Any, **choices: Any) -> list[Any]:
    return Session(folder, threads=1).generate(list(prompts), **choices)


def test_one_text_is_continued(losparse: Command, folder: Path) -> None:
    done = losparse("run", folder, "Hello", "--max-new-tokens", "12")
    assert (done.code, done.err) == (0, "")
    assert done.out == said(folder, "Hello", max_new_tokens=12)[0].text + "\n"


def test_several_texts_are_lines_of_json(losparse: Command, folder: Path) -> None:
    done = losparse("run", folder, "Hello", "", "--max-new-tokens", "12", "--batch-size", "1")
    expected = said(folder, "Hello", "", max_new_tokens=12)
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["text"] for line in lines] == [each.text for each in expected]
    assert lines[0] == {
        "text": expected[0].text,
        "finish_reason": "length",
        "prompt_tokens": 5,
        "new_tokens": 12,
    }


def test_lines_of_stdin_are_lines_of_json_too(losparse: Command, folder: Path) -> None:
    done = losparse("run", folder, "--max-new-tokens", "3", load=reading("Hello\n"))
    assert json.loads(done.out)["text"] == said(folder, "Hello", max_new_tokens=3)[0].text


def test_every_choice_arrives(losparse: Command, folder: Path) -> None:
    choices = {"temperature": 1.5, "top_k": 50, "top_p": 0.9, "min_p": 0.001, "repetition_penalty": 1.2, "seed": 3}
    flags = [part for name, value in choices.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    (expected,) = said(folder, "Hello", max_new_tokens=20, **choices)
    done = losparse("run", folder, "Hello", "--max-new-tokens", "20", *flags)
    assert done.out == expected.text + "\n"
    without = {said(folder, "Hello", max_new_tokens=20, **(choices | {name: None}))[0].text for name in ("seed",)}
    assert expected.text not in without
    stop = expected.text[5:7]
    stopped = losparse("run", folder, "Hello", "--max-new-tokens", "20", "--stop", "never", "--stop", stop, *flags)
    assert stopped.out == expected.text[: expected.text.find(stop)] + "\n"


def test_a_user_may_talk_to_a_model(losparse: Command, folder: Path) -> None:
    done = losparse("run", folder, "Hello", "--chat", "--max-new-tokens", "9")
    assert done.out == said(folder, "user:Hello;", max_new_tokens=9)[0].text + "\n"
    done = losparse("run", folder, "Hello", "--chat", "--system", "Be kind", "--max-new-tokens", "9")
    assert done.out == said(folder, "system:Be kind;user:Hello;", max_new_tokens=9)[0].text + "\n"


def test_refusals(losparse: Command, folder: Path, tmp_path: Path) -> None:
    losparse("run", folder, "a", "--temperature", "-1").refused(
        "error: temperature must be a number >= 0; 0 takes the most likely token, got -1.0"
    )
    losparse("run", folder, "a", "--max-new-tokens", "64").refused(
        "error: max_new_tokens must be in 1..63 for prompt: it has 1 tokens, the model has 64 positions, got 64"
    )
    losparse("run", folder, "a", "--system", "b").refused("error: --system is told to a model that is talked to")
    losparse("run", folder, "a", "--question", "b").refused("error: --question is for question-answering; ")
    encoder = write_folder(tmp_path / "made").path
    losparse("run", encoder, "a", "--top-k", "3").refused("error: --top-k is for causal-lm; ")
    losparse("run", encoder, "a", "--chat").refused("error: --chat and --system are for causal-lm; ")
