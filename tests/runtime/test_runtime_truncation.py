"""Long texts: cut before they are tokenised where that is exact, and never in the way of others."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from losparse_runtime import InputError, Session
from losparse_runtime.text.truncation import MAX_CHARACTERS, Truncating, Truncation, share, splits_at_spaces

MakeFolder = Callable[..., Any]
PARTS = [
    "word",
    "Zürich",
    "don't",
    "3,14",
    "x" * 30,
    "「東京」",
    "e\u0301",
    "ﬁn",
    "<mask>",
    "a_b-c",
    "\u0130",
    "🙂",
    "ß",
]
SPACES = [" ", " ", " ", "  ", "\n", " \t ", "\u2028", "\u00a0", ""]


def long_text(seed: int, parts: int) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice(PARTS) + draw.choice(SPACES) for _ in range(parts))


def trained(model: Any, trainer: Any, normalizer: Any, pre_tokenizer: Any) -> Tokenizer:
    made = Tokenizer(model)
    if normalizer is not None:
        made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizer
    made.train_from_iterator([long_text(seed, 200) for seed in range(5)], trainer)
    made.add_special_tokens(["[CLS]", "[SEP]", AddedToken("<mask>", lstrip=True)])
    ids = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return made


def word_piece() -> Tokenizer:
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]"])
    model = models.WordPiece(unk_token="[UNK]")
    return trained(model, trainer, normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer())


def bytes_of() -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return trained(models.BPE(), trainer, normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False))


def pieces() -> Tokenizer:
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>")
    steps = [normalizers.Replace("``", '"'), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    return trained(models.Unigram(), trainer, normalizers.Sequence(steps), pre_tokenizers.Metaspace())


def words() -> Tokenizer:
    splitters = [pre_tokenizers.Digits(), pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(use_regex=False)]
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return trained(models.BPE(), trainer, None, pre_tokenizers.Sequence(splitters))


KINDS = [word_piece, bytes_of, pieces, words]


def said(encoding: Any) -> tuple[Any, ...]:
    return encoding.ids, encoding.offsets, encoding.type_ids, encoding.word_ids, bool(encoding.overflowing)


def whole(tokenizer: Tokenizer, text: Any, truncation: Truncation) -> Any:
    """What a tokenizer of its own says of the whole text."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.enable_truncation(truncation.length)
    return own.encode_batch([text])[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_beginning_has_the_same_tokens(kind: Callable[[], Tokenizer]) -> None:
    tokenizer = kind()
    truncating = Truncating(tokenizer)
    assert splits_at_spaces(tokenizer)
    for seed, length in enumerate([4, 5, 16, 63, 64, 128] * 3):
        text, truncation = long_text(seed, 40 * length), Truncation(length)
        assert len(truncating.beginning(text, truncation)) < len(text) / 2
        assert said(truncating.encode([text], truncation)[0]) == said(whole(tokenizer, text, truncation))


@pytest.mark.parametrize("kind", KINDS)
def test_the_beginning_of_a_pair_has_the_same_tokens(kind: Callable[[], Tokenizer]) -> None:
    """Long and short, short and long, both long: of an odd number of tokens the longer text keeps one more."""
    tokenizer = kind()
    truncating = Truncating(tokenizer)
    for seed, (length, other) in enumerate(itertools.product([17, 18], [4, 90, 100])):
        truncation, texts = Truncation(length), (long_text(seed, 95), long_text(-seed - 1, other))
        for pair in (texts, texts[::-1]):
            assert truncating.beginning(pair, truncation) != pair
            assert said(truncating.encode([pair], truncation)[0]) == said(whole(tokenizer, pair, truncation))


def test_a_pair_of_two_long_texts_that_cannot_be_cut_is_refused() -> None:
    """The library would keep every piece of the one text with every piece of the other."""
    truncating, text = Truncating(word_piece()), "x " * 50_000
    assert len(truncating.encode([(text, text)], Truncation(16))[0].ids) == 16
    with pytest.raises(InputError, match=r"^pair 1 has two texts of far more than 16 tokens, .*; shorten one$"):
        truncating.encode([("a", text), (text, text)], Truncation(16, side="left"))


def test_of_a_huge_text_a_beginning_is_read() -> None:
    text = "some words " * 2_000_000
    beginning = Truncating(word_piece()).beginning(text, Truncation(512))
    assert isinstance(beginning, str) and len(beginning) < 40_000


@pytest.mark.parametrize("length", [4, 64])
def test_texts_that_cannot_be_cut_stay_whole(length: int) -> None:
    truncating, text = Truncating(word_piece()), "x" * 20_000
    assert truncating.beginning(text, Truncation(length)) == text, "no space"
    text = "a b " * 5000
    assert truncating.beginning(text, Truncation(length, side="left")) == text
    assert truncating.beginning(("a", text), Truncation(length, "only_second")) == ("a", text)
    text = "\x01 " * 10_000 + "a b"
    assert truncating.beginning(text, Truncation(length)) == text, "no tokens but at the end"


class Python:
    def pre_tokenize(self, pre: Any) -> None:
        pre.split(lambda _, text: [text])


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer"),
    [
        (None, None),
        (None, pre_tokenizers.Metaspace(split=False)),
        (None, pre_tokenizers.ByteLevel(use_regex=False)),
        (None, pre_tokenizers.Punctuation()),
        (None, pre_tokenizers.Split(Regex(r"[\s\S]{1,9}"), "isolated")),
        (None, pre_tokenizers.PreTokenizer.custom(Python())),
        (
            None,
            pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(use_regex=False), pre_tokenizers.WhitespaceSplit()]),
        ),
        (normalizers.Replace(" ", "▁"), pre_tokenizers.WhitespaceSplit()),
        (normalizers.Replace(Regex(r"\s+"), ""), pre_tokenizers.WhitespaceSplit()),
        (normalizers.Sequence([normalizers.Replace("e w", "")]), pre_tokenizers.WhitespaceSplit()),
    ],
)
def test_what_may_look_across_a_space_is_not_cut(normalizer: Any, pre_tokenizer: Any) -> None:
    made = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    if normalizer is not None:
        made.normalizer = normalizer
    if pre_tokenizer is not None:
        made.pre_tokenizer = pre_tokenizer
    assert not splits_at_spaces(made)


