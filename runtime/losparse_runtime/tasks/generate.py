"""Prompts continued: token by token, by a language model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, Unpack

from ..contract.task import Task
from ..generation.loop import Generation
from ..generation.model import BATCH_SIZE, LanguageModel
from ..generation.prompts import Prompt
from ..generation.settings import Choices
from ..generation.streaming import TextStream
from .base import Helper, Served, Table, check_count, require


class Speaking(Served, Protocol):
    """What generation needs of a `Session`."""

    @property
    def language_model(self) -> LanguageModel:
        """What continues prompts."""


def generate(
    session: Speaking, prompts: Prompt | Iterable[Prompt], batch_size: int = BATCH_SIZE, **choices: Unpack[Choices]
) -> list[Generation]:
    """Continue prompts until each has ended, or has as many tokens as it may.

    Args:
        session: of a folder of a language model.
        prompts: texts, lists of token ids, or conversations; each a prompt. A conversation is a list of messages as in
            {"role": "user", "content": "Hello"}, which the folder's chat template writes down. One prompt alone need
            not stand in a list. An empty text is the token that begins a text.
        batch_size: prompts that are continued together, >= 1. Each gets what it would get alone, but for the order of
            sums.
        choices: as `GenerationSettings` has them: max_new_tokens, temperature, top_k, top_p, min_p,
            repetition_penalty, seed, stop, stop_tokens.

    Returns:
        One result a prompt, in order.

    Raises:
        InputError: the folder is for another task, or an argument is wrong; a prompt is empty and the model has no
            token to begin with, holds tokens that it has not, or is too long for its positions.
        TokenizerError: a prompt is a text, and the folder has no usable tokenizer.
        FolderError: the chat template is needed and damaged.
        DependencyError: tokenizers is not installed, or jinja2 for a conversation.
        RunError: the model failed, or its logits are not numbers.
    """
    require(session, HELPER.name)
    check_count("batch_size", batch_size, 1)
    return session.language_model.generate(prompts, batch_size, choices)


def stream(session: Speaking, prompt: Prompt, **choices: Unpack[Choices]) -> TextStream:
    """Continue one prompt, and give the text piece by piece as it is written.

    Args:
        session: of a folder of a language model.
        prompt: as one of `generate`.
        choices: as of `generate`.

    Raises:
        InputError: as `generate`, or there is more than one prompt.
        TokenizerError: the folder has no usable tokenizer.
        FolderError: see `generate`; so is DependencyError. What fails later the iterator raises.
    """
    require(session, HELPER.name)
    return session.language_model.stream(prompt, choices)


def _run(session: Speaking, prompts: Sequence[str], batch_size: int = BATCH_SIZE, **asked: Any) -> list[Generation]:
    """Do the same for callers that give None for what was not asked."""
    choices: Any = {name: value for name, value in asked.items() if value is not None}
    return generate(session, prompts, batch_size, **choices)


def _table(task: Task, results: Sequence[Generation], texts: Sequence[str]) -> Table:
    """One line of JSON a prompt: a text may have lines of its own."""
    return Table((), [(as_json(each),) for each in results])


def as_json(result: Generation) -> str:
    """Write a result as one line."""
    return json.dumps(
        {
            "text": result.text,
            "finish_reason": result.finish_reason,
            "prompt_tokens": result.prompt_tokens,
            "new_tokens": len(result.tokens),
        },
        ensure_ascii=False,
    )


HELPER = Helper("generate", _run, _table, options=tuple(Choices.__annotations__))
