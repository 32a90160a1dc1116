"""One vector a text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..contract.progress import Advance, unheard
from ..contract.task import TASKS, Task
from ..errors import InputError
from ..text.encoder import text_list
from .base import Helper, Served, Table, batches, require
from .scoring import pool

if TYPE_CHECKING:
    from tokenizers import Encoding


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
    require(session, HELPER.name)
    settings = session.metadata.embedding
    said = settings.prompt(prompt, prompt_name)
    return pooled(session, text_list("texts", texts), batch_size, prompt=said, size=settings.truncate_dim)


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
    metadata = session.metadata
    pooling = metadata.pooling
    if pooling is None:
        (output,) = TASKS[session.task].outputs
        raise InputError(f"{session.folder}: records no pooling; use run() and pool {output!r}, or export it again")
    left_out = 0 if metadata.embedding.include_prompt or not prompt else session.encoder.prompt_length(prompt)
    encodings = session.encoder.encodings([prompt + text for text in texts], max_length=max_length)
    empty = next((index for index, each in enumerate(encodings) if len(each.ids) <= left_out), None)
    if empty is not None:
        raise InputError(f"text {empty} has no tokens behind its prompt, which alone are pooled; leave it out")
    vectors: dict[int, NDArray[Any]] = {}
    for rows, hidden, mask in _hidden(session, encodings, batch_size):
        made = pool(hidden, mask, pooling, prompt=left_out, normalize=metadata.normalize)
        vectors.update(zip(rows, made[:, :size], strict=True))
        advance(len(rows))
    return np.stack([vectors[index] for index in range(len(texts))])


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
    encodings = session.encoder.encodings([prompt + text for text in texts], max_length=max_length)
    found: dict[int, NDArray[Any]] = {}
    for rows, hidden, mask in _hidden(session, encodings, batch_size):
        found.update((row, each[real.astype(bool)]) for row, each, real in zip(rows, hidden, mask, strict=True))
        advance(len(rows))
    return [found[index] for index in range(len(texts))]


def _hidden(
    session: Served, encodings: Sequence[Encoding], batch_size: int
) -> Iterator[tuple[list[int], NDArray[Any], NDArray[Any]]]:
    """Run encodings; yield the places of the batch's texts, the vectors of their tokens and the attention mask."""
    (output,) = TASKS[session.task].outputs
    for rows, outputs, mask in batches(session, encodings, batch_size):
        yield rows, outputs[output].astype(np.float32), mask


def _vectors(session: Served, texts: Sequence[str], batch_size: int, **asked: str | None) -> list[NDArray[Any]]:
    return list(embed(session, texts, batch_size, **asked))


def _table(task: Task, results: Sequence[NDArray[Any]], texts: Sequence[str]) -> Table:
    """One JSON list a text: a vector is for another program to read."""
    return Table((), [(json.dumps([float(f"{value:.8g}") for value in vector]),) for vector in results])


HELPER = Helper("embed", _vectors, _table, options=("prompt", "prompt_name"))
