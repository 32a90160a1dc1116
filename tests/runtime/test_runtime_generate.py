"""Generated tokens are those of computing everything from scratch for every token, in both kinds of caches."""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from losparse_runtime import RunError, Session
from losparse_runtime.engine.running import HOST
from losparse_runtime.generation import decoders
from losparse_runtime.generation.decoders import Decoder, GrowingDecoder, SharedDecoder
from losparse_runtime.generation.graph import Binding
from losparse_runtime.generation.loop import Row, continue_rows, staying
from losparse_runtime.generation.sampling import Chooser
from losparse_runtime.generation.settings import GenerationSettings

from .decoder_models import BEGIN, END, KINDS, VOCABULARY, Kind, Made, greedy_by_hand, logits_after, write_decoder

PROMPTS = [[65, 66, 67], list(range(40, 57)), [1], [99, 98, 97], [7, 8, 9, 10, 11]]
"""Two of one length among others, so that some are run together and some are not."""

# Sums of a run with a cache and of one without are ordered otherwise; logits are about 5.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Session]:
    folder = tmp_path_factory.mktemp("decoders")
    return {kind: Session(write_decoder(folder / kind, Made(kind)), threads=1) for kind in KINDS}


@pytest.fixture(params=KINDS)
def session(request: pytest.FixtureRequest, sessions: dict[Kind, Session]) -> Session:
    return sessions[request.param]


def decoder_of(session: Session, most: int = 64) -> Decoder:
    return decoders.new_decoder(session.language_model._graph, most)


def test_each_kind_has_its_decoder(sessions: dict[Kind, Session]) -> None:
    assert isinstance(decoder_of(sessions["in place"]), SharedDecoder)
    assert isinstance(decoder_of(sessions["growing"]), GrowingDecoder)


def test_tokens_are_those_of_no_cache(session: Session) -> None:
    results = session.generate(PROMPTS, max_new_tokens=20)
    assert [list(each.tokens) for each in results] == [greedy_by_hand(session, prompt, 20) for prompt in PROMPTS]
    assert [each.prompt_tokens for each in results] == [3, 17, 1, 3, 5]
    assert {each.finish_reason for each in results} == {"length"}
    assert len({each.tokens for each in results}) == len(PROMPTS)  # so that rows which change places are seen


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_batches_of_any_size_say_the_same(session: Session, batch_size: int) -> None:
    expected = [session.generate([prompt], max_new_tokens=9)[0] for prompt in PROMPTS]
    assert session.generate(PROMPTS, batch_size, max_new_tokens=9) == expected


def test_both_kinds_say_the_same(sessions: dict[Kind, Session]) -> None:
    one, other = (sessions[kind].generate(PROMPTS, max_new_tokens=12) for kind in KINDS)
    assert one == other


def test_rows_end_at_their_own_tokens_and_leave_the_batch(session: Session) -> None:
    endless = [greedy_by_hand(session, prompt, 20, ()) for prompt in PROMPTS]
    ends = (endless[0][4], endless[2][9], endless[4][0])
    expected = [greedy_by_hand(session, prompt, 20, ends) for prompt in PROMPTS]
    lengths = sorted({len(each) for each in expected})
    assert lengths[0] == 1 and 20 in lengths and len(lengths) > 2  # one ends at once, one never, others in between
    results = session.generate(PROMPTS, max_new_tokens=20, stop_tokens=ends)
    assert [list(each.tokens) for each in results] == expected
    assert [each.finish_reason for each in results] == ["stop" if each[-1] in ends else "length" for each in expected]


TOKENS = strategies.integers(0, VOCABULARY - 1)


