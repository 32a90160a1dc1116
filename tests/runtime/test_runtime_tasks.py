"""Task helpers against numbers computed by hand from the model's tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from losparse_runtime import Answer, Classification, InputError, RunError, Session, Tag
from losparse_runtime.contract.task import TASKS
from losparse_runtime.tasks.rank import HELPER as RANK

from .conftest import Answering, Fixed

MakeFolder = Callable[..., Any]
VOCABULARY = "abcdefgh"
TEXTS = ["a b c", "d", "e f g a b c", "g g", "a"]


def ids(text: str) -> list[int]:
    """[CLS] words [SEP]; the words begin at id 4."""
    return [2, *(4 + VOCABULARY.index(word) for word in text.split()), 3]


def softmax(values: Any) -> Any:
    powers = np.exp(values - np.max(values, axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_classify(make_folder: MakeFolder, batch_size: int) -> None:
    folder = make_folder()
    results = Session(folder.path, threads=1).classify(TEXTS, batch_size=batch_size)
    assert len(results) == len(TEXTS)
    for text, result in zip(TEXTS, results, strict=True):
        expected = softmax(folder.weights.hidden(ids(text)).sum(axis=0) @ folder.weights.head)
        assert isinstance(result, Classification)
        assert list(result.scores) == ["red", "green", "blue"]
        np.testing.assert_allclose(list(result.scores.values()), expected, rtol=1e-4, atol=1e-6)
        assert result.label == ["red", "green", "blue"][int(expected.argmax())]
        assert result.score == max(result.scores.values())
        assert sum(result.scores.values()) == pytest.approx(1, abs=1e-12)


def test_classify_pairs(make_folder: MakeFolder) -> None:
    folder = make_folder()
    result = Session(folder.path, threads=1).classify("a b", pairs="c")[0]
    hidden = folder.weights.hidden([2, 4, 5, 3, 6, 3], [0, 0, 0, 0, 1, 1])
    np.testing.assert_allclose(
        list(result.scores.values()), softmax(hidden.sum(axis=0) @ folder.weights.head), rtol=1e-4, atol=1e-6
    )


POOLED = {
    "mean": lambda hidden: hidden.mean(axis=0),
    "cls": lambda hidden: hidden[0],
    "max": lambda hidden: hidden.max(axis=0),
    "lasttoken": lambda hidden: hidden[-1],
}


@pytest.mark.parametrize("pooling", POOLED)
@pytest.mark.parametrize("normalize", [True, False])
def test_embed(make_folder: MakeFolder, pooling: str, normalize: bool) -> None:
    folder = make_folder("feature-extraction")
    folder.edit(lambda data: data.update(pooling=pooling, normalize=normalize))
    vectors = Session(folder.path, threads=1).embed(TEXTS, batch_size=2)
    assert (vectors.shape, str(vectors.dtype)) == ((5, 4), "float32")
    for text, vector in zip(TEXTS, vectors, strict=True):
        hidden = folder.weights.hidden(ids(text))
        expected = POOLED[pooling](hidden)
        expected = expected / np.linalg.norm(expected) if normalize else expected
        np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-6)


def test_embed_with_padding_on_the_left(make_folder: MakeFolder) -> None:
    folder = make_folder("feature-extraction")
    right = Session(folder.path, threads=1).embed(TEXTS)
    folder.edit(lambda data: data.update(padding_side="left"), "tokenizer_config.json")
    for pooling in POOLED:
        folder.edit(lambda data, pooling=pooling: data.update(pooling=pooling))
        left = Session(folder.path, threads=1)
        np.testing.assert_allclose(left.embed(TEXTS), np.concatenate([left.embed(text) for text in TEXTS]), rtol=1e-6)
    assert right.shape == (5, 4)


def test_embed_without_a_pooling(make_folder: MakeFolder) -> None:
    folder = make_folder("feature-extraction").edit(lambda data: data.update(pooling=None))
    with pytest.raises(
        InputError, match=r"made: records no pooling; use run\(\) and pool 'last_hidden_state', or export"
    ):
        Session(folder.path, threads=1).embed("a")


def test_tag(make_folder: MakeFolder) -> None:
    folder = make_folder("token-classification")
    texts = ["b", "a  zz c", ""]
    results = Session(folder.path, threads=1).tag(iter(texts), batch_size=2)
    words = [[("b", 0, 1, 5)], [("a", 0, 1, 4), ("zz", 3, 5, 1), ("c", 6, 7, 6)], []]
    assert [len(tags) for tags in results] == [1, 3, 0]
    for tags, expected in zip(results, words, strict=True):
        for tag, (text, start, end, word) in zip(tags, expected, strict=True):
            scores = softmax(folder.weights.hidden([word])[0] @ folder.weights.head)
            assert isinstance(tag, Tag)
            assert (tag.text, tag.start, tag.end) == (text, start, end)
            assert tag.label == ["red", "green", "blue"][int(scores.argmax())]
            assert tag.score == pytest.approx(float(scores.max()), rel=1e-4)


@pytest.mark.parametrize(
    ("offsets", "word_ids", "expected"),
    [
        ([(0, 3), (3, 6), (7, 9), (9, 10)], [0, 0, 1, 2], ["Zürich", "is", "!"]),  # WordPiece
        ([(0, 1), (1, 2), (1, 2), (2, 6), (6, 9), (9, 10)], [0, 0, 0, 0, 1, 2], ["Zürich", "is", "!"]),  # bytes
        ([(0, 3), (3, 6), (6, 9), (9, 10)], [0, 0, 0, 0], ["Zürich", "is!"]),  # no words, spaces in front
        ([(0, 6), (6, 7), (7, 9), (9, 10)], [0, 1, 2, 3], ["Zürich", "is", "!"]),  # a space of its own
    ],
)
def test_tag_gives_a_word_the_label_of_its_first_token(
    make_folder: MakeFolder, offsets: Any, word_ids: Any, expected: list[str]
) -> None:
    text, count = "Zürich is!", len(offsets) + 2
    made = SimpleNamespace(
        ids=list(range(count)),
        offsets=[(0, 0), *offsets, (0, 0)],
        word_ids=[None, *word_ids, None],
        special_tokens_mask=[1, *[0] * len(offsets), 1],
    )
    folder = make_folder("token-classification").path
    logits = np.zeros((1, count, 3), np.float32)
    logits[0, np.arange(count), np.arange(count) % 3] = np.arange(count) + 1.0  # every token has a score of its own
    session = Answering(folder, lambda inputs: {"logits": logits}, Fixed(folder, made))
    (tags,) = session.tag(text)
    assert [tag.text for tag in tags] == expected == [text[tag.start : tag.end] for tag in tags]
    firsts = [1 + next(i for i, (start, end) in enumerate(offsets) if tag.start < end) for tag in tags]
    scores = softmax(logits[0])
    assert [tag.score for tag in tags] == pytest.approx([float(scores[token].max()) for token in firsts])
    assert [tag.label for tag in tags] == [["red", "green", "blue"][token % 3] for token in firsts]
    (tokens,) = session.tag(text, words=False)
    # every token by itself, without the space it may begin with; a space of its own stays
    assert [tag.text for tag in tokens] == [text[start:end].strip() or " " for start, end in offsets]
    assert all(tag.text == text[tag.start : tag.end] for tag in tokens)


def bytes_tokenizer() -> Tokenizer:
    """As GPT-2's and ModernBERT's: a token of a word holds the space before it, and so do its offsets."""
    letters = ["Ġ", "a", "b", "c"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, "Ġa", "Ġb", "Ġc"]
    made = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, [("Ġ", each) for each in "abc"]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    return made


def pieces_tokenizer() -> Tokenizer:
    """As T5's and XLM-R's: pieces of sentences, whose mark for a space is the space before the word."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁a", "▁b", "▁c", "▁"]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return made


