"""A folder's language model, ready to continue prompts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ..contract.config import read_text_ends
from ..contract.metadata import Metadata
from ..contract.signature import Signature
from ..contract.task import TASKS
from ..contract.variant import DEFAULT_PROVIDER
from ..errors import InputError, TokenizerError
from ..text.encoder import TextEncoder
from .chat import ChatTemplate
from .decoders import new_decoder
from .graph import Graph
from .loop import Generation, Row, continue_rows
from .prompts import PromptReader, listed
from .sampling import Chooser
from .settings import Choices, GenerationSettings
from .streaming import TextStream
from .text import Decode, Text, decoding

BATCH_SIZE = 8
"""Prompts that are continued together by default: their states are in memory at the same time."""

Use = Callable[[], AbstractContextManager[Any]]


class Open(Protocol):
    """What a language model needs of a `Session`."""

    @property
    def folder(self) -> Path:
        """The exported folder."""

    @property
    def metadata(self) -> Metadata:
        """What `losparse.json` says of the graph and the variant that are open."""

    @property
    def signature(self) -> Signature:
        """What the graph takes, returns and keeps."""

    @property
    def encoder(self) -> TextEncoder:
        """From texts to tokens."""

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers, in order."""

    @property
    def runs_alone(self) -> bool:
        """Whether every text is run by itself."""


class LanguageModel:
    """Continues prompts. Nothing of it changes; every call has a decoder of its own, so threads may share it.

    Args:
        session: of a folder of a language model; it is not kept.
        use: gives the onnxruntime session for one call.
        device: where tensors are kept; see `engine.running.device_of`.

    Raises:
        InputError: the graph keeps nothing of earlier tokens.
        FolderError: a file of the folder is damaged.
    """

    def __init__(self, session: Open, use: Use, device: tuple[str, int]) -> None:
        self._folder = session.folder
        self._encoder = session.encoder
        self._graph = _graph(session, use, device)
        self._alone = session.runs_alone
        ends = read_text_ends(session.folder)
        self._ends = ends.ends
        self._reader = PromptReader(
            session.encoder,
            ChatTemplate(session.folder),
            begin=ends.begin,
            vocabulary=session.signature.vocabulary.size,
            positions=session.metadata.max_length,
        )

    def generate(self, prompts: object, batch_size: int, choices: Choices) -> list[Generation]:
        """See `tasks.generate.generate`."""
        settings = GenerationSettings(**choices)
        rows = self._rows(listed(prompts), settings)
        size = 1 if self._alone else batch_size
        # Of neighbours of one length prompts are run together, and shorter ones need little padding.
        order = sorted(rows, key=lambda row: -len(row.prompt))
        for begin in range(0, len(order), size):
            for _ in self._continue(order[begin : begin + size]):
                pass
        return [row.result for row in rows]

    def stream(self, prompt: object, choices: Choices) -> TextStream:
        """See `tasks.generate.stream`."""
        settings = GenerationSettings(**choices)
        prompts = listed(prompt)
        if len(prompts) != 1:
            raise InputError(f"a stream is of one prompt, got {len(prompts)}; open one for each, or use generate")
        (row,) = self._rows(prompts, settings)
        if row.text is None:
            raise TokenizerError(f"{self._folder}: has no tokenizer, so nothing can be streamed as text; use generate")
        return TextStream(row, self._continue([row]))

    def _continue(self, rows: Sequence[Row]) -> Generator[None, None, None]:
        return continue_rows(rows, partial(new_decoder, self._graph))

    def _rows(self, prompts: Sequence[object], settings: GenerationSettings) -> list[Row]:
        """Read all prompts before one is continued: a fault is said at once."""
        decode = decoding(self._encoder)
        if decode is None and settings.stops:
            raise TokenizerError(f"{self._folder}: has no tokenizer, so no text ends at stop; use stop_tokens")
        return [
            self._row(prompt, place, "prompt" if len(prompts) == 1 else f"prompt {place}", settings, decode)
            for place, prompt in enumerate(prompts)
        ]

    def _row(self, prompt: object, place: int, name: str, settings: GenerationSettings, decode: Decode | None) -> Row:
        ids = self._reader.read(prompt, name)
        most = self._reader.room(ids, settings.max_new_tokens, name)
        text = None if decode is None else Text(decode, ids, settings.stops)
        return Row(ids, Chooser(settings, place), settings.ends(self._ends), most, text)


def _graph(session: Open, use: Use, device: tuple[str, int]) -> Graph:
    signature = session.signature
    if not signature.states:
        raise InputError(
            f"{session.folder}: its graph keeps nothing of earlier tokens, so it cannot generate; export it again"
        )
    (logits,) = TASKS[session.metadata.task].outputs
    shared = session.providers[0] == DEFAULT_PROVIDER and all(state.in_place for state in signature.states)
    return Graph(session.folder, signature, use, logits, shared, device)
