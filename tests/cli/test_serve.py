"""`losparse serve`: its flags are the settings of the server, and what is wrong is said before anything listens."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from losparse.cli.main import build_parser, load_command, main
from losparse.cli.serve import TOKEN_VARIABLE, _settings
from losparse_runtime.serving.settings import ServeSettings


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """The command sets up the logs of its process, which is that of all tests here."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], level = before
    root.setLevel(level)


def settings(*words: str) -> ServeSettings:
    arguments = ["serve", "folder", *words]
    return _settings(build_parser(arguments, load_command).parse_args(arguments))


def test_without_flags_the_settings_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert settings() == ServeSettings()


def test_flags_are_settings() -> None:
    words = ["--port", "0", "--max-batch-tokens", "64", "--drain", "1.5", "--mixed", "--json-logs", "--threads", "3"]
    made = settings(*words)
    assert (made.port, made.max_tokens_in_batch, made.drain_s, made.threads) == (0, 64, 1.5, 3)
    assert made.mixed and made.json_logs and not made.verify


def test_the_help_says_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    defaults = {field.name: field.default for field in fields(ServeSettings)}
    for name in ("port", "queue", "max_batch", "max_tokens_in_batch", "texts_in_request", "connections"):
        assert f"(default {defaults[name]}" in said, name
    for name in ("deadline_s", "drain_s", "head_s", "body_s", "idle_s", "reload_s"):
        assert f"(default {defaults[name]:g}" in said, name


def test_the_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("open-sesame\n")
    assert settings("--token-file", str(file)).token == "open-sesame"
    monkeypatch.setenv(TOKEN_VARIABLE, "other")
    assert settings().token == "other"


@pytest.mark.parametrize(
    "words, said",
    [
        (["nowhere"], "nowhere: no such folder"),
        (["a=x", "a=y"], "'a' twice"),
        (["x", "--port", "70000"], "port must be in 0..65535"),
        (["x", "--token-file", "nowhere"], "--token-file 'nowhere' cannot be read"),
        (["x", "--deadline", "0"], "deadline_s must be a number of seconds above 0"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