@pytest.mark.parametrize("make_tokenizer", [bytes_tokenizer, pieces_tokenizer])
@pytest.mark.parametrize("task", ["question-answering", "token-classification"])
def test_spans_leave_out_the_space_that_a_token_holds(
    make_folder: MakeFolder, make_tokenizer: Callable[[], Tokenizer], task: str
) -> None:
    folder, made = make_folder(task), make_tokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    made.save(str(folder.path / "tokenizer.json"))
    session, text = Session(folder.path, threads=1), "a b c  b"
    if task == "question-answering":
        found = [session.answer("a", text, max_tokens=count) for count in (1, 2)]
    else:
        found = [*session.tag(text)[0], *session.tag(text, words=False)[0]]
        assert [tag.text for tag in session.tag(text)[0]] == ["a", "b", "c", "b"]
    for each in found:
        assert each.text == text[each.start : each.end]
        assert each.text == each.text.strip() or each.text.isspace()


@pytest.mark.parametrize(("start", "end"), [(1, 3), (1, 2), (5, 8), (0, 8)])
def test_an_answer_and_its_place_agree(make_folder: MakeFolder, start: int, end: int) -> None:
    context = "a b c  b"
    made = SimpleNamespace(
        ids=[2, 4, 5, 3], offsets=[(0, 0), (start, end), (8, 8), (0, 0)], sequence_ids=[0, 1, 1, None]
    )
    folder = make_folder("question-answering").path
    logits = np.array([[0, 5, 0, 0]], np.float32)
    said = {"start_logits": logits, "end_logits": logits}
    session = Answering(folder, lambda inputs: said, Fixed(folder, made))
    answer = session.answer("a", context, max_tokens=1)
    assert answer.text == context[start:end].strip() == context[answer.start : answer.end]


