"""An exported folder of a language model, as what is asked."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from ..contract.config import read_text_ends
from ..contract.fields import read_json
from ..contract.files import TOKENIZER_CONFIG_FILE
from ..contract.task import TASKS
from ..contract.tensors import MASK, TOKENS
from ..errors import InputError
from ..generation.prompts import tokens_of
from ..session import Session
from .rows import Ints


class FolderModel:
    """A session of a language model as a `Scored`: the logits of whole rows, without a cache.

    Args:
        session: of the folder.

    Raises:
        InputError: it is for another task.
    """

    def __init__(self, session: Session) -> None:
        task = TASKS[session.task]
        if not task.causal:
            raise InputError(
                f"{session.folder}: is for {task.name}, and predicts no text; give a folder of a language "
                "model, or measure this one on labelled texts (`losparse eval --data`)"
            )
        self.session = session
        (self._output,) = task.outputs

    @property
    def name(self) -> str:
        """See `Scored`."""
        return str(self.session.folder)

    @property
    def positions(self) -> int:
        """See `Scored`."""
        return self.session.max_length

    @cached_property
    def end(self) -> int | None:
        """See `Scored`: that of the tokenizer, or else the first one that generation ends at."""
        file = self.session.folder / TOKENIZER_CONFIG_FILE
        token = read_json(file).data.get("eos_token") if file.is_file() else None
        token = token.get("content") if isinstance(token, dict) else token
        known = self.session.encoder.tokenizer.token_to_id(token) if isinstance(token, str) else None
        return next(iter(read_text_ends(self.session.folder).ends), None) if known is None else known

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """See `Scored`."""
        return tokens_of(self.session.encoder, text, "text", special=special)

    def logits(self, ids: Ints, mask: Ints) -> NDArray[Any]:
        """See `Scored`."""
        return self.session.run(self.session.feed({TOKENS: ids, MASK: mask}))[self._output]
