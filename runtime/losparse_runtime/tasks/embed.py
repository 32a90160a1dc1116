"""One vector a text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.progress import Advance, unheard
from ..contract.task import TASKS, Task
from ..contract.tensors import Arrays
from ..errors import InputError
from ..text.encoder import text_list
from .base import Helper, Served, Table, Work, do, require
from .scoring import pool


def embed(
    session: Served,
    texts: str | Iterable[str],
    batch_size: int = 32,
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> NDArray[Any]:
    """Turn each text into one vector: with a prompt in front, pooled, scaled and cut as the folder's metadata says.

    Args:
        session: of a feature-extraction folder.
        texts: the texts; a bare string is one text.
        batch_size: texts in one run, >= 1.
        prompt_name: of one of the folder's prompts (`session.metadata.embedding.prompts`); its default one, or none
            where it has none.
        prompt: a text to put in front of every text instead; "" for none.

    Returns:
        float32 (texts, features), in order.

    Raises:
        InputError: the folder is for another task or records no pooling, or an argument is wrong.
        RunError: the model failed, or its outputs are not finite.
    """
    return do(session, embed_work(session, texts, prompt_name=prompt_name, prompt=prompt), batch_size)


def embed_work(
    session: Served,
    texts: str | Iterable[str],
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
    size: int | None = None,
) -> Work[NDArray[Any]]:
    """Tokenise what `embed` then runs.

    Args:
        session: see `embed`, as `texts`, `prompt_name` and `prompt`.
        texts: the texts.
        prompt_name: of one of the folder's prompts.
        prompt: a text to put in front instead.
        size: numbers of a vector that are kept, the first ones, where the folder keeps as many; None for its own.
    """
    require(session, HELPER.name)
    settings = session.metadata.embedding
    kept = settings.truncate_dim if size is None else size
    return pooled_work(session, text_list("texts", texts), prompt=settings.prompt(prompt, prompt_name), size=kept)


def pooled(
    session: Served,
    texts: Sequence[str],
    batch_size: int,
    *,
    prompt: str = "",
    size: int | None = None,
    max_length: int | None = None,
    advance: Advance = unheard,
) -> NDArray[Any]:
    """Turn each text into one vector, pooled and scaled as the folder's metadata says.

    Args:
        session: of a feature-extraction folder.
        texts: at least one.
        batch_size: texts in one run, >= 1.
        prompt: put in front of every text.
        size: numbers of a vector that are kept, the first ones; None for all.
        max_length: tokens kept of each text; None for all that the model reads.
        advance: is told of texts that are done.

    Returns:
        float32 (texts, features), in order.

    Raises:
        InputError: the folder records no pooling, or an argument is wrong.
        RunError: the model failed, or its outputs are not finite.
    """
    work = pooled_work(session, texts, prompt=prompt, size=size, max_length=max_length)
    return do(session, work, batch_size, advance)


def pooled_work(
    session: Served,
    texts: Sequence[str],
    *,
    prompt: str = "",
    size: int | None = None,
    max_length: int | None = None,
) -> Work[NDArray[Any]]:
    """Tokenise what `pooled` then runs."""
    metadata, (output,) = session.metadata, TASKS[session.task].outputs
    pooling = metadata.pooling
    if pooling is None:
        raise InputError(f"{session.folder}: records no pooling; use run() and pool {output!r}, or export it again")
    left_out = 0 if metadata.embedding.include_prompt or not prompt else session.encoder.prompt_length(prompt)
    encodings = session.encoder.encodings([prompt + text for text in texts], max_length=max_length)
    empty = next((index for index, each in enumerate(encodings) if len(each.ids) <= left_out), None)
    if empty is not None:
        raise InputError(f"text {empty} has no tokens behind its prompt, which alone are pooled; leave it out")

    def read(places: Sequence[int], outputs: Arrays, mask: NDArray[Any]) -> Sequence[NDArray[Any]]:
        hidden = outputs[output].astype(np.float32)
        return list(pool(hidden, mask, pooling, prompt=left_out, normalize=metadata.normalize)[:, :size])

    return Work(encodings, read, np.stack)


def token_vectors(
    session: Served,
    texts: Sequence[str],
    batch_size: int,
    *,
    prompt: str = "",
    max_length: int | None = None,
    advance: Advance = unheard,
) -> list[NDArray[Any]]:
    """Return the vectors of each text's tokens, those of the prompt and special ones too; see `pooled`.

    Returns:
        float32 (tokens, hidden) for each text, in order.

    Raises:
        InputError: an argument is wrong.
        RunError: the model failed, or its outputs are not finite.
    """
    (output,) = TASKS[session.task].outputs

    def read(places: Sequence[int], outputs: Arrays, mask: NDArray[Any]) -> list[NDArray[Any]]:
        hidden = outputs[output].astype(np.float32)
        return [each[real] for each, real in zip(hidden, mask.astype(bool), strict=True)]

    encodings = session.encoder.encodings([prompt + text for text in texts], max_length=max_length)
    return do(session, Work(encodings, read, list), batch_size, advance)


def _vectors(session: Served, texts: Sequence[str], batch_size: int, **asked: str | None) -> list[NDArray[Any]]:
    return list(embed(session, texts, batch_size, **asked))


def _table(task: Task, results: Sequence[NDArray[Any]], texts: Sequence[str]) -> Table:
    """One JSON list a text: a vector is for another program to read."""
    return Table((), [(json.dumps([float(f"{value:.8g}") for value in vector]),) for vector in results])


HELPER = Helper("embed", _vectors, _table, options=("prompt", "prompt_name"))