def test_numbers_of_a_regression_are_the_scores(make_folder: MakeFolder) -> None:
    folder = make_folder("text-classification")
    folder.edit(lambda data: data.update(problem_type="regression"), "config.json")
    found = Session(folder.path, threads=1).classify("a")[0]
    inputs = {"input_ids": np.array([ids("a")])}
    logits = Session(folder.path, threads=1).run(inputs)["logits"][0]
    assert list(found.scores.values()) == pytest.approx(logits.tolist(), rel=1e-6)


def test_several_numbers_of_a_regression_have_a_column_each(make_folder: MakeFolder) -> None:
    folder = make_folder("text-classification")
    folder.edit(lambda data: data.update(task="regression"))
    folder.edit(lambda data: data.update(problem_type="regression"), "config.json")
    session = Session(folder.path, threads=1)
    texts = ["a", "b c"]
    found = session.classify(texts)
    assert RANK.without is not None
    table = RANK.without.table(TASKS[session.task], found, texts)
    assert (table.columns, table.left) == (("red", "green", "blue", "text"), (3,))
    assert [row[:3] for row in table.rows] == [
        tuple(f"{score:.4f}" for score in each.scores.values()) for each in found
    ]
    assert [row[3] for row in table.rows] == texts
    for helper in (session.embed, session.tag):  # rank would refuse it too
        with pytest.raises(InputError, match=r"is for regression; use classify, or run for the raw outputs$"):
            helper("a")


def spans_by_hand(folder: Any, context: str, max_tokens: int) -> tuple[int, int, float]:
    """First and last token of the best span, and its score: all spans tried one by one."""
    words = [4 + VOCABULARY.index(word) for word in context.split()]
    both = folder.weights.hidden(words, [1] * len(words)) @ folder.weights.head
    start, end = softmax(both[:, 0]), softmax(both[:, 1])
    spans = [(i, j) for i, j in itertools.product(range(len(words)), repeat=2) if i <= j < i + max_tokens]
    first, last = max(spans, key=lambda span: start[span[0]] * end[span[1]])
    return first, last, float(start[first] * end[last])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_tokens", [1, 2, 30])
def test_answer(make_folder: MakeFolder, seed: int, max_tokens: int) -> None:
    folder = make_folder("question-answering", seed=seed)
    context = "a b c d e f g h"
    answer = Session(folder.path, threads=1).answer("h a", context, max_tokens=max_tokens)
    first, last, score = spans_by_hand(folder, context, max_tokens)
    assert isinstance(answer, Answer)
    assert (answer.start, answer.end) == (2 * first, 2 * last + 1)
    assert answer.text == context[answer.start : answer.end]
    assert answer.score == pytest.approx(score, rel=1e-4)