def test_an_added_token_with_a_space_in_it_forbids_cuts() -> None:
    made = word_piece()
    made.add_tokens(["New York"])
    assert not splits_at_spaces(made)


def test_a_text_too_long_to_be_read_whole_is_refused(make_folder: MakeFolder) -> None:
    session, long = Session(make_folder().path, threads=1), "a" * (MAX_CHARACTERS + 1)
    message = r"^text 1 has 2,000,001 characters, and must have at most 2,000,000 where it cannot be cut .*; split it$"
    with pytest.raises(InputError, match=message):
        session.encode(["a", long])
    assert session.encode(["a", "a " * MAX_CHARACTERS])["input_ids"].shape == (2, 16)
    answering = Session(make_folder("question-answering", name="answering").path, threads=1)
    with pytest.raises(InputError, match=r"^context has 4,000,000 characters, and must have at most 2,000,000"):
        answering.answer("a", "a " * MAX_CHARACTERS)
    with pytest.raises(InputError, match=r"^question has 2,000,001 characters"):
        answering.answer(long, "a")


class Waiting:
    """A pre-tokenizer that waits at the text "slow" until it is told to go on."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def pre_tokenize(self, pre: Any) -> None:
        pre.split(self._split)

    def _split(self, _: int, text: Any) -> list[Any]:
        if str(text) == "slow":
            self.reached.set()
            assert self.go_on.wait(60)
        return [text]


def test_a_slow_text_does_not_keep_others_waiting(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # or a machine of one CPU has one thread for all
    session, waiting = Session(make_folder("question-answering").path, threads=1), Waiting()
    session.encoder.tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(waiting)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(session.encode, "slow")
        try:
            assert waiting.reached.wait(60)
            # the same truncation, another one, and windows
            for call in (
                lambda: session.encode("a"),
                lambda: session.encode("a", max_length=8),
                lambda: session.answer("a", "b"),
            ):
                pool.submit(call).result(60)
            assert not slow.done()
        finally:
            waiting.go_on.set()
        assert slow.result(60)["input_ids"].shape == (1, 3)


def test_threads_with_other_lengths_do_not_mix(make_folder: MakeFolder) -> None:
    session = Session(make_folder().path, threads=1)

    def shapes(length: int) -> set[tuple[int, ...]]:
        return {session.encode("a " * 40, max_length=length)["input_ids"].shape for _ in range(100)}

    with ThreadPoolExecutor(8) as pool:  # more lengths than are kept
        found = list(pool.map(shapes, range(4, 16)))
    assert found == [{(1, length)} for length in range(4, 16)]


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizers_that_share_a_model_say_the_same(kind: Callable[[], Tokenizer]) -> None:
    made = kind()
    copy = share(made)
    copy.enable_truncation(5)
    assert made.truncation is None
    copy.no_truncation()
    for seed in range(5):
        text = long_text(seed, 50)
        assert said(copy.encode(text)) == said(made.encode(text))


def test_tokens_that_cannot_be_added_alike_are_copied_whole() -> None:
    made = word_piece()
    parts = ("model", "normalizer", "pre_tokenizer", "post_processor", "decoder", "encode_special_tokens", "to_str")
    odd = SimpleNamespace(
        get_added_tokens_decoder=lambda: {500: AddedToken("far")}, **{part: getattr(made, part) for part in parts}
    )
    copy = share(cast(Tokenizer, odd))
    assert copy.to_str() == made.to_str() and copy.token_to_id("far") is None
