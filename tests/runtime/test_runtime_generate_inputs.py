"""What is asked of generation: prompts of every form, and one clear line for what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from losparse_runtime import FolderError, InputError, Session, TokenizerError
from losparse_runtime.contract.config import read_text_ends
from losparse_runtime.contract.task import CAUSAL_LM
from losparse_runtime.generation.settings import Choices, GenerationSettings

from .conftest import write_folder
from .decoder_models import END, Made, write_decoder


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(write_decoder(tmp_path_factory.mktemp("made") / "lm"), threads=1)


def test_the_task_names_its_helper() -> None:
    assert CAUSAL_LM.helper == "generate"


def test_choices_are_those_of_the_settings() -> None:
    assert Choices.__annotations__.keys() == GenerationSettings.__dataclass_fields__.keys()


@pytest.mark.parametrize(
    "prompt",
    ["AB", ["AB"], [65, 66], [[65, 66]], [(65, 66)], np.array([65, 66]), [np.array([65, 66], np.int32)], (65, 66)],
)
def test_a_prompt_is_a_text_or_ids_alone_or_in_a_list(session: Session, prompt: Any) -> None:
    (expected,) = session.generate("AB", max_new_tokens=3)
    assert session.generate(prompt, max_new_tokens=3) == [expected]
    assert expected.prompt_tokens == 2


def test_prompts_of_all_forms_go_together(session: Session) -> None:
    results = session.generate(iter(["AB", [65, 66], ""]), max_new_tokens=3)
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], r"^prompts must hold at least one prompt, got an empty list$"),
        (7, r"^a prompt must be a text, a list of token ids, or a list of messages as in .*, got int$"),
        (b"AB", r"^a prompt must be a text, .*, got bytes$"),
        ({"role": "user"}, r"^a prompt must be a text, .*, got dict$"),
        (["AB", 7], r"^prompt 1 must be a text, .*, got int$"),
        (["AB", {"role": "user"}], r"^prompt 1 must be a text, .*, got dict$"),
        ([[65, "A"]], r"^prompt must be a text, .*, got 'A' at 1$"),
        ([[65, True]], r"^prompt must be a text, .*, got True at 1$"),
        ([[65, 1.0]], r"^prompt must be a text, .*, got 1.0 at 1$"),
        ([[65, -1]], r"^prompt must be a text, .*, got -1 at 1$"),
        ([[65], [66, 259]], r"^prompt 1 holds token 259, the model has the tokens 0..258$"),
        (["\ud800"], r"^prompt must be valid Unicode, text 0 is not \("),
        ([[65] * 64], r"^prompt has 64 tokens, the model has 64 positions, of which a new token needs one; shorten"),
        (["A" * 65], r"^prompt has 65 tokens, the model has 64 positions, of which a new token needs one; shorten"),
        (["A" * 2_000_001], r"^prompt has 2,000,001 characters, and must have at most 2,000,000 where"),
    ],
)
def test_prompts_that_are_none_are_refused(session: Session, prompts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session.generate(prompts, max_new_tokens=1)


def test_new_tokens_need_positions(session: Session) -> None:
    message = r"^max_new_tokens must be in 1..4 for prompt 1: it has 60 tokens, the model has 64 positions, got 5$"
    with pytest.raises(InputError, match=message):
        session.generate(["A", "A" * 60], max_new_tokens=5)
    with pytest.raises(InputError, match=message.replace(" 1:", ":")):
        session.stream("A" * 60, max_new_tokens=5)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"max_new_tokens": 0}, r"^max_new_tokens must be a whole number >= 1, got 0$"),
        ({"max_new_tokens": -3}, r"^max_new_tokens must be a whole number >= 1, got -3$"),
        ({"max_new_tokens": 2.0}, r"^max_new_tokens must be a whole number >= 1, got 2.0$"),
        ({"max_new_tokens": "8"}, r"^max_new_tokens must be a whole number >= 1, got '8'$"),
        ({"max_new_tokens": True}, r"^max_new_tokens must be a whole number >= 1, got True$"),
        ({"temperature": -0.1}, r"^temperature must be a number >= 0; 0 takes the most likely token, got -0.1$"),
        ({"temperature": float("nan")}, r"^temperature must be a number >= 0; .*, got nan$"),
        ({"temperature": float("inf")}, r"^temperature must be a number >= 0; .*, got inf$"),
        ({"temperature": "hot"}, r"^temperature must be a number >= 0; .*, got 'hot'$"),
        ({"temperature": None}, r"^temperature must be a number >= 0; .*, got None$"),
        ({"top_k": -1}, r"^top_k must be a whole number >= 0; 0 is all tokens, got -1$"),
        ({"top_k": 1.5}, r"^top_k must be a whole number >= 0; 0 is all tokens, got 1.5$"),
        ({"top_p": 1.1}, r"^top_p must be a number in 0..1; 1 is all tokens, got 1.1$"),
        ({"top_p": -0.1}, r"^top_p must be a number in 0..1; 1 is all tokens, got -0.1$"),
        ({"min_p": 2}, r"^min_p must be a number in 0..1; 0 is all tokens, got 2$"),
        ({"repetition_penalty": 0}, r"^repetition_penalty must be a number > 0; 1 changes nothing, got 0$"),
        ({"repetition_penalty": float("inf")}, r"^repetition_penalty must be a number > 0; .*, got inf$"),
        ({"seed": -1}, r"^seed must be a whole number >= 0, or None, got -1$"),
        ({"seed": 0.5}, r"^seed must be a whole number >= 0, or None, got 0.5$"),
        ({"stop": ["a", ""]}, r"^stop must hold texts that are not empty, got ''$"),
        ({"stop": 3}, r"^stop must be a list of texts, got 3$"),
        ({"stop": [3]}, r"^stop must hold texts that are not empty, got 3$"),
        ({"stop": ["a"] * 65}, r"^stop must hold at most 64 texts, got 65$"),
        ({"stop": ["a" * 1001]}, r"^stop must hold texts of at most 1,000 characters, got one of 1,001$"),
        ({"stop_tokens": 3}, r"^stop_tokens must be a list of token ids, got 3$"),
        ({"stop_tokens": [-1]}, r"^stop_tokens must hold token ids, whole numbers >= 0, got -1$"),
        ({"stop_tokens": [1.0]}, r"^stop_tokens must hold token ids, whole numbers >= 0, got 1.0$"),
    ],
)
def test_settings_out_of_range_are_refused(session: Session, choices: Any, message: str) -> None:
    for call in (session.generate, session.stream):
        with pytest.raises(InputError, match=message):
            call("A", **choices)


@pytest.mark.parametrize(("batch_size", "said"), [(0, "0"), (1.0, "1.0"), (True, "True")])
def test_a_batch_size_is_a_count(session: Session, batch_size: Any, said: str) -> None:
    with pytest.raises(InputError, match=rf"^batch_size must be a whole number >= 1, got {said}$"):
        session.generate("A", batch_size)


def test_a_stream_is_of_one_prompt(session: Session) -> None:
    with pytest.raises(InputError, match=r"^a stream is of one prompt, got 2; open one for each, or use generate$"):
        session.stream(["A", "B"])  # type: ignore[arg-type]


def test_an_encoder_does_not_generate(tmp_path: Path) -> None:
    session = Session(write_folder(tmp_path / "made").path, threads=1)
    message = r"^generate needs a causal-lm folder, .* is for text-classification; use classify, or run for the raw"
    for call in (session.generate, session.stream):
        with pytest.raises(InputError, match=message):
            call("a")


def test_a_language_model_does_not_classify(session: Session) -> None:
    with pytest.raises(InputError, match=r" is for causal-lm; use generate, or run for the raw outputs$"):
        session.classify("a")


def test_an_empty_prompt_needs_a_token_that_begins_a_text(tmp_path: Path) -> None:
    session = Session(write_decoder(tmp_path / "made", Made(config={"bos_token_id": None})), threads=1)
    with pytest.raises(InputError, match=r"^prompt 1 is empty, and the model has no token that begins a text; give it"):
        session.generate(["A", ""])


def test_without_a_tokenizer_ids_are_continued_and_texts_are_not(tmp_path: Path, session: Session) -> None:
    folder = write_decoder(tmp_path / "made")
    (folder / "tokenizer.json").unlink()
    bare = Session(folder, threads=1)
    (result,) = bare.generate([65, 66], max_new_tokens=4)
    assert result.text == ""
    assert result.tokens == session.generate([65, 66], max_new_tokens=4)[0].tokens
    with pytest.raises(TokenizerError, match=r"has no tokenizer.json, so texts cannot be encoded"):
        bare.generate("AB")
    with pytest.raises(TokenizerError, match=r"has no tokenizer, so no text ends at stop; use stop_tokens$"):
        bare.generate([65], stop="x")
    with pytest.raises(TokenizerError, match=r"has no tokenizer, so nothing can be streamed as text; use generate$"):
        bare.stream([65])


def test_a_graph_without_a_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(write_decoder(tmp_path / "made"), threads=1)
    monkeypatch.setattr(session, "signature", type(session.signature)(session.inputs, session.outputs))
    with pytest.raises(InputError, match=r"its graph keeps nothing of earlier tokens, so it cannot generate; export"):
        session.generate("A")


@pytest.mark.parametrize(
    ("said", "begin", "ends"),
    [
        ({}, None, ()),
        ({"bos_token_id": 1, "eos_token_id": 2}, 1, (2,)),
        ({"bos_token_id": None, "eos_token_id": [2, 3]}, None, (2, 3)),
        ({"bos_token_id": 0, "eos_token_id": -1}, 0, ()),
    ],
)
def test_text_ends_are_read(tmp_path: Path, said: Any, begin: int | None, ends: tuple[int, ...]) -> None:
    import json

    assert read_text_ends(tmp_path).ends == ()
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_text(json.dumps(said))
        found = read_text_ends(tmp_path)
        assert (found.begin, found.ends) == (begin, ends)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("wrong", ["2", [2, "3"], 2.0, True, {}])
def test_text_ends_of_a_wrong_type_are_a_folder_error(tmp_path: Path, wrong: Any) -> None:
    folder = write_decoder(tmp_path / "made", Made(ends=wrong))
    with pytest.raises(FolderError, match=r"generation_config.json: field 'eos_token_id' must be a token id, or a"):
        Session(folder, threads=1).generate("A")


def test_none_may_end_a_text(session: Session) -> None:
    assert GenerationSettings(stop_tokens=()).ends((END,)) == frozenset()
    assert GenerationSettings().ends((END,)) == {END}
    assert GenerationSettings(stop_tokens=[3, 4]).ends((END,)) == {3, 4}