@pytest.mark.parametrize("place", [3, 25, 59])
def test_an_answer_beyond_the_model_s_positions(make_folder: MakeFolder, place: int) -> None:
    folder = make_folder("question-answering")
    # The best single token of all, in a context of the worst ones: found wherever it stands, offsets of the whole text.
    best, worst = (sorted(VOCABULARY, key=lambda word: spans_score(folder, word))[i] for i in (-1, 0))
    context = " ".join(best if i == place else worst for i in range(60))
    answer = Session(folder.path, threads=1).answer("a", context, max_tokens=1, stride=3)
    assert (answer.text, answer.start, answer.end) == (best, 2 * place, 2 * place + 1)
    # words in two windows count once: the score is that of one window over all of the context
    assert answer.score == pytest.approx(spans_by_hand(folder, context, 1)[2], rel=1e-4)


def spans_score(folder: Any, word: str) -> float:
    return float((folder.weights.hidden([4 + VOCABULARY.index(word)], [1]) @ folder.weights.head).sum())


def test_answer_refuses_bad_arguments(make_folder: MakeFolder) -> None:
    session = Session(make_folder("question-answering").path, threads=1)
    with pytest.raises(InputError, match=r"^context must have at least one token, got none; give the text that holds"):
        session.answer("a", "  ")
    with pytest.raises(InputError, match=r"^max_tokens must be a whole number >= 1, got 0$"):
        session.answer("a", "b", max_tokens=0)
    with pytest.raises(InputError, match=r"^stride must be a whole number >= 0, got -1$"):
        session.answer("a", "b", stride=-1)
    with pytest.raises(InputError, match=r"^question must hold strings only, got int at 0$"):
        session.answer(3, "b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "helper", "right"),
    [
        ("text-classification", "embed", "classify"),
        ("feature-extraction", "tag", "embed"),
        ("question-answering", "classify", "answer"),
        ("token-classification", "answer", "tag"),
        ("token-classification", "rank", "tag"),
        ("multi-label-classification", "tag", "classify"),
        ("regression", "embed", "rank"),
    ],
)
def test_a_helper_of_another_task_names_both(make_folder: MakeFolder, task: str, helper: str, right: str) -> None:
    session = Session(make_folder(task).path, threads=1)
    arguments = ("a", "b") if helper in ("answer", "rank") else ("a",)
    with pytest.raises(InputError, match=rf"^{helper} needs a .* folder, .*made is for {task}; use {right}, or run"):
        getattr(session, helper)(*arguments)


@pytest.mark.parametrize(
    ("task", "helper", "output"),
    [
        ("text-classification", "classify", "logits"),
        ("feature-extraction", "embed", "last_hidden_state"),
        ("token-classification", "tag", "logits"),
    ],
)
def test_outputs_that_are_not_finite_name_their_text(
    make_folder: MakeFolder, task: str, helper: str, output: str
) -> None:
    session = Session(make_folder(task, poison=True).path, threads=1)
    message = rf"made: output '{output}' is not finite \(NaN or Inf\) for text 2; compare the folder with its source"
    with pytest.raises(RunError, match=message):
        getattr(session, helper)(["a b c", "b", "h", "c c"])


def test_an_answer_that_is_not_finite(make_folder: MakeFolder) -> None:
    with pytest.raises(RunError, match=r"output 'start_logits' is not finite"):
        Session(make_folder("question-answering", poison=True).path, threads=1).answer("a", "b h")


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True])
def test_the_batch_size_is_a_count(make_folder: MakeFolder, batch_size: Any) -> None:
    with pytest.raises(InputError, match=r"^batch_size must be a whole number >= 1, got "):
        Session(make_folder().path, threads=1).classify("a", batch_size=batch_size)


def test_batches_hold_texts_of_like_length(make_folder: MakeFolder) -> None:
    folder = make_folder().path
    inner = Session(folder, threads=1)
    shapes: list[tuple[int, ...]] = []

    def record(inputs: Any) -> Any:
        shapes.append(inputs["input_ids"].shape)
        return inner.run(inputs)

    session = Answering(folder, record)
    session.classify(["a", "a b c d e f", "b", "a b c d e"], batch_size=2)
    assert shapes == [(2, 8), (2, 3)]