@given(
    kind=strategies.sampled_from(KINDS),
    prompts=strategies.lists(strategies.lists(TOKENS, min_size=1, max_size=12), min_size=1, max_size=6),
    batch_size=strategies.integers(1, 6),
    most=strategies.integers(1, 14),
    ends=strategies.frozensets(TOKENS, max_size=40),
)
@settings(deadline=None, max_examples=40)
def test_any_batch_says_what_its_prompts_say_alone(
    sessions: dict[Kind, Session], kind: Kind, prompts: Any, batch_size: int, most: int, ends: frozenset[int]
) -> None:
    session = sessions[kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoders, "FIRST_ROOM", 3)
        patch.setattr(decoders, "RUN_TOKENS", 8)
        results = session.generate(prompts, batch_size, max_new_tokens=most, stop_tokens=ends)
    expected = [greedy_by_hand(session, prompt, most, tuple(ends)) for prompt in prompts]
    assert [list(each.tokens) for each in results] == expected


@pytest.mark.parametrize("ends", [END, [END, 5]])
def test_the_folder_says_what_ends_a_text(tmp_path: Path, ends: Any) -> None:
    endless = Session(write_decoder(tmp_path / "a"), threads=1).generate([[65]], max_new_tokens=8)[0].tokens
    last = endless[3]
    said = [last] if isinstance(ends, int) else [END, last]
    made = Made(ends=said[0] if isinstance(ends, int) else said)
    (result,) = Session(write_decoder(tmp_path / "b", made), threads=1).generate([[65]], max_new_tokens=8)
    assert result.tokens == endless[: endless.index(last) + 1]
    assert result.finish_reason == "stop"


def test_config_says_it_where_generation_config_does_not(tmp_path: Path) -> None:
    plain = Session(write_decoder(tmp_path / "a"), threads=1).generate([[65]], max_new_tokens=8)[0].tokens
    made = Made(config={"eos_token_id": [END, plain[2]]})
    (result,) = Session(write_decoder(tmp_path / "b", made), threads=1).generate([[65]], max_new_tokens=8)
    assert result.tokens == plain[: plain.index(plain[2]) + 1]


def test_a_graph_without_a_cut_of_logits_says_the_same(tmp_path: Path) -> None:
    for kind in KINDS:
        with_cut = Session(write_decoder(tmp_path / f"{kind} a", Made(kind)), threads=1)
        without = Session(write_decoder(tmp_path / f"{kind} b", Made(kind, cuts=False)), threads=1)
        assert with_cut.generate(PROMPTS, max_new_tokens=6) == without.generate(PROMPTS, max_new_tokens=6)


def test_an_empty_prompt_is_the_token_that_begins_a_text(session: Session) -> None:
    text, ids = session.generate(["", []], max_new_tokens=5)
    assert text == ids == session.generate([[BEGIN]], max_new_tokens=5)[0]
    assert text.prompt_tokens == 1


def test_a_repetition_penalty_counts_prompt_and_text(session: Session) -> None:
    prompt = [65, 66, 67]
    found: list[int] = []
    for _ in range(12):
        logits = logits_after(session, prompt + found)
        seen = sorted({*prompt, *found})
        logits[seen] = np.where(logits[seen] < 0, logits[seen] * 5, logits[seen] / 5)
        found.append(int(logits.argmax()))
    (result,) = session.generate([prompt], max_new_tokens=12, repetition_penalty=5.0)
    assert list(result.tokens) == found
    assert len(set(found)) == 12 and found != greedy_by_hand(session, prompt, 12)


def test_the_last_position_can_be_filled(session: Session) -> None:
    prompt = [65 + each % 26 for each in range(60)]
    (result,) = session.generate([prompt], max_new_tokens=4)
    assert list(result.tokens) == greedy_by_hand(session, prompt, 4)
    assert len(session.generate([prompt])[0].tokens) == 4  # where nobody says how many, as many as there is room for


def test_buffers_begin_small_and_grow(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "FIRST_ROOM", 2)
    results = session.generate(PROMPTS, max_new_tokens=30)
    assert [list(each.tokens) for each in results] == [greedy_by_hand(session, prompt, 30) for prompt in PROMPTS]


