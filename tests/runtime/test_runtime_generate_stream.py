"""Texts piece by piece: whole characters, nothing of a stop string, and the memory is let go of at the end."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies
from tokenizers import AddedToken, Tokenizer, decoders, models

from losparse_runtime import InputError, RunError, Session
from losparse_runtime.generation import decoders as decoders_module
from losparse_runtime.generation.text import Text

from .decoder_models import END, KINDS, Made, byte_tokenizer, write_decoder

BYTES = byte_tokenizer()


def decode_bytes(tokens: Sequence[int]) -> str:
    return str(BYTES.decode(list(tokens), skip_special_tokens=True))


def pieces(tokens: Sequence[int], stops: Sequence[str] = (), prompt: Sequence[int] = (), decode: Any = None) -> Any:
    """Return the pieces as they come, the text, and how many tokens were read until it ended."""
    text = Text(decode or decode_bytes, prompt, stops)
    found = []
    count = 0
    for token in tokens:
        count += 1
        stopped = text.add(token)
        found.append(text.take())
        if stopped:
            break
    text.end()
    found.append(text.take())
    return found, text.whole, count


def test_characters_of_several_tokens_come_whole() -> None:
    found, whole, _ = pieces("aé€😀b".encode())
    assert found == ["a", "", "é", "", "", "€", "", "", "", "😀", "b", ""]
    assert whole == "aé€😀b"


def test_a_character_that_is_never_finished_comes_at_the_end() -> None:
    found, whole, _ = pieces(b"a\xf0\x9f")
    assert found == ["a", "", "", "�"]
    assert whole == "a�"


def test_bytes_that_are_no_text_hold_nothing_back_but_themselves() -> None:
    found, whole, _ = pieces(b"\xff\xffab\xe2\x82c")
    assert found[2] == "��a" and found[-2] == "�c"
    assert "".join(found) == whole == "��ab�c"


def test_a_prompt_that_ends_inside_a_character_is_finished() -> None:
    found, _, _ = pieces("€".encode()[2:], prompt=b"a" + "€".encode()[:2])
    assert found == ["€", ""]


def test_special_tokens_are_no_text() -> None:
    found, whole, _ = pieces([*b"a", 256, *b"b", END])
    assert found == ["a", "", "b", "", ""]
    assert whole == "ab"


@given(strategies.text(), strategies.text())
@settings(deadline=None)
def test_any_text_comes_whole(text: str, prompt: str) -> None:
    found, whole, _ = pieces(text.encode(), prompt=prompt.encode())
    # A text with the sign for broken bytes of its own is held back until something follows, and is right in the end.
    assert "".join(found) == whole == text
    assert all("\ufffd" not in piece for piece in found) or "\ufffd" in text


@given(strategies.binary(max_size=30))
@settings(deadline=None)
def test_any_bytes_are_what_they_are_decoded_to_at_once(content: bytes) -> None:
    found, whole, _ = pieces(content)
    assert "".join(found) == whole == content.decode(errors="replace")


@pytest.mark.parametrize(
    ("text", "stops", "expected", "read"),
    [
        ("one two three", ["two"], "one ", 7),
        ("one two three", ["w", "two"], "one t", 6),
        ("one two three", ["two", "e t"], "on", 5),
        ("one two three", ["on", "one"], "", 2),
        ("aab", ["aab"], "", 3),
        ("aaab", ["aab"], "a", 4),
        ("one twx three", ["two"], "one twx three", 13),
        ("one tw", ["two"], "one tw", 6),
        ("é€ end", ["€"], "é", 5),
    ],
)
def test_a_stop_string_ends_the_text_before_it(text: str, stops: list[str], expected: str, read: int) -> None:
    found, whole, count = pieces(text.encode(), stops)
    assert (whole, count) == (expected, read)
    assert "".join(found) == expected


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    found, _, _ = pieces(b"xstx sto", ["stop"])
    assert found == ["x", "", "", "stx", " ", "", "", "", "sto"]


def test_a_stop_string_may_lie_over_tokens_of_many_letters() -> None:
    words = ["Hello", " wor", "ld. En", "d here", " and more"]
    found, whole, count = pieces(range(5), ["End"], decode=lambda tokens: "".join(words[each] for each in tokens))
    assert (whole, count) == ("Hello world. ", 4)
    assert found == ["Hello", " wor", "ld. ", "", ""]


def test_of_stop_strings_that_one_token_completes_the_first_one_counts() -> None:
    for stops in (["cd", "bc"], ["bc", "cd"]):
        assert pieces([0], stops, decode=lambda tokens: "abcd" * len(tokens))[1] == "a"


def sentencepiece() -> Tokenizer:
    """Return a tokenizer as Llama 2 has it: words with their space in front, which the first of a text loses; bytes."""
    words = ["<unk>", "▁Hello", "▁world", "ly", "<0xE2>", "<0x82>", "<0xAC>", "▁"]
    made = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [], byte_fallback=True))
    made.add_special_tokens([AddedToken("<s>", special=True)])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def test_spaces_in_front_of_words_stay_where_a_text_goes_on() -> None:
    made = sentencepiece()

    def decode(tokens: Sequence[int]) -> str:
        return str(made.decode(list(tokens)))

    assert pieces([1, 2, 3], decode=decode)[0] == ["Hello", " world", "ly", ""]
    assert pieces([1, 2, 3], prompt=[2], decode=decode)[0] == [" Hello", " world", "ly", ""]
    assert pieces([8, 2], prompt=[1], decode=decode)[0] == ["", " world", ""]  # a special token is no beginning
    assert pieces([1, 4, 5, 6, 2], decode=decode)[0] == ["Hello", "", "", "€", " world", ""]


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Session]:
    folder = tmp_path_factory.mktemp("decoders")
    return {kind: Session(write_decoder(folder / kind, Made(kind)), threads=1) for kind in KINDS}


@pytest.fixture(params=KINDS)
def session(request: pytest.FixtureRequest, sessions: dict[str, Session]) -> Session:
    return sessions[request.param]


def test_a_stream_says_what_generate_says(session: Session) -> None:
    (expected,) = session.generate("Hello", max_new_tokens=30)
    with session.stream("Hello", max_new_tokens=30) as stream:
        found = list(stream)
    assert "".join(found) == expected.text and all(found) and len(found) > 3
    assert stream.result == expected
    assert stream.tokens == expected.tokens
    assert list(stream) == []


def test_a_stream_ends_at_a_stop_string_of_several_tokens(session: Session) -> None:
    (whole,) = session.generate("Hello", max_new_tokens=30)
    stop = whole.text[8:11]
    place = whole.text.find(stop)
    with session.stream("Hello", max_new_tokens=30, stop=stop) as stream:
        found = "".join(stream)
    assert found == stream.result.text == whole.text[:place]
    assert stream.result.finish_reason == "stop"
    assert whole.tokens[: len(stream.tokens)] == stream.tokens and len(stream.tokens) < 30
    assert session.generate("Hello", max_new_tokens=30, stop=[stop])[0] == stream.result


def test_pieces_come_while_the_text_is_written(session: Session) -> None:
    stream = session.stream("Hello", max_new_tokens=40)
    assert (stream.prompt_tokens, stream.tokens) == (5, ())
    first = next(stream)
    assert len(stream.tokens) < 10
    assert "".join([first, *stream]) == stream.result.text


def test_a_stream_has_no_result_before_its_end(session: Session) -> None:
    stream = session.stream("Hello", max_new_tokens=30)
    next(stream)
    with pytest.raises(
        InputError, match=r"^the stream has no result before its text has ended; read all pieces first$"
    ):
        _ = stream.result
    stream.close()
    assert list(stream) == []
    with pytest.raises(InputError, match=r"^the stream has no result before its text has ended"):
        _ = stream.result


@pytest.mark.parametrize("how", ["closed", "dropped", "at its end", "never begun"])
def test_a_stream_lets_go_of_its_memory(
    sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    session = sessions["in place"]
    held: list[weakref.ref[Any]] = []
    make = decoders_module.SharedDecoder._reserve

    def reserve(self: Any, capacity: int) -> None:
        make(self, capacity)
        held.extend(weakref.ref(buffer) for buffer in self._buffers)

    monkeypatch.setattr(decoders_module.SharedDecoder, "_reserve", reserve)
    stream: Any = session.stream("Hello", max_new_tokens=30)
    assert not held  # nothing is reserved before the first piece is asked for
    if how != "never begun":
        next(stream)
        assert held and all(each() is not None for each in held)
    if how == "closed":
        stream.close()
    elif how == "at its end":
        list(stream)
    else:
        del stream
    gc.collect()
    assert [each() for each in held] == [None] * len(held)


def test_another_thread_may_close_a_stream(session: Session) -> None:
    stream = session.stream("Hello", max_new_tokens=50, stop_tokens=())
    read: list[str] = []
    begun, closed = threading.Event(), threading.Event()

    def work() -> None:
        for piece in stream:
            read.append(piece)
            begun.set()
            closed.wait(5)

    reader = threading.Thread(target=work)
    reader.start()
    begun.wait(5)
    stream.close()
    closed.set()
    reader.join(5)
    assert not reader.is_alive()
    assert len(read) == 1


def test_a_session_can_be_closed_while_a_stream_is_open(tmp_path: Path) -> None:
    session = Session(write_decoder(tmp_path / "made"), threads=1)
    stream = session.stream("Hello", max_new_tokens=30)
    next(stream)
    session.close()
    with pytest.raises(RunError, match=r": this Session was closed; open another one$"):
        next(stream)
    assert list(stream) == []
    with pytest.raises(RunError, match=r": this Session was closed; open another one$"):
        session.stream("Hello")


def test_streams_of_one_session_do_not_disturb_each_other(session: Session) -> None:
    prompts = ["Hello", "Other", "x"]
    streams = [session.stream(prompt, max_new_tokens=20) for prompt in prompts]
    found = [""] * 3
    for _ in range(20):
        for place, stream in enumerate(streams):
            found[place] += next(stream, "")
    assert found == [each.text for each in session.generate(prompts, max_new_tokens=20)]
