"""`losparse serve ONNX_DIR [NAME=DIR ...]`: models behind HTTP. Loads no torch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from losparse_runtime.engine.options import MEMORY

from ..errors import LosparseError
from .parser import CommandParser, positive_int
from .run import add_session_options

if TYPE_CHECKING:
    from losparse_runtime.serving.settings import ServeSettings

TOKEN_VARIABLE = "LOSPARSE_TOKEN"
"""Environment variable that holds the token: a command line is seen by every user of a machine."""


def add_options(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.rest = "places"
    parser.add_argument(
        "places",
        nargs="+",
        metavar="[NAME=]ONNX_DIR[#VARIANT]",
        help="what `losparse export` wrote; its name in requests is that of the folder unless one is given",
    )
    parser.add_argument("--host", metavar="ADDRESS", help="to listen on (default 127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, metavar="N", help="to listen on (default 8000; 0: any that is free)")
    parser.add_argument("--workers", type=positive_int, metavar="N", help="processes (default 1)")
    add_session_options(parser)
    parser.add_argument(
        "--memory",
        choices=MEMORY,
        help="what is kept between runs of different shapes: flat (default) what the largest needed, fast a plan for "
        "each shape",
    )
    batching = parser.add_argument_group("batching")
    batching.add_argument("--max-batch", type=positive_int, metavar="N", help="texts in one run (default 32)")
    batching.add_argument(
        "--max-batch-tokens",
        dest="max_tokens_in_batch",
        type=positive_int,
        metavar="N",
        help="tokens in one run, padding included (default 4096)",
    )
    batching.add_argument(
        "--max-wait-ms", type=float, metavar="MS", help="an idle model waits for more texts so long (default 0)"
    )
    batching.add_argument("--queue", type=positive_int, metavar="N", help="texts that may wait (default 512)")
    batching.add_argument(
        "--mixed",
        action="store_const",
        const=True,
        help="share runs also where answers then depend on the other texts (int8 with one scale a run)",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-texts", dest="texts_in_request", type=positive_int, metavar="N", help="of one request (default 256)"
    )
    limits.add_argument(
        "--max-body", dest="body_bytes", type=positive_int, metavar="BYTES", help="of one request (default 8 MiB)"
    )
    limits.add_argument(
        "--max-answer", dest="answer_bytes", type=positive_int, metavar="BYTES", help="of tensors (default 256 MiB)"
    )
    limits.add_argument(
        "--max-connections", dest="connections", type=positive_int, metavar="N", help="of a worker (default 1024)"
    )
    for flag, name, what in (
        ("--deadline", "deadline_s", "for the answer to a request (default 30)"),
        ("--drain", "drain_s", "for requests under way when the server is told to stop (default 20)"),
        (
            "--hang-timeout",
            "hang_s",
            "without a sign of life, of one of several workers that is then replaced (default 30)",
        ),
        ("--head-timeout", "head_s", "for the head of a request to come (default 10)"),
        ("--body-timeout", "body_s", "for its body to come (default 30)"),
        ("--idle-timeout", "idle_s", "between two requests of a connection (default 75)"),
        ("--reload-every", "reload_s", "between two looks for a replaced folder (default 2; 0: never)"),
    ):
        limits.add_argument(flag, dest=name, type=float, metavar="S", help=f"seconds {what}")
    trust = parser.add_argument_group("trust")
    trust.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"holds the token that requests must bring (default: ${TOKEN_VARIABLE}, or none)",
    )
    trust.add_argument(
        "--verify", action="store_const", const=True, help="compare the SHA-256 of every file when a folder is opened"
    )
    trust.add_argument(
        "--verify-key", type=Path, metavar="FILE", help="public key that must have signed every folder (see sign)"
    )
    parser.add_argument("--json-logs", action="store_const", const=True, help="logs as JSON, a line a record")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop."""
    from losparse_runtime.serving.counting import counted_together
    from losparse_runtime.text.panics import HOLD_SWITCH

    os.environ[HOLD_SWITCH] = "0"  # stderr has the lines of many requests, which must not wait for one another
    settings = _settings(options)
    with counted_together(settings.workers):
        from losparse_runtime.serving.app import create_app
        from losparse_runtime.serving.logs import set_up_logs
        from losparse_runtime.serving.models import parse_place
        from losparse_runtime.serving.workers import serve

        places = [parse_place(each) for each in options.places]
        set_up_logs(json_lines=settings.json_logs, requests=options.verbose)
        return serve(lambda: create_app(places, settings), settings)


def _settings(options: argparse.Namespace) -> ServeSettings:
    """Return the settings that were given, and the defaults of the others."""
    from dataclasses import fields

    from losparse_runtime.serving.settings import ServeSettings

    given = {
        field.name: value
        for field in fields(ServeSettings)
        if (value := getattr(options, field.name, None)) is not None
    }
    given["providers"] = tuple(options.providers)
    return ServeSettings(**{**given, "token": _token(options.token_file)})


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LosparseError(
            f"--token-file '{file}' cannot be read ({error}); give a file that holds the token"
        ) from None
