"""One vector a text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.task import TASKS, Task
from ..errors import InputError
from ..text.encoder import text_list
from .base import Helper, Served, Table, batches, require
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
    require(session, HELPER.name)
    (output,) = TASKS[session.task].outputs
    metadata, settings = session.metadata, session.metadata.embedding
    if metadata.pooling is None:
        raise InputError(f"{session.folder}: records no pooling; use run() and pool {output!r}, or export it again")
    said = settings.prompt(prompt, prompt_name)
    left_out = 0 if settings.include_prompt or not said else session.encoder.prompt_length(said)
    encodings = session.encoder.encodings([said + text for text in text_list("texts", texts)])
    empty = next((index for index, each in enumerate(encodings) if len(each.ids) <= left_out), None)
    if empty is not None:
        raise InputError(f"text {empty} has no tokens behind its prompt, which alone are pooled; leave it out")
    vectors: dict[int, NDArray[Any]] = {}
    for rows, outputs, mask in batches(session, encodings, batch_size):
        hidden = outputs[output].astype(np.float32)
        pooled = pool(hidden, mask, metadata.pooling, prompt=left_out, normalize=metadata.normalize)
        vectors.update(zip(rows, pooled[:, : settings.truncate_dim], strict=True))
    return np.stack([vectors[index] for index in range(len(encodings))])


def _vectors(session: Served, texts: Sequence[str], batch_size: int, **asked: str | None) -> list[NDArray[Any]]:
    return list(embed(session, texts, batch_size, **asked))


def _table(task: Task, results: Sequence[NDArray[Any]], texts: Sequence[str]) -> Table:
    """One JSON list a text: a vector is for another program to read."""
    return Table((), [(json.dumps([float(f"{value:.8g}") for value in vector]),) for vector in results])


HELPER = Helper("embed", _vectors, _table, options=("prompt", "prompt_name"))
