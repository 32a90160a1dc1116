"""What a caller asks for: a task on texts, or a run of tensors; and what it is told, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.task import TASKS
from ..contract.tensors import Arrays
from ..errors import InputError
from ..session import Session
from ..tasks.answer import answer_work
from ..tasks.base import Work
from ..tasks.classify import classify_work
from ..tasks.embed import embed_work
from ..tasks.rank import rank_work
from ..tasks.tag import tag_work

_WORKS: dict[str, tuple[Callable[..., Work[Any]], tuple[str, ...], tuple[str, ...]]] = {
    "classify": (classify_work, ("texts",), ("pairs",)),
    "tag": (tag_work, ("texts",), ("words",)),
    "answer": (answer_work, ("question", "context"), ("max_tokens", "stride", "may_be_none")),
    "rank": (rank_work, ("query", "texts"), ()),
    "embed": (embed_work, ("texts",), ("prompt", "prompt_name")),
}
"""Of every helper of `Session`: what tokenises for it, what must be asked, and what may be."""
_INPUTS = "inputs"


def prepare(session: Session, asked: Mapping[str, Any], most: int) -> Work[Any]:
    """Tokenise what is asked.

    Args:
        session: of the folder whose task it is.
        asked: arguments by name, as the helper of the task has them: {"texts": [...]} for most.
        most: texts that it may be, or windows over a context.

    Raises:
        InputError: one is missing, unknown or wrong, or there are too many texts.
    """
    helper = TASKS[session.task].helper
    if helper == "rank" and "query" not in asked:
        helper = "classify"  # which gives a regression's number for each text
    if helper not in _WORKS:
        raise InputError(f"{session.folder} does {session.task}, which takes no texts; send {_INPUTS!r}")
    work, needed, optional = _WORKS[helper]
    wrong = [name for name in needed if name not in asked] or [name for name in asked if name not in needed + optional]
    if wrong:
        taken = ", ".join(needed) + (f", and may take {', '.join(optional)}" if optional else "")
        raise InputError(f"{helper} takes {taken}; got {', '.join(asked) or 'nothing'}")
    texts = asked.get("texts")
    check_rows(len(texts) if isinstance(texts, list | tuple) else 1, most)  # before they are tokenised
    made = work(session, **asked)
    check_rows(len(made.encodings), most)
    return made


def check_rows(rows: int, most: int) -> None:
    """Refuse a request of too many texts, windows or rows of tensors.

    Raises:
        InputError: there are more than `most`.
    """
    if rows > most:
        raise InputError(
            f"a request must have at most {most} texts, windows of a context or rows, got {rows}; send less"
        )


def read_body(content: bytes) -> dict[str, Any]:
    """Read the body of a request.

    Raises:
        InputError: it is no JSON object.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body must be JSON ({error})") from None
    if not isinstance(body, dict):
        raise InputError(f'the body must be an object, as in {{"texts": ["a fine film"]}}, got {type(body).__name__}')
    return body


def tensors_of(session: Session, body: Mapping[str, Any]) -> Arrays | None:
    """Return the tensors of a body, of the types that the model takes; None where it holds texts.

    Raises:
        InputError: one is no rectangle of numbers, or there is something beside them.
    """
    if _INPUTS not in body:
        return None
    given = body[_INPUTS]
    if len(body) > 1 or not isinstance(given, dict):
        raise InputError(f"{_INPUTS!r} must be an object of lists by the name of an input, and stand alone")
    kinds = {spec.name: spec.dtype for spec in session.inputs}
    return {name: _array(name, value, kinds.get(name, "int64")) for name, value in given.items()}


def _array(name: str, value: Any, dtype: str) -> NDArray[Any]:
    try:
        plain = np.asarray(value)
    except ValueError:  # lists of different lengths
        plain = np.asarray(None)
    if plain.dtype.kind not in "biuf" or (dtype.startswith("int") and plain.dtype.kind == "f"):
        raise InputError(f"input {name} must be lists of numbers of one length, of type {dtype}")
    return plain.astype(dtype)


def plain(result: Any) -> Any:
    """Return a result as JSON values."""
    if isinstance(result, np.ndarray | np.generic):
        return result.tolist()
    if isinstance(result, Mapping):
        return {str(name): plain(value) for name, value in result.items()}
    if isinstance(result, list | tuple):
        return [plain(each) for each in result]
    return plain(asdict(result)) if is_dataclass(result) and not isinstance(result, type) else result
