"""Texts to token ids."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from losparse_runtime import InputError, Session, TokenizerError
from losparse_runtime.text.cuts import cuts_told_once
from losparse_runtime.text.encoder import TextEncoder

MakeFolder = Callable[..., Any]


@pytest.fixture
def session(make_folder: MakeFolder) -> Session:
    return Session(make_folder().path, threads=1)


def test_threads_share_one_tokenizer(make_folder: MakeFolder) -> None:
    """Truncation is a setting of the object: a second one, opened at the same time, would not have it."""
    opened = []

    class Slow(TextEncoder):
        def _open(self) -> Any:
            opened.append(None)
            time.sleep(0.05)
            return super()._open()

    encoder = Slow(make_folder().path, 16, 0)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: encoder.tokenizer, range(4)))
    assert len(opened) == 1 and len({id(tokenizer) for tokenizer in found}) == 1


def test_token_types_are_zero_where_training_had_none(make_folder: MakeFolder) -> None:
    folder = make_folder()
    assert Session(folder.path, threads=1).encode("a b", "c")["token_type_ids"].any()
    folder.edit(lambda data: data.update(type_ids=False))
    assert not Session(folder.path, threads=1).encode("a b", "c")["token_type_ids"].any()


def test_texts_are_padded_to_the_longest(session: Session) -> None:
    encoded = session.encode(["a b c", "d"])
    assert list(encoded) == ["input_ids", "attention_mask", "token_type_ids"]
    assert {array.dtype for array in encoded.values()} == {np.dtype(np.int64)}
    np.testing.assert_array_equal(encoded["input_ids"], [[2, 4, 5, 6, 3], [2, 7, 3, 0, 0]])
    np.testing.assert_array_equal(encoded["attention_mask"], [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def test_settings_saved_with_the_tokenizer_are_not_followed(session: Session) -> None:
    # The file says: cut at 5 and pad to 9 with [UNK].
    assert session.encode("a b c d e f")["input_ids"].shape == (1, 8)
    assert session.encode("a")["input_ids"].shape == (1, 3)


def test_a_pair_has_two_types(session: Session) -> None:
    encoded = session.encode(["a b"], ["c"])
    np.testing.assert_array_equal(encoded["input_ids"], [[2, 4, 5, 3, 6, 3]])
    np.testing.assert_array_equal(encoded["token_type_ids"], [[0, 0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(session.encode("a b", "c")["input_ids"], encoded["input_ids"])


def test_only_the_model_s_inputs_are_made(make_folder: MakeFolder) -> None:
    session = Session(make_folder(types=False).path, threads=1)
    assert list(session.encode(["a"])) == ["input_ids", "attention_mask"]


def test_long_texts_are_cut_and_that_is_logged(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        encoded = session.encode(["a " * 40, "b", "c " * 14])
    assert encoded["input_ids"].shape == (3, 16)
    assert encoded["input_ids"][0, -1] == 3  # the closing [SEP] survives
    assert "1 of 3 texts are longer than 16 tokens and were cut" in caplog.text
    np.testing.assert_array_equal(session.encode("a b c d", max_length=4)["input_ids"], [[2, 4, 5, 3]])


def test_a_call_says_once_how_many_were_cut(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    session.classify(["a " * 40, "b"] * 5, batch_size=2)
    assert caplog.messages == ["5 of 10 texts are longer than 16 tokens and were cut"]


def test_a_block_says_once_how_many_were_cut(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    long = "a " * 40
    with cuts_told_once():
        for _ in range(600):
            session.encode([long, "b"])
        session.encode([long, "b"], max_length=8)
        thread = threading.Thread(target=session.encode, args=([long],))  # not of this block
        thread.start()
        thread.join()
        with cuts_told_once(silent=True):
            session.encode([long])
    session.encode([long])
    assert caplog.messages == [
        "1 of 1 texts are longer than 16 tokens and were cut",
        "600 of 1,200 texts are longer than 16 tokens and were cut",
        "1 of 2 texts are longer than 8 tokens and were cut",
        "1 of 1 texts are longer than 16 tokens and were cut",
    ]


def test_a_block_that_fails_leaves_its_error_alone(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError), cuts_told_once():
        session.encode(["a " * 40])
        session.encode([])
    assert caplog.messages == []


def test_padding_and_truncation_on_the_left(make_folder: MakeFolder) -> None:
    sides = {"padding_side": "left", "truncation_side": "left"}
    folder = make_folder().edit(lambda data: data.update(sides), "tokenizer_config.json")
    encoded = Session(folder.path, threads=1).encode(["a b c", "d"], max_length=4)
    np.testing.assert_array_equal(encoded["input_ids"], [[2, 5, 6, 3], [0, 2, 7, 3]])
    np.testing.assert_array_equal(encoded["attention_mask"], [[1, 1, 1, 1], [0, 1, 1, 1]])


@pytest.mark.parametrize(("pad_token", "expected"), [({"content": "[UNK]"}, 1), ("[SEP]", 3), (None, 0), ("[NEW]", 0)])
def test_the_padding_token(make_folder: MakeFolder, pad_token: object, expected: int) -> None:
    """The tokenizer's own; where it names none that it knows, the model's pad_token_id (0)."""
    folder = make_folder().edit(lambda data: data.update(pad_token=pad_token), "tokenizer_config.json")
    assert Session(folder.path, threads=1).encode(["a b", "a"])["input_ids"][1, -1] == expected


def test_without_a_padding_token_lengths_must_agree(make_folder: MakeFolder) -> None:
    folder = make_folder().edit(lambda data: data.update(pad_token_id=None), "config.json")
    (folder.path / "tokenizer_config.json").unlink()
    session = Session(folder.path, threads=1)
    assert session.encode(["a", "b"])["input_ids"].shape == (2, 3)
    with pytest.raises(
        TokenizerError, match=r"names no padding token, .*; set pad_token in tokenizer_config.json, or en"
    ):
        session.encode(["a", "a b"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), r"^texts must be a string or a list of strings, got int$"),
        ((b"a",), r"^texts must be a string or a list of strings, got bytes$"),
        (({"a": 1},), r"^texts must be a string or a list of strings, got dict$"),
        (([],), r"^texts must hold at least one text, got an empty list$"),
        ((["a", None],), r"^texts must hold strings only, got NoneType at 1$"),
        ((["a", "\ud800"],), r"^texts must be valid Unicode, text 1 is not \(.*\)$"),
        ((["a"], ["b", "c"]), r"^pairs must have one text for each of the 1 texts, got 2$"),
        ((["a"], [3]), r"^pairs must hold strings only, got int at 0$"),
        ((["a"], None, 2), r"^max_length must be in 3..16, got 2$"),
        ((["a"], ["b"], 3), r"^max_length must be in 4..16, got 3$"),
        ((["a"], None, 0), r"^max_length must be in 3..16, got 0$"),
        ((["a"], None, 17), r"^max_length must be in 3..16, got 17$"),
        ((["a"], None, True), r"^max_length must be in 3..16, got True$"),
    ],
)
def test_bad_texts(session: Session, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        session.encode(*arguments)


def test_a_folder_without_tokenizer_runs_on_ids(make_folder: MakeFolder) -> None:
    folder = make_folder()
    (folder.path / "tokenizer.json").unlink()
    session = Session(folder.path, threads=1)
    assert session.run({"input_ids": np.array([[4]])})["logits"].shape == (1, 3)
    with pytest.raises(TokenizerError, match=r"made: has no tokenizer.json, so texts cannot be encoded; export from a"):
        session.encode("a")


def test_a_damaged_tokenizer(make_folder: MakeFolder) -> None:
    folder = make_folder()
    (folder.path / "tokenizer.json").write_text("{}")
    with pytest.raises(
        TokenizerError, match=r"tokenizer.json: tokenizers cannot read it \(.*\); export the folder again"
    ):
        Session(folder.path, threads=1).encode("a")


def test_a_text_without_tokens(make_folder: MakeFolder) -> None:
    folder = make_folder()
    tokenizer = json.loads((folder.path / "tokenizer.json").read_text())
    (folder.path / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    with pytest.raises(InputError, match=r"^text 1 gives no tokens; leave it out$"):
        Session(folder.path, threads=1).encode(["a", " "])


def test_windows_cover_the_context(session: Session) -> None:
    # 16 positions, 3 special tokens, 2 of the question: 11 tokens of the context a window, 4 of them seen twice.
    context = " ".join("abcdefgh"[i % 8] for i in range(30))
    windows = session.encoder.windows("a b", context, stride=4)
    starts = [next(o for o, s in zip(w.offsets, w.sequence_ids, strict=True) if s == 1)[0] // 2 for w in windows]
    assert starts == [0, 7, 14, 21]
    assert max(len(window.ids) for window in windows) == 16


def test_a_stride_wider_than_the_window_is_narrowed(session: Session) -> None:
    assert len(session.encoder.windows("a " * 10, "b " * 9, stride=500)) > 1


def test_a_question_that_fills_the_model(session: Session) -> None:
    with pytest.raises(
        InputError, match=r"^question has 13 tokens, which leaves no room for the context in 16; shorten"
    ):
        session.encoder.windows("a " * 13, "b", stride=1)
