"""How a folder reads texts and what it says of its outputs: all that a comparison of tensors does not see.

The tokens of a folder must be those of its reference, and so must be what is done with texts before the tokens and with
numbers behind them. Loads neither torch nor transformers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from losparse_runtime import Session

logger = logging.getLogger(__name__)

Row = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids and token types of one text, special tokens included, padding not."""

Encode = Callable[[Sequence[str], Sequence[str] | None], list[Row]]

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
_PAIRED = ("text-classification", "question-answering")
_LONGEST = 20_000  # tokens: a text that is to be cut is not made for models that read more
_TOKENS = 32  # added tokens, and tokens that differ, which texts are made of
_SHOWN = 60  # characters of a text in a message
_BATCH = 32

# Parts of tokenizer.json that the tokens do not depend on: the runtime cuts and pads by itself, and decodes nothing.
_IDLE = ("version", "truncation", "padding", "decoder")


@dataclass(frozen=True)
class Reading:
    """How one side of a comparison reads texts.

    Attributes:
        facts: what it does with texts and numbers, as JSON values by what a message calls them.
        about_texts: the facts that matter only where there is a tokenizer.
        tokenizer: of its tokenizer.json; None where it has none.
        encode: texts, or pairs of texts, to tokens. Empty rows where it refuses a text.
    """

    facts: Mapping[str, Any]
    about_texts: Mapping[str, Any]
    tokenizer: Tokenizer | None
    encode: Encode


def read_session(session: Session) -> Reading:
    """Say how an ONNX folder reads texts."""
    from losparse_runtime import TokenizerError
    from losparse_runtime.contract.fields import read_json

    metadata, encoder = session.metadata, session.encoder
    config = session.folder / "config.json"
    facts = {
        "labels": None if session.labels is None else list(session.labels),
        "pooling": metadata.pooling,
        "normalize": metadata.normalize,
        **{f"embedding.{name}": value for name, value in asdict(metadata.embedding).items()},
        **{f"{name} of config.json": value for name, value in asdict(session.config).items()},
    }
    if session.labels is not None and config.is_file():
        facts["id2label of config.json"] = read_json(config).data.get("id2label")
    if not (session.folder / "tokenizer.json").is_file():
        return Reading(facts, {}, None, lambda texts, pairs: [])
    try:
        pad_id = encoder.pad_id
    except TokenizerError:  # it names none
        pad_id = None
    about_texts = {
        "max_length": session.max_length,
        "type_ids": metadata.type_ids,
        "padding_side": encoder.padding_side,
        "truncation_side": encoder.truncation_side,
        "the id of the padding token": pad_id,
    }
    return Reading(facts, about_texts, encoder.tokenizer, _session_encode(session))


def _session_encode(session: Session) -> Encode:
    from losparse_runtime import InputError
    from losparse_runtime.text.cuts import cuts_told_once

    def encode(texts: Sequence[str], pairs: Sequence[str] | None) -> list[Row]:
        try:
            with cuts_told_once(silent=True):  # that a text is cut is what is looked at here
                found = session.encoder.encodings(texts, pairs)
        except InputError:
            if len(texts) == 1:
                return [((), ())]
            return [row for i in range(len(texts)) for row in encode(texts[i : i + 1], pairs and pairs[i : i + 1])]
        blank = not session.metadata.type_ids
        return [(tuple(each.ids), tuple([0] * len(each.ids) if blank else each.type_ids)) for each in found]

    return encode


