"""Whether a folder makes the tokens of texts that its reference makes.

Compared are the settings, the parts of `tokenizer.json`, and the tokens of texts that tokenizers differ about.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..contract.task import TASKS
from ..session import Session
from .differences import first_difference, shown
from .preprocessing import Preprocessing, Row, preprocessing_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

# What tokenizers differ about: case, accents, spaces, punctuation, numbers, other scripts, signs of several bytes.
TEXTS = (
    "Hello, World! It's 3.5 %.",
    "Crème brûlée  for\tNaïve ÅNGSTRÖM",
    "日本語 и кириллица",
    "  UPPER lower MiXeD ",
    "two\nlines\r\nand a tab\t.",
    "👍🏽 ﬁne ½ ² № ...…",
    "a.b@example.org https://example.org/x?y=1#z #tag_name $100,000",
    "x" * 120,
    "ﷺ مرحبا नमस्ते สวัสดี",
    "",
)
_LONGEST = 20_000  # tokens: a text that is to be cut is not made for models that read more
_TOKENS = 32  # added tokens, and tokens that differ, which texts are made of
_BATCH = 32

# Parts of tokenizer.json that the tokens do not depend on: the runtime cuts and pads by itself, and decodes nothing.
_IDLE = ("version", "truncation", "padding", "decoder")


def text_differences(
    session: Session, reference: Preprocessing, texts: tuple[Sequence[str], Sequence[str] | None] | None
) -> list[str]:
    """Compare how a folder and its reference read texts.

    Args:
        session: what is checked.
        reference: what is right by definition.
        texts: texts, and second texts or None, to compare on beside those that are always.

    Returns:
        A line for everything that differs, with the first text and token where the tokens do.
    """
    actual = preprocessing_of(session)
    found = setting_differences(actual.settings, reference.settings)
    if actual.tokenizer is None:
        logger.warning("%s has no tokenizer, so texts are not compared", session.folder)
        return found
    if reference.tokenizer is None:
        return [*found, "tokenizer.json: the reference has no tokenizer"]
    found += setting_differences(actual.text_settings, reference.text_settings)
    part = first_difference(tokenizer_parts(actual.tokenizer), tokenizer_parts(reference.tokenizer), "")
    if part is not None:
        found.append(f"tokenizer.json: {part}")
    typed = session.signature.has("types")
    probes = _probes(session, actual.tokenizer, reference.tokenizer)
    lines = (_tokens(actual, reference, *each, typed=typed) for each in probes)
    found += [f"tokens: {line}" for line in [next((line for line in lines if line), None)] if line]
    if texts is not None and (line := _tokens(actual, reference, *texts, typed=typed)):
        found.append(f"tokens of the data: {line}")
    return found


def setting_differences(actual: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """Return a line for every setting that both have and that differs."""
    lines = (first_difference(value, reference[name], name) for name, value in actual.items() if name in reference)
    return [line for line in lines if line is not None]


def tokenizer_parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what tokens depend on, in the one form that `tokenizers` writes."""
    return {name: part for name, part in json.loads(tokenizer.to_str()).items() if name not in _IDLE}


def _probes(
    session: Session, actual: Tokenizer, reference: Tokenizer
) -> Iterator[tuple[Sequence[str], Sequence[str] | None]]:
    """Yield texts, and second texts or None, that bring differences of tokenizers to light."""
    texts = list(TEXTS)
    added = [token.content for token in reference.get_added_tokens_decoder().values()][:_TOKENS]
    texts += [text for token in added for text in (token, f"a {token}b")]
    one, other = actual.get_vocab(), reference.get_vocab()
    if one != other:
        differing = [token for token in {**other, **one} if one.get(token) != other.get(token)]
        differing.sort(key=lambda token: (other.get(token, len(other)), token))  # get_vocab has no order
        texts += [token.removeprefix("##").lstrip("▁Ġ") for token in differing[:_TOKENS]]
    yield texts, None
    long = " ".join(map(str, range(min(session.max_length, _LONGEST) + 8)))
    if session.max_length <= _LONGEST:
        yield [long], None
    if TASKS[session.task].pairs:
        yield [*texts, long, "a"], [*texts[1:], "b", "a", long]


def _tokens(
    actual: Preprocessing, reference: Preprocessing, texts: Sequence[str], pairs: Sequence[str] | None, *, typed: bool
) -> str | None:
    """Say which text has other tokens than in the reference, and how many have; None where none has."""
    first: tuple[int, Row, Row] | None = None
    count = 0
    for start in range(0, len(texts), _BATCH):
        rows = slice(start, start + _BATCH)
        batch = texts[rows], None if pairs is None else pairs[rows]
        for place, (ours, theirs) in enumerate(zip(actual.encode(*batch), reference.encode(*batch), strict=True)):
            if ours[0] != theirs[0] or (typed and ours[1] != theirs[1]):
                count += 1
                first = first or (start + place, ours, theirs)
    if first is None:
        return None
    text = texts[first[0]]
    named = shown(text) + ("" if pairs is None else " (the first of a pair)")
    return f"{count} of {len(texts)} texts differ, the first is {named}: {_token(actual, reference, *first[1:])}"


def _token(actual: Preprocessing, reference: Preprocessing, ours: Row, theirs: Row) -> str:
    """Say which token of a text is the first that differs."""
    assert actual.tokenizer is not None and reference.tokenizer is not None, "both sides encoded a text"
    for place in range(max(len(ours[0]), len(theirs[0]))):
        one, other = (row[0][place] if place < len(row[0]) else None for row in (ours, theirs))
        if one != other:
            named = (
                "not there" if token is None else f"{token} {shown(side.id_to_token(token))}"
                for token, side in ((one, actual.tokenizer), (other, reference.tokenizer))
            )
            return f"token {place} is {next(named)}, in the reference {next(named)}"
    place = next(i for i, (one, other) in enumerate(zip(ours[1], theirs[1], strict=True)) if one != other)
    return f"token {place} has type {ours[1][place]}, in the reference {theirs[1][place]}"
