"""Texts to token ids, with the folder's own tokenizer and nothing but the `tokenizers` package."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..contract.fields import read_json
from ..contract.files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from ..contract.inside import MIB, read_inside
from ..contract.tensors import MASK, TOKENS, TYPES, Arrays
from ..dependencies import import_tokenizers
from ..errors import FolderError, InputError, LosparseRuntimeError, TokenizerError, one_line
from .cuts import count_cuts
from .panics import PanicError, panics_caught
from .truncation import Truncating, Truncation, check_size

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

logger = logging.getLogger(__name__)

_MOST_BYTES = 256 * MIB
"""Of a `tokenizer.json`; one of 256,000 words has 35 MiB."""


class TextEncoder:
    """The tokenizer of an exported folder. Safe to use from several threads.

    Truncation and padding saved in `tokenizer.json` are ignored: they belong to the training run that saved it.

    Args:
        folder: an exported ONNX folder.
        max_length: positions the model has, in tokens.
        pad_token_id: the padding id of the model's configuration, for a tokenizer that names none.
        type_ids: tell the second text of a pair by its token types; where training did not, all are 0.
        vocab_size: tokens that the model has; None where that is not known.
    """

    def __init__(
        self,
        folder: Path,
        max_length: int,
        pad_token_id: int | None,
        type_ids: bool = True,
        vocab_size: int | None = None,
    ) -> None:
        self.folder = folder
        self.max_length = max_length
        self._model_pad_id = pad_token_id
        self._type_ids = type_ids
        self._vocab_size = vocab_size
        self._opened: Truncating | None = None
        self._lock = threading.Lock()  # for opening the tokenizer once; never held while texts are tokenised

    def encodings(
        self, texts: str | Iterable[str], pairs: str | Iterable[str] | None = None, max_length: int | None = None
    ) -> list[Encoding]:
        """Tokenize texts, or text pairs, with special tokens and without padding.

        Args:
            texts: the texts; a bare string is one text.
            pairs: the second text of each pair.
            max_length: tokens kept of each text or pair, special tokens included; all the model's positions by
                default. Longer ones are cut, the longer text of a pair first, and how many is logged (see `cuts`).

        Returns:
            One encoding a text, in order.

        Raises:
            InputError: something that is not a text, no text at all, lists of different lengths, a bad max_length, or
                a text of more than `truncation.MAX_CHARACTERS` that must be read whole.
            TokenizerError: the folder has no usable tokenizer.
            DependencyError: tokenizers is not installed.
        """
        firsts = text_list("texts", texts)
        batch: list[Any] = list(firsts)
        if pairs is not None:
            seconds = text_list("pairs", pairs)
            if len(seconds) != len(firsts):
                raise InputError(f"pairs must have one text for each of the {len(firsts)} texts, got {len(seconds)}")
            batch = list(zip(firsts, seconds, strict=True))
        length = self._length(max_length, pair=pairs is not None)
        encodings = self._encode(batch, Truncation(length, side=self.truncation_side))
        count_cuts(sum(bool(encoding.overflowing) for encoding in encodings), len(encodings), length)
        for index, encoding in enumerate(encodings):
            if not encoding.ids:
                raise InputError(f"text {index} gives no tokens; leave it out")
        return encodings

    def windows(self, question: str, context: str, stride: int, max_length: int | None = None) -> list[Encoding]:
        """Tokenize a question with a context of any length, as overlapping windows over the context.

        Args:
            question: the first text of every window, kept whole.
            context: the second text.
            stride: tokens of overlap between windows, >= 0; at most half the room for the context is used.
            max_length: tokens in a window.

        Returns:
            The windows in order; offsets count characters of the whole context.

        Raises:
            InputError: an argument is not text, or longer than `truncation.MAX_CHARACTERS`, or the question leaves no
                room for the context.
            TokenizerError: the folder has no usable tokenizer.
            DependencyError: tokenizers is not installed.
        """
        text_list("question", [question])
        text_list("context", [context])
        length = self._length(max_length, pair=True)
        check_size("question", question)
        check_size("context", context)
        asked = self._count(question)
        room = length - asked - self.tokenizer.num_special_tokens_to_add(True)
        if room < 1:
            raise InputError(
                f"question has {asked} tokens, which leaves no room for the context in {length}; shorten it"
            )
        # A stride of the whole room or more makes tokenizers panic, past every `except Exception`.
        stride = min(stride, room // 2)
        first = self._encode([(question, context)], Truncation(length, "only_second", stride, self.truncation_side))[0]
        return [first, *first.overflowing]

    def prompt_length(self, prompt: str) -> int:
        """Count the tokens that a prompt puts at the start of a text, special ones in front of it included.

        Raises:
            InputError: it leaves no room for a text.
            TokenizerError: the folder has no usable tokenizer.
            DependencyError: tokenizers is not installed.
        """
        ids = self.encodings(prompt)[0].ids
        special = {number for number, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}
        length = len(ids) - (ids[-1] in special)  # the special token that ends every text
        if length >= self.max_length - 1:
            raise InputError(
                f"prompt has {length} tokens, which leaves no room for a text in {self.max_length}; shorten it"
            )
        return length

    def _count(self, text: str) -> int:
        """Tokens of a whole text, without special ones."""
        try:
            with panics_caught():
                return self._truncating.count(text)
        except Exception as error:  # the Rust side raises plain Exception
            raise _refused(error) from error

    def arrays(self, encodings: Sequence[Encoding]) -> Arrays:
        """Pad encodings to the longest of them.

        Returns:
            `input_ids`, `attention_mask` and `token_type_ids`, each int64 (batch, sequence).

        Raises:
            TokenizerError: padding is needed and the folder names no padding token.
        """
        length = max(len(encoding.ids) for encoding in encodings)
        short = any(len(encoding.ids) < length for encoding in encodings)
        shape = (len(encodings), length)
        ids = np.full(shape, self.pad_id if short else 0, np.int64)
        mask, types = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, encoding in enumerate(encodings):
            size = len(encoding.ids)
            columns = slice(length - size, length) if self.padding_side == "left" else slice(0, size)
            ids[row, columns] = encoding.ids
            mask[row, columns] = 1
            if self._type_ids:
                types[row, columns] = encoding.type_ids
        return {TOKENS: ids, MASK: mask, TYPES: types}

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which neither pads nor cuts; threads share it, so it must not be changed.

        Raises:
            TokenizerError: `tokenizer.json` is missing or damaged.
            DependencyError: tokenizers is not installed.
        """
        return self._truncating.whole

    @property
    def _truncating(self) -> Truncating:
        """The tokenizer and what cuts like it, opened at the first use: a session fed with token ids needs none."""
        with self._lock:
            if self._opened is None:
                self._opened = Truncating(self._open())
            return self._opened

    def probe(self) -> None:
        """Open the tokenizer and tokenize a text, to know early whether it works at all.

        Raises:
            TokenizerError: `tokenizer.json` is missing or damaged, or makes the package panic.
            DependencyError: tokenizers is not installed.
        """
        try:
            with panics_caught():
                self.tokenizer.encode("a")
        except PanicError as error:
            raise TokenizerError(
                f"{self.folder / TOKENIZER_FILE}: tokenizers panics of it ({one_line(error)}); save the tokenizer again"
            ) from error
        except LosparseRuntimeError:
            raise
        except Exception as error:  # the Rust side raises plain Exception: it may have no token for this text alone
            logger.info("%s: has no tokens for 'a': %s", self.folder, one_line(error))

    def forget(self) -> None:
        """Let go of the tokenizer; whoever tokenises after that opens it once more."""
        self._opened = None

    def load(self) -> None:
        """Read what the folder has of a tokenizer now, so that nothing is read later.

        Raises:
            TokenizerError: `tokenizer.json` is damaged.
            FolderError: `tokenizer_config.json` is.
            DependencyError: tokenizers is not installed.
        """
        if (self.folder / TOKENIZER_FILE).is_file():
            _ = self._truncating
        _ = self._settings

    def _open(self) -> Tokenizer:
        file = self.folder / TOKENIZER_FILE
        if not file.is_file():
            raise TokenizerError(
                f"{self.folder}: has no {TOKENIZER_FILE}, so texts cannot be encoded; "
                "export from a folder that has a tokenizer, or give token ids to run()"
            )
        tokenizers = import_tokenizers()
        try:
            content = read_inside(self.folder, TOKENIZER_FILE, _MOST_BYTES)
            with panics_caught():
                tokenizer: Tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except FolderError as error:
            raise TokenizerError(str(error)) from error
        except Exception as error:  # the Rust side raises plain Exception
            raise TokenizerError(
                f"{file}: tokenizers cannot read it ({one_line(error)}); export the folder again"
            ) from error
        most = self._vocab_size
        if most is not None and (tokenizer.get_vocab_size() > most or tokenizer.id_to_token(most) is not None):
            raise TokenizerError(
                f"{file}: has {tokenizer.get_vocab_size()} tokens and numbers beyond the model's {most}: it belongs to "
                "another model, or has tokens that were added after training; give the folder the model's own"
            )
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @cached_property
    def pad_id(self) -> int:
        """The id that fills short rows.

        Raises:
            TokenizerError: neither the tokenizer nor the model's configuration names one.
        """
        token = self._settings.get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        found = self.tokenizer.token_to_id(token) if isinstance(token, str) else None
        found = self._model_pad_id if found is None else found
        if found is None:
            raise TokenizerError(
                f"{self.folder}: names no padding token, so texts of different lengths cannot share a batch; "
                f"set pad_token in {TOKENIZER_CONFIG_FILE}, or encode one text at a time"
            )
        return found

    @cached_property
    def _settings(self) -> dict[str, Any]:
        file = self.folder / TOKENIZER_CONFIG_FILE
        return read_json(file).data if file.is_file() else {}

    @property
    def padding_side(self) -> Literal["left", "right"]:
        """Where short rows are filled: "left" or "right"."""
        return "left" if self._settings.get("padding_side") == "left" else "right"

    @property
    def truncation_side(self) -> Literal["left", "right"]:
        """Where long texts are cut: "left" or "right"."""
        return "left" if self._settings.get("truncation_side") == "left" else "right"

    def _length(self, max_length: int | None, pair: bool) -> int:
        """The token limit of a call: room for the special tokens and one more, at most the model's positions."""
        least = self.tokenizer.num_special_tokens_to_add(pair) + 1
        max_length = self.max_length if max_length is None else max_length
        if (
            not isinstance(max_length, int)
            or isinstance(max_length, bool)
            or not least <= max_length <= self.max_length
        ):
            raise InputError(f"max_length must be in {least}..{self.max_length}, got {max_length!r}")
        return max_length

    def _encode(self, batch: list[Any], truncation: Truncation) -> list[Encoding]:
        try:
            with panics_caught():
                return self._truncating.encode(batch, truncation)
        except Exception as error:  # the Rust side raises plain Exception
            raise _refused(error) from error


def _refused(error: Exception) -> LosparseRuntimeError:
    """What to raise for texts that the tokenizer does not take; this package's own errors stay as they are."""
    if isinstance(error, LosparseRuntimeError):
        return error
    return InputError(f"the tokenizer refuses these texts: {one_line(error)}")


def text_list(name: str, texts: object) -> list[str]:
    """Make a list of texts out of what a caller gave; one string is one text.

    Raises:
        InputError: it is not a string or a collection of strings, holds none, or one is not valid Unicode.
    """
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping):
        raise InputError(f"{name} must be a string or a list of strings, got {type(texts).__name__}")
    listed = list(texts)
    if not listed:
        raise InputError(f"{name} must hold at least one text, got an empty list")
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise InputError(f"{name} must hold strings only, got {type(text).__name__} at {index}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"{name} must be valid Unicode, text {index} is not ({one_line(error)})") from error
    return listed
