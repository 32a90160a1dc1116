"""Prompts as callers give them - texts, token ids, conversations - as the token ids that the model reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from ..errors import InputError, LosparseRuntimeError, one_line
from ..text.encoder import TextEncoder, text_list
from ..text.panics import panics_caught
from ..text.truncation import check_size
from .chat import ChatTemplate
from .settings import MOST_BY_DEFAULT

Message = Mapping[str, Any]
Prompt = str | Sequence[int] | Sequence[Message]
"""A text, ids of tokens, or messages as in {"role": "user", "content": "Hello"}."""

FORMS = "a text, a list of token ids, or a list of messages as in {'role': 'user', 'content': 'Hello'}"


def listed(prompts: object) -> list[object]:
    """Return the prompts of a call, which may be a single one.

    Raises:
        InputError: there is none, or they are no prompts.
    """
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, Iterable) or isinstance(prompts, bytes | Mapping):
        raise InputError(f"a prompt must be {FORMS}, got {type(prompts).__name__}")
    found = list(prompts)
    if not found:
        raise InputError("prompts must hold at least one prompt, got an empty list")
    return [found] if isinstance(found[0], int | np.integer | Mapping) else found


class PromptReader:
    """Makes token ids of prompts.

    Args:
        encoder: of the folder.
        chat: of the folder.
        begin: the token that an empty prompt becomes; None where the model has none.
        vocabulary: tokens that the model has; None where nobody says.
        positions: that the model has.
    """

    def __init__(
        self, encoder: TextEncoder, chat: ChatTemplate, *, begin: int | None, vocabulary: int | None, positions: int
    ) -> None:
        self._encoder = encoder
        self._chat = chat
        self._begin = begin
        self._vocabulary = vocabulary
        self._positions = positions

    def read(self, prompt: object, name: str = "prompt") -> list[int]:
        """Return the ids of one prompt, special ones included where the tokenizer adds some.

        A conversation is written down by the folder's template, which writes special tokens itself.

        Args:
            prompt: a text, ids, or messages.
            name: what errors call it.

        Raises:
            InputError: it is something else; or it is empty, holds tokens that the model has not, or leaves no position
                for a new one.
            TokenizerError: it is a text, and the folder has no usable tokenizer.
            FolderError: it is a conversation, and the folder's template is damaged.
            DependencyError: tokenizers is not installed, or jinja2 for a conversation.
        """
        ids = self._ids(prompt, name) or self._empty(name)
        if self._vocabulary is not None:
            unknown = next((each for each in ids if each >= self._vocabulary), None)
            if unknown is not None:
                raise InputError(f"{name} holds token {unknown}, the model has the tokens 0..{self._vocabulary - 1}")
        if len(ids) >= self._positions:
            raise InputError(
                f"{name} has {len(ids)} tokens, the model has {self._positions} positions, of which a new token needs "
                "one; shorten it"
            )
        return ids

    def room(self, ids: Sequence[int], wanted: int | None, name: str = "prompt") -> int:
        """Return how many tokens may be added to a prompt.

        Args:
            ids: of the prompt.
            wanted: as many as these; None for what is usual.
            name: what errors call it.

        Raises:
            InputError: so many have no positions.
        """
        left = self._positions - len(ids)
        if wanted is None:
            return min(MOST_BY_DEFAULT, left)
        if wanted > left:
            raise InputError(
                f"max_new_tokens must be in 1..{left} for {name}: it has {len(ids)} tokens, the model has "
                f"{self._positions} positions, got {wanted}"
            )
        return wanted

    def _ids(self, prompt: object, name: str) -> list[int]:
        if isinstance(prompt, str):
            (text,) = text_list(name, prompt)
            return tokens_of(self._encoder, text, name)
        if not isinstance(prompt, Sequence | np.ndarray):
            raise InputError(f"{name} must be {FORMS}, got {type(prompt).__name__}")
        items: list[Any] = list(cast(Sequence[Any], prompt))
        if items and all(isinstance(each, Mapping) for each in items):
            return tokens_of(self._encoder, self._chat.render(items, name), name, special=False)
        for place, each in enumerate(items):
            if not isinstance(each, int | np.integer) or isinstance(each, bool) or each < 0:
                raise InputError(f"{name} must be {FORMS}, got {each!r} at {place}")
        return [int(each) for each in items]

    def _empty(self, name: str) -> list[int]:
        if self._begin is None:
            raise InputError(f"{name} is empty, and the model has no token that begins a text; give it some text")
        return [self._begin]


def tokens_of(encoder: TextEncoder, text: str, name: str = "prompt", *, special: bool = True) -> list[int]:
    """Tokenise a whole text.

    Args:
        encoder: of the folder.
        text: it may be empty.
        name: what errors call it.
        special: add the special tokens that the tokenizer adds to a text.

    Raises:
        InputError: it is too long to be tokenised at all, or the tokenizer refuses it.
        TokenizerError: the folder has no usable tokenizer.
        DependencyError: tokenizers is not installed.
    """
    check_size(name, text)
    try:
        with panics_caught():
            # Of a batch of one: `encode` holds the interpreter's lock to the end.
            return list(encoder.tokenizer.encode_batch([text], add_special_tokens=special)[0].ids)
    except LosparseRuntimeError:
        raise
    except Exception as error:  # the Rust side raises plain Exception
        raise InputError(f"the tokenizer refuses {name}: {one_line(error)}") from error