def test_buffers_never_have_room_for_more_than_is_asked(
    sessions: dict[Kind, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "FIRST_ROOM", 3)
    rooms: list[int] = []

    def allocate(shape: tuple[int, ...], dtype: str) -> Any:
        rooms.append(shape[2])
        return np.empty(shape, dtype)

    decoder = SharedDecoder(sessions["in place"].language_model._graph, 17, allocate=allocate)
    decoder.start([[1, 2, 3]])
    for token in range(14):
        decoder.step(np.array([token]))
    assert sorted(set(rooms)) == [6, 12, 17]


def test_long_prompts_are_run_in_parts(sessions: dict[Kind, Session], monkeypatch: pytest.MonkeyPatch) -> None:
    session = sessions["in place"]
    monkeypatch.setattr(decoders, "RUN_TOKENS", 4)  # so that of the prompts of three tokens each is alone, too
    results = session.generate(PROMPTS, max_new_tokens=5)
    assert [list(each.tokens) for each in results] == [greedy_by_hand(session, prompt, 5) for prompt in PROMPTS]


def poisoned(shape: tuple[int, ...], dtype: str) -> Any:
    return np.full(shape, np.nan, dtype)


def test_what_buffers_hold_before_they_are_written_is_never_read(sessions: dict[Kind, Session]) -> None:
    session = sessions["in place"]
    decoder = SharedDecoder(session.language_model._graph, 40, allocate=poisoned)
    logits = decoder.start(PROMPTS)
    rows = [list(prompt) for prompt in PROMPTS]
    for _ in range(4):
        for row, each in zip(rows, logits, strict=True):
            np.testing.assert_allclose(each, logits_after(session, row), rtol=0, atol=TOLERANCE)
            row.append(int(each.argmax()))
        logits = decoder.step(np.array([row[-1] for row in rows]))


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 1, 1, 2, 0], [3, 0], [2]])
def test_rows_may_go_change_places_and_double(session: Session, order: list[int]) -> None:
    decoder = decoder_of(session)
    decoder.start(PROMPTS)
    decoder.step(np.array([10, 11, 12, 13, 14]))
    decoder.keep(order)
    logits = decoder.step(np.array([20 + place for place in range(len(order))]))
    for place, row in enumerate(order):
        expected = logits_after(session, [*PROMPTS[row], 10 + row, 20 + place])
        np.testing.assert_allclose(logits[place], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("stay", "order"),
    [([True, True], [0, 1]), ([False, True], [1]), ([True, False, True, True], [0, 3, 2]), ([False, False], [])],
)
def test_few_rows_change_their_place(stay: list[bool], order: list[int]) -> None:
    assert staying(stay) == order


def test_nan_is_refused(tmp_path: Path) -> None:
    for kind in KINDS:
        session = Session(write_decoder(tmp_path / kind, Made(kind, poison=7)), threads=1)
        with pytest.raises(RunError, match=r"output 'logits' has NaN; compare the folder with its source: `losparse"):
            session.generate([[7]], max_new_tokens=2)
        assert session.generate([[8]], max_new_tokens=1)


def test_onnxruntime_s_errors_are_one_line(session: Session) -> None:
    decoder = decoder_of(session)
    decoder.start([[1, 2]])
    with pytest.raises(RunError, match=r"onnxruntime failed on 1 tokens after 2: ") as raised:
        decoder.step(np.array([10**6]))  # a word that the table has not
    assert "\n" not in str(raised.value)


