"""Requests that are wrong in one or more ways, made of right ones; and right ones for every route of the server."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from .oip_bodies import HEADER, by_client, entry, written

MODELS = {
    "colours": "text-classification",
    "tags": "token-classification",
    "spans": "question-answering",
    "stars": "regression",
    "vectors": "feature-extraction",
}
IDS = np.array([[2, 4, 5, 3], [2, 6, 3, 0]], np.int64)
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int64)


@dataclass(frozen=True)
class Request:
    """A request as it goes to the socket; names and values of headers are Latin-1, as in HTTP."""

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def raw(self) -> bytes:
        given = {name.lower() for name, _ in self.headers}
        added = [("Host", "here"), ("Connection", "close")]
        if self.body or self.method == "POST":
            added.append(("Content-Length", str(len(self.body))))
        headers = [*(pair for pair in added if pair[0].lower() not in given), *self.headers]
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
        return "\r\n".join(lines).encode("latin-1") + self.body

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def with_header(self, name: str, value: str) -> Request:
        kept = tuple(pair for pair in self.headers if pair[0].lower() != name.lower())
        return replace(self, headers=(*kept, (name, value)))


def _posted(path: str, body: dict[str, Any]) -> Request:
    return Request("POST", path, json.dumps(body).encode(), (("Content-Type", "application/json"),))


def _bytes() -> Request:
    body, length = by_client({"input_ids": IDS, "attention_mask": MASK}, binary=True)
    return Request("POST", "/v2/models/colours/infer", body, ((HEADER, str(length)),))


ROUTES: dict[str, Request] = {
    "classify": _posted("/v1/classify", {"texts": ["a b", "c"], "pairs": ["d", "e f"], "model": "colours"}),
    "tag": _posted("/v1/tag", {"texts": ["a b c", "d"], "words": False, "model": "tags"}),
    "answer": _posted(
        "/v1/answer",
        {"question": "a", "context": "b c d e f g h " * 4, "max_tokens": 5, "stride": 4, "may_be_none": True},
    ),
    "rank": _posted("/v1/rank", {"query": "a", "texts": ["b c", "d"], "top": 2, "return_texts": True}),
    "embeddings": _posted(
        "/v1/embeddings",
        {"input": ["a", "b c"], "model": "vectors", "encoding_format": "float", "dimensions": 3, "user": "u"},
    ),
    "infer": Request(
        "POST",
        "/v2/models/colours/infer",
        written(
            entry(IDS),
            entry(MASK, "attention_mask"),
            id="seven",
            outputs=[{"name": "logits", "parameters": {"binary_data": False}}],
            parameters={"binary_data_output": False},
        ),
    ),
    "infer a version": Request("POST", "/v2/models/vectors/versions/fp32/infer", written(entry(IDS))),
    "infer bytes": _bytes(),
    "index": Request("POST", "/v2/repository/index", b"{}"),
    "models": Request("GET", "/v1/models"),
    "server": Request("GET", "/v2"),
    "live": Request("GET", "/v2/health/live"),
    "ready": Request("GET", "/v2/health/ready"),
    "model": Request("GET", "/v2/models/colours"),
    "model's version": Request("GET", "/v2/models/colours/versions/fp32"),
    "model ready": Request("GET", "/v2/models/colours/ready"),
    "model's version ready": Request("GET", "/v2/models/colours/versions/fp32/ready"),
    "metrics": Request("GET", "/metrics"),
    "health": Request("GET", "/health"),
    "page": Request("GET", "/docs"),
    "schema": Request("GET", "/openapi.json"),
}
"""One right request for every route."""

# What no JSON writer of Python's would write stands in its place as a string first.
_SPELT = {
    "@deep": "[" * 100_000,
    "@deep and closed": "[" * 50_000 + "]" * 50_000,
    "@deep object": '{"a":' * 100_000,
    "@5000 digits": "9" * 5000,
    "@1e400": "1e400",
    "@invalid UTF-8": '"\udcff\udcfe"',  # becomes the bytes FF FE
    "@cut UTF-8": '"\udce2\udc82"',
    "@half a surrogate": '"\\ud83d"',
    "@control": '"\x01\n"',
}
LONG = "a b c d e f g h " * 1250  # 10,000 tokens
VALUES: list[Any] = [
    *_SPELT,
    None, True, False, 0, -1, 1, 1.5, 1e308, 2**31, 2**63, 10**18, -(10**30), float("nan"), float("inf"), float("-inf"),
    "", " ", "a", "\x00", "\ud800", "é𝒳\u202e\u2028", "a\nb\r\n", "h" * 3000, LONG, "colours", "vectors", "../../etc",
    [], [[]], {}, [None], [""], ["a", 1], {"a": {"b": []}}, [0] * 5000, ["a"] * 300, [[1, 2], [3]],
    [10**12, 10**12], [2, -4], [0, 4], "INT64", "FP32", "BYTES", "input_ids", "token_type_ids",
]  # fmt: skip

Place = tuple[Any, ...]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Where something stands in JSON: keys and indices, the whole of it first."""
    yield at
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*at, key))


def _changed(document: Any, at: Place, change: Callable[[Any, Any], object]) -> Any:
    """A copy in which what holds a place was changed by `change(holder, key)`."""
    holder = made = {"whole": copy.deepcopy(document)}
    for key in (way := ("whole", *at))[:-1]:
        holder = holder[key]
    change(holder, way[-1])
    return made.get("whole")


def _put(value: Any) -> Callable[[Any, Any], object]:
    return lambda holder, key: holder.__setitem__(key, value)


def _left_out(holder: Any, key: Any) -> None:
    del holder[key]


def _renamed(holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder[f"{key}s"] = holder.pop(key)


def _twice(holder: Any, key: Any) -> None:
    if isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))