def differences(
    session: Session, reference: Reading, texts: tuple[Sequence[str], Sequence[str] | None] | None
) -> list[str]:
    """Compare how a folder and its reference read texts.

    Args:
        session: what is checked.
        reference: what is right by definition.
        texts: texts, and second texts or None, to compare on beside those that are always.

    Returns:
        A line for everything that differs, with the first text and token where the tokens do.
    """
    actual = read_session(session)
    found = _facts(actual.facts, reference.facts)
    if actual.tokenizer is None:
        logger.warning("%s has no tokenizer, so texts are not compared", session.folder)
        return found
    if reference.tokenizer is None:
        return [*found, "tokenizer.json: the reference has no tokenizer"]
    found += _facts(actual.about_texts, reference.about_texts)
    part = _first_difference(_parts(actual.tokenizer), _parts(reference.tokenizer), "")
    if part is not None:
        found.append(f"tokenizer.json: {part}")
    typed = any(spec.name == "token_type_ids" for spec in session.inputs)
    probes = _probes(session, actual.tokenizer, reference.tokenizer)
    lines = (_tokens(actual, reference, *each, typed=typed) for each in probes)
    found += [f"tokens: {line}" for line in [next((line for line in lines if line), None)] if line]
    if texts is not None and (line := _tokens(actual, reference, *texts, typed=typed)):
        found.append(f"tokens of the data: {line}")
    return found


def _facts(actual: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    lines = (_first_difference(value, reference[name], name) for name, value in actual.items() if name in reference)
    return [line for line in lines if line is not None]


def _first_difference(actual: Any, reference: Any, path: str, other: str = "the reference") -> str | None:
    """Say where two JSON values first differ; None where they are equal. The second is of what `other` names."""
    if actual == reference:
        return None
    if isinstance(actual, dict) and isinstance(reference, dict):
        for key in [*actual, *(key for key in reference if key not in actual)]:
            place = f"{path}.{key}" if path else str(key)
            if key not in reference or key not in actual:
                return f"{place} is {f'not in {other}' if key in actual else f'missing, {other} has it'}"
            if actual[key] != reference[key]:
                return _first_difference(actual[key], reference[key], place, other)
    if isinstance(actual, list) and isinstance(reference, list) and len(actual) == len(reference):
        index = next(i for i, (a, b) in enumerate(zip(actual, reference, strict=True)) if a != b)
        return _first_difference(actual[index], reference[index], f"{path}[{index}]", other)
    return f"{path} is {_show(actual)}, {other} has {_show(reference)}"


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _parts(tokenizer: Tokenizer) -> dict[str, Any]:
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
    if session.task in _PAIRED:
        yield [*texts, long, "a"], [*texts[1:], "b", "a", long]


def _tokens(
    actual: Reading, reference: Reading, texts: Sequence[str], pairs: Sequence[str] | None, *, typed: bool
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
    shown = _show(text) + ("" if pairs is None else " (the first of a pair)")
    return f"{count} of {len(texts)} texts differ, the first is {shown}: {_token(actual, reference, *first[1:])}"


def _token(actual: Reading, reference: Reading, ours: Row, theirs: Row) -> str:
    """Say which token of a text is the first that differs."""
    assert actual.tokenizer is not None and reference.tokenizer is not None, "both sides encoded a text"
    for place in range(max(len(ours[0]), len(theirs[0]))):
        one, other = (row[0][place] if place < len(row[0]) else None for row in (ours, theirs))
        if one != other:
            named = (
                "not there" if token is None else f"{token} {_show(side.id_to_token(token))}"
                for token, side in ((one, actual.tokenizer), (other, reference.tokenizer))
            )
            return f"token {place} is {next(named)}, in the reference {next(named)}"
    place = next(i for i, (one, other) in enumerate(zip(ours[1], theirs[1], strict=True)) if one != other)
    return f"token {place} has type {ours[1][place]}, in the reference {theirs[1][place]}"


def changed_description(session: Session) -> list[str]:
    """Compare losparse.json with what the model file carries of it; files of earlier writers carry nothing."""
    from losparse_runtime.contract.fields import read_json
    from losparse_runtime.contract.files import METADATA_FILE
    from losparse_runtime.contract.folder import DESCRIPTION_KEY

    carried, metadata = session.carried.get(DESCRIPTION_KEY), session.metadata
    written = {} if carried is None else json.loads(carried)
    if metadata.folder.alone:
        found = read_json(session.folder / METADATA_FILE).data
    else:
        found = metadata.folder.description(metadata.variant_name, metadata.graph_name)
    line = _first_difference({name: found.get(name) for name in written}, written, "", "the model file")
    return [] if line is None else [f"losparse.json: {line}"]
