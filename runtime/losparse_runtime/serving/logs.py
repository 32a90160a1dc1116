"""Logs of the server: words for people, or JSON, a line a record, with the id of the request."""

from __future__ import annotations

import json
import logging
import time
from contextvars import ContextVar

REQUEST_ID: ContextVar[str] = ContextVar("losparse_request_id", default="")
_FIELDS = "losparse_fields"


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time (UTC), level, logger, message, request, fields of its own, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        said: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if REQUEST_ID.get():
            said["request"] = REQUEST_ID.get()
        said |= getattr(record, _FIELDS, {})
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False, default=str)


class Words(logging.Formatter):
    """A record in words; what a client sent cannot begin a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the lines of an exception below it."""
        fields = " ".join(f"{name}={value}" for name, value in getattr(record, _FIELDS, {}).items())
        line = " ".join(f"losparse: {record.getMessage()} {fields}".split())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up_logs(*, json_lines: bool, requests: bool) -> None:
    """Let all loggers write to stderr, one line a record; those of others begin at warnings.

    Args:
        json_lines: as JSON instead of words.
        requests: say of every request that it was answered; otherwise of those that failed.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if json_lines else Words())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("losparse_runtime.serving").setLevel(logging.INFO)
    logging.getLogger(f"{__package__}.gate").setLevel(logging.INFO if requests else logging.WARNING)


def fields(**said: object) -> dict[str, object]:
    """Return what `extra=` of a logger's call takes, for fields beside the message."""
    return {_FIELDS: said}
