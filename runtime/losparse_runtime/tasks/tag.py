"""Labels of the words of a text, or of its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..contract.task import TASKS, Task
from ..contract.tensors import Arrays
from ..text.encoder import text_list
from .base import Helper, Served, Table, Work, class_names, do, require
from .scoring import softmax, trimmed

if TYPE_CHECKING:
    from tokenizers import Encoding


@dataclass(frozen=True)
class Tag:
    """The label of one word, or of one token.

    Attributes:
        text: the word, or the token, as it stands in the text, without the space around it.
        start: its first character, counted from 0.
        end: one past its last character.
        label: the class with the highest probability.
        score: that probability.
    """

    text: str
    start: int
    end: int
    label: str
    score: float


def tag(session: Served, texts: str | Iterable[str], batch_size: int = 32, *, words: bool = True) -> list[list[Tag]]:
    """Label every word of every text.

    A word is what the tokenizer splits off before it cuts it into tokens: "Zürich", or the full stop behind it. It has
    the label of its first token, because training labels no other.

    Args:
        session: of a token-classification folder.
        texts: the texts; a bare string is one text. Longer ones are cut to the model's positions.
        batch_size: texts in one run, >= 1.
        words: False for every token by itself, for models that were trained to label all of them. Special tokens are
            left out.

    Returns:
        One list of tags a text, in order; tags in the order of the words.

    Raises:
        InputError: the folder is for another task, or an argument is wrong.
        RunError: the model failed, or its logits are not finite.
    """
    return do(session, tag_work(session, texts, words=words), batch_size)


def tag_work(session: Served, texts: str | Iterable[str], *, words: bool = True) -> Work[list[list[Tag]]]:
    """Tokenise what `tag` then runs."""
    require(session, HELPER.name)
    labels, (output,) = class_names(session), TASKS[session.task].outputs
    listed = text_list("texts", texts)
    encodings = session.encoder.encodings(listed)

    def read(places: Sequence[int], outputs: Arrays, mask: NDArray[Any]) -> list[list[Tag]]:
        rows = zip(places, outputs[output], mask.astype(bool), strict=True)
        return [_tags(listed[place], encodings[place], logits[real], labels, words) for place, logits, real in rows]

    return Work(encodings, read, list)


def _tags(text: str, encoding: Encoding, logits: NDArray[Any], labels: Sequence[str], words: bool) -> list[Tag]:
    scores, tags = softmax(logits), []
    for token, start, end in _spans(text, encoding, words):
        best = int(scores[token].argmax())
        tags.append(Tag(text[start:end], start, end, labels[best], float(scores[token, best])))
    return tags


def _spans(text: str, encoding: Encoding, words: bool) -> list[tuple[int, int, int]]:
    """Return the first token, the first character and one past the last of every word, or of every token."""
    found: list[tuple[int, int, int]] = []
    previous = None
    for token, ((start, end), word) in enumerate(zip(encoding.offsets, encoding.word_ids, strict=True)):
        if encoding.special_tokens_mask[token]:
            continue
        first, last = trimmed(text, start, end)
        # Some tokenizers know of no words at all. Tokens of one character that takes several bytes all begin where it
        # does.
        if words and previous == word and first == start and found and start <= found[-1][2]:
            found[-1] = (*found[-1][:2], max(last, found[-1][2]))
        elif first < last:
            found.append((token, first, last))
        elif not words:
            found.append((token, start, end))  # a token of space alone
        previous = word
    return found


def _table(task: Task, results: Sequence[list[Tag]], texts: Sequence[str]) -> Table:
    rows = [
        (tag.label, f"{tag.score:.4f}", tag.text, str(number))
        for number, tags in enumerate(results, start=1)
        for tag in tags
    ]
    return Table(("label", "score", "word", "text"), rows, (0, 2))


HELPER = Helper("tag", tag, _table)
