"""Answers that are given before a request reaches the application, or without it: bytes of HTTP/1.1."""

from __future__ import annotations

import json
from http import HTTPStatus


class Refused(Exception):  # noqa: N818 - what becomes of a request, no defect
    """A request is not taken; the connection ends with it.

    Args:
        status: of the answer.
        text: one line that says what is wrong and what is allowed.
        retry_after_s: seconds after which another try is worth while; None where it is not.
    """

    def __init__(self, status: HTTPStatus, text: str, retry_after_s: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.retry_after_s = retry_after_s

    def __bytes__(self) -> bytes:
        body = json.dumps({"error": self.text}).encode()
        head = [
            f"HTTP/1.1 {int(self.status)} {self.status.phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
        ]
        if self.retry_after_s is not None:
            head.append(f"retry-after: {self.retry_after_s}")
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body
