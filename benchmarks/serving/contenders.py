"""The servers that are compared, and how each is started and asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from losparse_runtime import Session

from .answers import MIXED_SCORE, ROUNDED_SCORE, SAME_SCORE, Read
from .client import make_request
from .processes import LOSPARSE

PEERS = Path(__file__).parent / "peers"
OURS, ALONE, PLAIN = "losparse serve", "losparse serve, unbatched", "FastAPI + onnxruntime"
MAX_BATCH = 32
_NAME = "model"
_LITSERVE_WAIT_S = 0.002
"""LitServe waits so long for a batch to fill up; of 0, 1, 2, 5 and 10 ms the best of it at 64 clients."""


@dataclass(frozen=True)
class Contender:
    """A server.

    Attributes:
        name: in tables.
        command: that starts it on a port.
        path: that it is asked at.
        body: of a request for a text.
        read: label and score of an answer.
        tolerance: of a score.
        environment: variables of its process.
        metrics: whether it has our page of metrics.
    """

    name: str
    command: Callable[[int], list[str]]
    path: str
    body: Callable[[str], Any]
    read: Read
    tolerance: float
    environment: Mapping[str, str] = field(default_factory=dict)
    metrics: bool = False

    def requests(self, texts: tuple[str, ...]) -> list[bytes]:
        """Return a request for each text."""
        return [make_request(self.path, json.dumps(self.body(text)).encode()) for text in texts]


def read_ours(body: bytes) -> tuple[str, float]:
    """Take label and score out of an answer of /v1/classify."""
    (result,) = json.loads(body)["results"]
    return result["label"], result["score"]


def body_of_ours(text: str) -> bytes:
    """Return the body of a request of /v1/classify for one text."""
    return json.dumps({"texts": text}).encode()


def _read_plain(body: bytes) -> tuple[str, float]:
    found = json.loads(body)
    return found["label"], found["score"]


def _read_list(body: bytes) -> tuple[str, float]:
    (found,) = json.loads(body)
    return found["label"], found["score"]


def serve_command(session: Session, port: int, threads: int, *more: str) -> list[str]:
    """Return the command that serves what a session has open."""
    place = f"{_NAME}={session.folder}#{session.variant}"
    return [*LOSPARSE, "serve", place, "--port", str(port), "--threads", str(threads), *more]


def tolerance_of(session: Session, *, shared: bool) -> float:
    """Return how far a score may be from the session's.

    Args:
        session: that says what is right.
        shared: whether texts of several requests share a run that mixes them, where the variant does.
    """
    if session.metadata.variant.mixes_texts:
        return MIXED_SCORE if shared else SAME_SCORE
    return SAME_SCORE if session.metadata.variant.precision == "fp32" else ROUNDED_SCORE


def ours(session: Session, threads: int, *, mixed: bool, options: tuple[str, ...] = ()) -> list[Contender]:
    """Return our server with and without batching."""
    both = []
    for name, batch in ((OURS, MAX_BATCH), (ALONE, 1)):
        more = ("--max-batch", str(batch), *(("--mixed",) if mixed and batch > 1 else ()), *options)
        both.append(
            Contender(
                name,
                lambda port, more=more: serve_command(session, port, threads, *more),  # type: ignore[misc]
                "/v1/classify",
                lambda text: {"texts": text},
                read_ours,
                tolerance_of(session, shared=mixed and batch > 1),
                metrics=True,
            )
        )
    return both


def peers(
    session: Session, threads: int, *, litserve: Path | None = None, bentoml: Path | None = None
) -> list[Contender]:
    """Return the others: the same model file, tokenizer, threads and optimizer settings.

    Args:
        session: that has the model open.
        threads: of a run.
        litserve: a Python that has LitServe, onnxruntime and tokenizers; None to leave it out.
        bentoml: the same for BentoML.
    """
    settings = _settings(session, threads)
    alone, shared = (tolerance_of(session, shared=each) for each in (False, True))

    def script(name: str, python: Path | str, file: str, path: str, tolerance: float, *more: str) -> Contender:
        def command(port: int) -> list[str]:
            return [str(python), str(PEERS / file), str(port), settings, *more]

        return Contender(name, command, path, lambda text: {"text": text}, _read_plain, tolerance)

    found = [script(PLAIN, sys.executable, "plain_fastapi.py", "/classify", alone)]
    if litserve is not None:
        wait = str(_LITSERVE_WAIT_S)
        found.append(script("LitServe", litserve, "litserve_app.py", "/predict", shared, str(MAX_BATCH), wait))
        found.append(script("LitServe, unbatched", litserve, "litserve_app.py", "/predict", alone, "1", "0"))
    if bentoml is not None:
        found.append(_bentoml(bentoml, settings, shared))
    return found


def _bentoml(python: Path, settings: str, tolerance: float) -> Contender:
    def command(port: int) -> list[str]:
        app = ["bentoml_app:Sentiment", "--working-dir", str(PEERS), "--host", "127.0.0.1", "--port", str(port)]
        return [str(python), "-m", "bentoml", "serve", *app]

    environment = {"SETTINGS": settings, "BENTOML_DO_NOT_TRACK": "True"}
    return Contender(
        "BentoML", command, "/classify", lambda text: {"texts": [text]}, _read_list, tolerance, environment
    )


def _settings(session: Session, threads: int) -> str:
    (model,) = session.metadata.variant.models.values()
    return json.dumps(
        {
            "model": str(session.folder / model.file),
            "tokenizer": str(session.folder / "tokenizer.json"),
            "labels": session.labels,
            "max_length": session.max_length,
            "threads": threads,
            "disabled_optimizers": session.metadata.variant.disabled_optimizers,
        }
    )