def _wrapped(holder: Any, key: Any) -> None:
    holder[key] = [holder[key]]


def _more(holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder["unknown"] = 1


def spelt(document: Any) -> bytes:
    """JSON with what is no JSON in it."""
    text = json.dumps(document)
    for name, instead in _SPELT.items():
        text = text.replace(json.dumps(name), instead)
    return text.encode("utf-8", "surrogateescape")


def with_value(request: Request, at: Place, value: Any) -> Request:
    """The request with another value at a place of its JSON."""
    return replace(request, body=spelt(_changed(json.loads(request.body), at, _put(value))))


@st.composite
def _json_changes(draw: st.DrawFn, request: Request, length: int | None) -> Request:
    """Change, leave out, rename or repeat what stands in the JSON of a body."""
    document = json.loads(request.body[:length])
    changes = [st.just(change) for change in (_left_out, _renamed, _twice, _wrapped, _more)]
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.sampled_from(list(places(document))))
        change = draw(st.one_of(st.sampled_from(VALUES).map(_put), st.sampled_from(VALUES).map(_put), *changes))
        document = _changed(document, at, change)
    head = spelt(document)
    changed = replace(request, body=head + (b"" if length is None else request.body[length:]))
    return changed if length is None or draw(st.booleans()) else changed.with_header(HEADER, str(len(head)))


@st.composite
def _byte_changes(draw: st.DrawFn, request: Request) -> Request:
    """Change a body where its bytes are, whatever they mean."""
    body = request.body
    at = draw(st.integers(0, max(0, len(body) - 1)))
    other = draw(st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([b"\xff", b"\x00", b'"', b"]", b"NaN"])))
    changed = draw(
        st.sampled_from(
            [
                body[:at] + other + body[at + len(other) :],
                body[:at] + other + body[at:],
                body[:at],
                body[at:],
                body + other,
                body * 2,
                b"",
                b"[" * 100_000,
                b"\xef\xbb\xbf" + body,
                body.decode("latin-1").encode("utf-16"),
            ]
        )
    )
    return replace(request, body=changed)


_HEADERS = {
    "Content-Type": ["text/plain", "application/xml", "multipart/form-data", "application/json; charset=utf-16", ""],
    "Content-Encoding": ["gzip", "deflate", "br", "gzip, deflate", "identity", "x" * 3000, ""],
    HEADER: ["0", "1", "-1", "abc", "1e3", "1.0", "9" * 25, "9" * 5000, "5, 5", "\xb2", ""],
    "X-Timeout-Ms": ["0", "-1", "abc", "1e9", "9" * 25, "9" * 5000, "\xb2", ""],
    "X-Request-Id": ["a" * 5000, "\xff\xfe", 'a"b', "a b", ""],
    "Authorization": ["Bearer", "Basic x", "\xff", ""],
    "traceparent": ["00-0-0-0", "\xff", "00-" + "0" * 32 + "-" + "0" * 16 + "-00"],
    "Accept": ["application/xml", "\xff", "q=;;"],
    "Accept-Encoding": ["gzip;q=x", "br"],
    "Cookie": ["\xff=\xfe", "a" * 5000],
    "Host": ["", "a b", "[::1", "x" * 300],
    "Expect": ["100-continue"],
    "Range": ["bytes=0-1"],
    "Upgrade": ["websocket", "h2c"],
}  # fmt: skip


@st.composite
def _header_changes(draw: st.DrawFn, request: Request) -> Request:
    name = draw(st.sampled_from(sorted(_HEADERS)))
    return request.with_header(name, draw(st.sampled_from(_HEADERS[name])))


_SEGMENTS = [
    "",
    "..",
    ".",
    "%00",
    "%ff%fe",
    "%0a",
    "%2F",
    "%",
    "a" * 5000,
    "colours",
    "nothing",
    "versions",
    "{name}",
    ";x",
]
_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"]


@st.composite
def _path_changes(draw: st.DrawFn, request: Request) -> Request:
    parts = request.path.split("/")[1:]
    at = draw(st.integers(0, len(parts) - 1))
    segment = draw(st.sampled_from(_SEGMENTS))
    ways = [[*parts[:at], segment, *parts[at + 1 :]], [*parts[:at], segment, *parts[at:]], [*parts, ""], parts[:at]]
    ending = draw(st.sampled_from(["", "?", "?a=b", "?version=2&name=x", "?%ff=%zz"]))
    return replace(request, path="/" + "/".join(draw(st.sampled_from(ways))) + ending)


def _method_changes(request: Request) -> st.SearchStrategy[Request]:
    return st.sampled_from(_METHODS).map(lambda method: replace(request, method=method))


def mutants(request: Request) -> st.SearchStrategy[Request]:
    """Requests that differ from a right one in what its body, its headers, its path or its method say."""
    ways = [_header_changes(request), _path_changes(request), _method_changes(request)]
    if request.body:
        said = request.header(HEADER)
        ways += [_json_changes(request, None if said is None else int(said))] * 6
        ways += [_byte_changes(request)] * 2
    return st.one_of(ways)


@st.composite
def raw_mutants(draw: st.DrawFn, request: Request) -> bytes:
    """The bytes of a request, head and body, changed wherever it happens."""
    raw = request.raw
    at = draw(st.integers(0, len(raw) - 1))
    to = draw(st.integers(at, min(len(raw), at + 12)))
    odd = [
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\x00",
        b"\xff",
        b":",
        b" ",
        b"Content-Length: 1\r\n",
        b"Transfer-Encoding: chunked\r\n",
    ]
    other = draw(st.one_of(st.binary(max_size=6), st.sampled_from(odd)))
    return draw(st.sampled_from([raw[:at] + other + raw[to:], raw[:at], raw[at:], raw[:at] + raw[to:] + other]))