def test_a_batch_lets_go_of_its_memory_whatever_happens(session: Session) -> None:
    freed: list[str] = []

    class Watched:
        def __init__(self, inner: Decoder, broken: bool = False) -> None:
            self.inner, self.broken = inner, broken

        def start(self, prompts: Any) -> Any:
            return self.inner.start(prompts)

        def step(self, tokens: Any) -> Any:
            if self.broken:
                raise RunError("broken")
            return self.inner.step(tokens)

        def keep(self, rows: Any) -> None:
            self.inner.keep(rows)

        def free(self) -> None:
            freed.append("free")
            self.inner.free()

    def rows() -> list[Row]:
        return [Row([1, 2], Chooser(GenerationSettings()), frozenset(), 3, None)]

    assert len(list(continue_rows(rows(), lambda most: Watched(decoder_of(session, most))))) == 3
    assert freed == ["free"]
    with pytest.raises(RunError, match=r"^broken$"):
        list(continue_rows(rows(), lambda most: Watched(decoder_of(session, most), broken=True)))
    abandoned = continue_rows(rows(), lambda most: Watched(decoder_of(session, most)))
    next(abandoned)
    del abandoned
    assert freed == ["free"] * 3


def test_a_decoder_that_is_free_holds_no_buffers(sessions: dict[Kind, Session]) -> None:
    held: list[weakref.ref[Any]] = []

    def allocate(shape: tuple[int, ...], dtype: str) -> Any:
        array = np.empty(shape, dtype)
        held.append(weakref.ref(array))
        return array

    decoder = SharedDecoder(sessions["in place"].language_model._graph, 40, allocate=allocate)
    decoder.start(PROMPTS)
    decoder.step(np.array([1, 2, 3, 4, 5]))
    assert all(each() is not None for each in held)
    decoder.free()
    gc.collect()
    assert [each() for each in held] == [None] * len(held)


def test_what_is_bound_is_held(sessions: dict[Kind, Session]) -> None:
    # onnxruntime 1.28 reads memory that was given back where nobody else holds an array that was bound.
    class Forgetful:
        def get_overridable_initializers(self) -> list[Any]:
            return []

        def io_binding(self) -> Any:
            return SimpleNamespace(**dict.fromkeys(BOUND, lambda *arguments: None))

    class Value:
        pass

    BOUND = ("bind_ortvalue_input", "bind_ortvalue_output", "bind_output")
    graph = replace(sessions["in place"].language_model._graph, use=lambda: nullcontext(Forgetful()))
    for name in ("share", "hand_on"):
        binding, value = Binding(graph), Value()
        held = weakref.ref(value)
        getattr(binding, name)(graph.states[0][1], value)
        del value
        gc.collect()
        assert held() is not None
        binding.free()
        gc.collect()
        assert held() is None


def test_threads_share_a_session(session: Session) -> None:
    expected = [session.generate([prompt], max_new_tokens=15) for prompt in PROMPTS]
    found: dict[int, Any] = {}

    def work(place: int) -> None:
        for _ in range(5):
            found[place] = session.generate([PROMPTS[place]], max_new_tokens=15)
            assert found[place] == expected[place]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found.get(place) for place in range(len(PROMPTS))] == expected


def test_a_batch_invariant_session_runs_prompts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_decoder(tmp_path / "made")
    (folder / "tokenizer_config.json").write_text('{"padding_side": "left"}')
    session = Session(folder, threads=1, batch_invariant=True)
    sizes: list[int] = []
    start = SharedDecoder.start

    def counted(self: SharedDecoder, prompts: Any) -> Any:
        sizes.append(len(prompts))
        return start(self, prompts)

    monkeypatch.setattr(SharedDecoder, "start", counted)
    assert session.runs_alone
    session.generate(PROMPTS, max_new_tokens=2)
    assert sizes == [1] * len(PROMPTS)


def test_states_that_grow_can_be_kept_elsewhere(sessions: dict[Kind, Session]) -> None:
    # On a GPU states stay there, and are handed on: what a graph in place does without a shared buffer.
    graph = sessions["in place"].language_model._graph
    assert graph.shared and graph.device == (HOST, 0)
    decoder = GrowingDecoder(graph)
    decoder.start(PROMPTS)
    logits = decoder.step(np.array([1, 2, 3, 4, 5]))
    for place, prompt in enumerate(PROMPTS):
        expected = logits_after(sessions["in place"], [*prompt, place + 1])
        np.testing.assert_allclose(logits[place], expected, rtol=0, atol=TOLERANCE)
