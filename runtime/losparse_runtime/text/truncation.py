"""Tokenising with truncation, from several threads at once, and without reading what is cut off.

Truncation is a setting of a tokenizer, not an argument of its calls. So every truncation has a tokenizer of its own,
which is never changed after it was made: no lock is held while texts are tokenised, and a large one does not keep the
others waiting. They share the model, which is what takes memory.

A text that is far longer than what is kept of it is cut to a beginning first, where that gives the same tokens to the
last one. It does if the cut is at a space between two letters or digits of ASCII, the tokenizer splits every text
there before it looks for tokens, and the beginning has more tokens than are kept (`splits_at_spaces`). Other texts are
read whole, up to `MAX_CHARACTERS`.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..dependencies import import_tokenizers
from ..errors import InputError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Encoding, Tokenizer

MAX_CHARACTERS = 2_000_000
"""Characters of the longest text that is tokenised whole: tokens take about 200 bytes for each, so 0.4 GB."""

# Tokenizers kept for one truncation each; questions of other lengths have windows of another overlap.
_KEPT = 8

# Characters for each token that is kept: the first try at a beginning, and the texts that are worth one.
_FIRST_TRY, _WORTH_IT = 8, 16

# Of a pair, pieces of `length` tokens that overflow: 512 tokens take about 80 KB.
_MOST_PIECES = 4000

_CUT = re.compile(r"(?<=[A-Za-z0-9]) (?=[A-Za-z0-9])")

# Parts of a tokenizer by what they do to a text at such a space: nothing that depends on both sides of it.
_LOCAL_NORMALIZERS = {
    "BertNormalizer",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Precompiled",
    "Prepend",
    "Strip",
    "StripAccents",
}
_SPLITTING = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_SPLITTING_FURTHER = {"Digits", "Punctuation", "UnicodeScripts"}
_SEVERAL_SPACES = " {2,}"

Text = str | tuple[str, str]


@dataclass(frozen=True)
class Truncation:
    """How texts are cut.

    Attributes:
        length: tokens kept of a text or pair, special ones included.
        strategy: which text of a pair is cut.
        stride: tokens that what overflows has in common with what is before it.
        side: where a text is cut.
    """

    length: int
    strategy: Literal["longest_first", "only_first", "only_second"] = "longest_first"
    stride: int = 0
    side: Literal["left", "right"] = "right"


class Truncating:
    """A tokenizer that neither pads nor cuts, and what tokenises and cuts like it. Safe to use from several threads.

    Args:
        tokenizer: not changed here, and nobody else may change it.
        copy: makes another one of it.
    """

    def __init__(self, tokenizer: Tokenizer, copy: Callable[[Tokenizer], Tokenizer] | None = None) -> None:
        self.whole = tokenizer
        self._copy = copy or share
        self._by_truncation: OrderedDict[Truncation, Tokenizer] = OrderedDict()
        self._lock = threading.Lock()  # never held while a text is tokenised
        self._cuttable: bool | None = None

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, without special ones.

        Raises:
            InputError: the text is too long to be read whole.
        """
        check_size("text", text)
        # Of a batch of one: `encode` holds the interpreter's lock to the end.
        return len(self.whole.encode_batch([text], add_special_tokens=False)[0].ids)

    def encode(self, batch: Sequence[Text], truncation: Truncation) -> list[Encoding]:
        """Tokenise texts or pairs with special tokens, and cut them.

        Raises:
            InputError: a text is too long to be read whole, and cannot be cut before.
        """
        shortened = [self.beginning(text, truncation) for text in batch]
        for number, texts in enumerate(shortened):
            for each in [texts] if isinstance(texts, str) else texts:
                check_size(f"text {number}", each)
            if not isinstance(texts, str) and truncation.strategy == "longest_first":
                self._check_pair(number, texts, truncation.length)
        return self._truncating(truncation).encode_batch(shortened)

    def _check_pair(self, number: int, pair: tuple[str, str], length: int) -> None:
        """Refuse a pair whose overflow is too large: the library keeps every piece of one text with every other's."""
        if min(map(len, pair)) <= _WORTH_IT * length:
            return
        pieces = [2 * self.count(text) // length for text in pair]
        if pieces[0] * pieces[1] > _MOST_PIECES:
            raise InputError(
                f"pair {number} has two texts of far more than {length} tokens, and they cannot be cut before they are "
                "tokenised; shorten one"
            )

    def _truncating(self, truncation: Truncation) -> Tokenizer:
        with self._lock:
            found = self._by_truncation.get(truncation)
            if found is None:
                found = self._copy(self.whole)
                found.enable_truncation(
                    truncation.length,
                    stride=truncation.stride,
                    strategy=truncation.strategy,
                    direction=truncation.side,
                )
                self._by_truncation[truncation] = found
            self._by_truncation.move_to_end(truncation)
            if len(self._by_truncation) > _KEPT:
                self._by_truncation.popitem(last=False)
            return found

    def beginning(self, text: Text, truncation: Truncation) -> Text:
        """Cut a text, or the longer one of a pair, to a beginning of which the same tokens are kept.

        Texts that are not far longer than that, or of a tokenizer or truncation that allows no cut, stay as they are.
        """
        worth_it = _WORTH_IT * truncation.length
        first, second = (text, None) if isinstance(text, str) else text
        if max(len(first), len(second or "")) <= worth_it or not self._may_cut(truncation):
            return text
        if second is None:
            return self._cut(first, truncation.length)
        if min(len(first), len(second)) > worth_it:
            return self._cut_both(first, second, truncation.length)
        # The longer one must stay the longer one: then it is the one that is cut, and by the same number of tokens.
        if len(first) > len(second):
            return self._cut(first, max(truncation.length, self.count(second))), second
        return first, self._cut(second, max(truncation.length, self.count(first)))

    def _cut_both(self, first: str, second: str, tokens: int) -> tuple[str, str]:
        """Cut both texts of a pair. Half of what is kept is of each; of an odd number, one more of the longer one."""
        if self.count(first) > self.count(second):
            second = self._cut(second, tokens)
            return self._cut(first, max(tokens, self.count(second))), second
        first = self._cut(first, tokens)
        return first, self._cut(second, max(tokens, self.count(first)))

    def _may_cut(self, truncation: Truncation) -> bool:
        if truncation.side != "right" or truncation.strategy != "longest_first":
            return False
        if self._cuttable is None:
            self._cuttable = splits_at_spaces(self.whole)
        return self._cuttable

    def _cut(self, text: str, tokens: int) -> str:
        """Return a beginning of the text of more than so many tokens, or all of it."""
        size = _FIRST_TRY * tokens
        while size < len(text):
            place = _CUT.search(text, size)
            if place is None or place.start() > MAX_CHARACTERS:
                return text
            beginning = text[: place.start()]
            if self.count(beginning) > tokens:
                return beginning
            size = 4 * place.start()
        return text


def share(tokenizer: Tokenizer) -> Tokenizer:
    """Make another tokenizer of the same parts, which keeps its own truncation and padding."""
    kind: Any = import_tokenizers().Tokenizer
    copy: Tokenizer = kind(tokenizer.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if getattr(tokenizer, part) is not None:
            setattr(copy, part, getattr(tokenizer, part))
    copy.encode_special_tokens = tokenizer.encode_special_tokens
    added = tokenizer.get_added_tokens_decoder()
    for _, token in sorted(added.items()):
        copy.add_special_tokens([token]) if token.special else copy.add_tokens([token])
    if _described(copy.get_added_tokens_decoder()) == _described(added):
        return copy
    # Ids with gaps between them, say, which adding does not give again: a whole copy, which takes memory.
    whole: Tokenizer = kind.from_str(tokenizer.to_str())
    return whole


def _described(added: Mapping[int, AddedToken]) -> dict[int, str]:
    """Describe added tokens by id, flags included: as objects they are equal where their contents are."""
    return {place: repr(token) for place, token in added.items()}


def splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Tell whether what stands before a space between two letters has the same tokens whatever stands behind it."""
    if any(re.search(r"\s", token.content) for token in tokenizer.get_added_tokens_decoder().values()):
        return False  # found in a text before it is split
    normalizers, splitters = (_parts(part) for part in (tokenizer.normalizer, tokenizer.pre_tokenizer))
    return normalizers is not None and splitters is not None and _local(normalizers) and _splits(splitters)


def _parts(part: Any) -> list[dict[str, Any]] | None:
    """Return the steps of a normalizer or pre-tokenizer as tokenizer.json has them; None where that cannot be said."""
    if part is None:
        return []
    try:
        state: dict[str, Any] = json.loads(part.__getstate__())
    except Exception:  # the Rust side raises plain Exception, for parts written in Python
        return None
    return _flat(state)


def _flat(state: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [*state.get("normalizers", []), *state.get("pretokenizers", [])]
    return [step for each in inner for step in _flat(each)] if state.get("type") == "Sequence" else [state]


def _local(normalizers: Sequence[dict[str, Any]]) -> bool:
    return all(step.get("type") in _LOCAL_NORMALIZERS or _replaces_locally(step) for step in normalizers)


def _replaces_locally(step: dict[str, Any]) -> bool:
    """Tell whether a step replaces what holds no single space: "  " or "``", say."""
    if step.get("type") != "Replace":
        return False
    pattern = step["pattern"]
    return pattern.get("Regex") == _SEVERAL_SPACES or not re.search(r"\s|^$", pattern.get("String", ""))


def _splits(splitters: Sequence[dict[str, Any]]) -> bool:
    """Tell whether one of the steps splits at every space, and no step before it hides the space."""
    split = False
    for step in splitters:
        kind = step.get("type")
        if kind in _SPLITTING:
            split = True
        elif kind == "ByteLevel":
            split = split or step.get("use_regex", True)
        elif kind == "Metaspace":
            split = split or step.get("split", True)
        elif kind not in _SPLITTING_FURTHER:
            return False
        if not split and kind not in _SPLITTING_FURTHER:
            return False
    return split


def check_size(name: str, text: str) -> None:
    """Refuse a text that takes too much memory to be read whole.

    Args:
        name: what messages call it.
        text: the text.

    Raises:
        InputError: it has more than `MAX_CHARACTERS`.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"{name} has {len(text):,} characters, and must have at most {MAX_CHARACTERS:,} where it cannot be cut "
            "before it is tokenised; split it"
        )
