"""Hundreds of wrong requests on every route: each is refused in one line or answered rightly; all is then as before."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.http import InferResult

from losparse_runtime import Session

from ..runtime.conftest import write_folder
from .mutants import LONG, MODELS, ROUTES, VALUES, Place, Request, mutants, raw_mutants, with_value
from .oip_bodies import HEADER
from .running import Answer, Server, running

MOST = 2**20  # bytes of a body
EACH = 30
"""Mutants of one route. They are drawn anew in every run."""
# Joining rows changes the order of sums in a product, of float32: a few units in the last of 7 digits.
CLOSE = 1e-5

many = settings(
    max_examples=EACH,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("malformed")
    return {name: write_folder(home / name, task).path for name, task in MODELS.items()}


@pytest.fixture(scope="module")
def sessions(folders: dict[str, Path]) -> Iterator[dict[str, Session]]:
    opened = {name: Session(path, threads=1) for name, path in folders.items()}
    yield opened
    for session in opened.values():
        session.close()


@pytest.fixture(scope="module")
def server(folders: dict[str, Path]) -> Iterator[Server]:
    with running(folders, body_bytes=MOST, texts_in_request=256) as server:
        yield server


@pytest.fixture(scope="module")
def hasty(folders: dict[str, Path]) -> Iterator[Server]:
    """A server that waits for nobody: what a cut request lacks never comes."""
    with running(folders, body_bytes=MOST, head_s=0.2, body_s=0.2, idle_s=0.2) as server:
        yield server


@pytest.fixture(scope="module")
def check(server: Server, sessions: dict[str, Session]) -> Callable[[Request], Answer]:
    """Send a request, look at the answer, then ask what the server knows."""

    def checked(request: Request) -> Answer:
        answer = server.send(request.raw, request.method)
        said = (answer.status, answer.body[:300])
        assert answer.status == 200 or 400 <= answer.status < 500, said
        if request.method == "HEAD":
            assert not answer.body
        elif answer.status == 200:
            assert_right(request, answer, sessions)
        else:
            assert_said(answer)
        for name in ("classify", "infer bytes"):
            known = server.send(ROUTES[name].raw)
            assert known.status == 200
            assert_right(ROUTES[name], known, sessions)
        return answer

    return checked


def assert_said(answer: Answer) -> None:
    """An error is JSON that says in one line what is wrong."""
    assert answer.headers["content-type"] == "application/json"
    error = answer.json["error"]
    line = error["message"] if isinstance(error, dict) else error
    assert isinstance(line, str) and line.isprintable() and 10 < len(line) < 600, line


def assert_right(request: Request, answer: Answer, sessions: dict[str, Session]) -> None:
    """An answer is what a session says."""
    path = request.path.split("?")[0]
    if request.method == "POST" and path.endswith("/infer"):
        session = sessions[path.split("/")[3]]
        said = request.header(HEADER)
        expected = session.run(arrays_of(request.body, None if said is None else int(said)))
        given = answer.headers.get(HEADER.lower())
        result = InferResult.from_response_body(answer.body, header_length=given)
        for output in result.get_response()["outputs"]:
            np.testing.assert_allclose(
                result.as_numpy(output["name"]), expected[output["name"]], rtol=CLOSE, atol=CLOSE
            )
    elif request.method == "POST" and path in TASKS:
        asked = json.loads(request.body)
        assert_close(*TASKS[path](answer.json, asked, sessions[answer.json["model"]]))
    elif answer.headers["content-type"] == "application/json":
        assert answer.json


def arrays_of(body: bytes, length: int | None) -> dict[str, Any]:
    """The inputs of a body, read without any check."""
    place, arrays = length, {}
    for entry in json.loads(body[:length])["inputs"]:
        if "data" in entry:
            flat = np.array(entry["data"], np.int64)
        else:
            assert place is not None
            size = entry["parameters"]["binary_data_size"]
            flat, place = np.frombuffer(body[place : place + size], np.int64), place + size
        arrays[entry["name"]] = flat.reshape(entry["shape"])
    return arrays


def _classified(said: Any, asked: Any, session: Session) -> tuple[Any, Any]:
    return said["results"], [asdict(each) for each in session.classify(asked["texts"], pairs=asked.get("pairs"))]


def _tagged(said: Any, asked: Any, session: Session) -> tuple[Any, Any]:
    tags = session.tag(asked["texts"], words=asked.get("words", True))
    return said["results"], [[asdict(each) for each in row] for row in tags]


def _answered(said: Any, asked: Any, session: Session) -> tuple[Any, Any]:
    options = {key: asked[key] for key in ("max_tokens", "stride", "may_be_none") if key in asked}
    return said["result"], asdict(session.answer(asked["question"], asked["context"], **options))


def _ranked(said: Any, asked: Any, session: Session) -> tuple[Any, Any]:
    ranked = [asdict(each) for each in session.rank(asked["query"], asked["texts"])][: asked.get("top")]
    if not asked.get("return_texts", True):
        ranked = [{key: value for key, value in each.items() if key != "text"} for each in ranked]
    return said["results"], ranked


def _embedded(said: Any, asked: Any, session: Session) -> tuple[Any, Any]:
    rows = [row["embedding"] for row in said["data"]]
    vectors = [np.frombuffer(base64.b64decode(row), "<f4") if isinstance(row, str) else np.array(row) for row in rows]
    options = {key: asked[key] for key in ("prompt", "prompt_name") if asked.get(key) is not None}
    expected = session.embed(asked["input"], **options)[:, : asked.get("dimensions")]
    return _directions(np.stack(vectors)), _directions(expected)


def _directions(vectors: Any) -> Any:
    """Their lengths set to 1: one cut from a longer vector may have another."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).tolist()


TASKS: dict[str, Callable[[Any, Any, Session], tuple[Any, Any]]] = {
    "/v1/classify": _classified,
    "/v1/tag": _tagged,
    "/v1/answer": _answered,
    "/v1/rank": _ranked,
    "/v1/embeddings": _embedded,
}


def assert_close(got: Any, expected: Any) -> None:
    """The same JSON, its numbers but for rounding."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(got[key], value)
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, rel=CLOSE, abs=CLOSE)
    else:
        assert got == expected


@pytest.mark.parametrize("name", ROUTES)
def test_the_right_requests_are_right(check: Callable[[Request], Answer], name: str) -> None:
    assert check(ROUTES[name]).status == 200


# Where the route's text or tensor stands.
PLACES: dict[str, Place] = {
    "classify": ("texts", 0),
    "tag": ("texts",),
    "answer": ("context",),
    "rank": ("query",),
    "embeddings": ("input", 0),
    "infer": ("inputs", 0, "data"),
}


@pytest.mark.parametrize("name", PLACES)
def test_every_odd_value_in_the_place_of_a_text(check: Callable[[Request], Answer], name: str) -> None:
    statuses = [check(with_value(ROUTES[name], PLACES[name], value)).status for value in VALUES]
    assert statuses.count(400) > 20
    # An empty text is a text, one of 10,000 tokens is cut; a context may neither be empty nor have 1,000 windows.
    texts = {statuses[VALUES.index(text)] for text in ("", LONG)}
    assert texts == ({400} if name in ("answer", "infer") else {200})


@pytest.mark.parametrize("name", ROUTES)
@given(data=st.data())
@many
def test_mutants(check: Callable[[Request], Answer], name: str, data: st.DataObject) -> None:
    check(data.draw(mutants(ROUTES[name])))


@pytest.mark.parametrize("name", ["classify", "infer bytes", "model"])
@given(data=st.data())
@many
def test_mutants_of_the_bytes_on_the_wire(
    hasty: Server, sessions: dict[str, Session], name: str, data: st.DataObject
) -> None:
    raw = data.draw(raw_mutants(ROUTES[name]))
    try:
        answer = hasty.send(raw, raw[:4].decode("latin-1").strip())
    except (http.client.RemoteDisconnected, ConnectionResetError):
        assert not raw.strip(), "only who asked nothing gets no answer"
    else:
        assert answer.status == 200 or 400 <= answer.status < 500, (answer.status, answer.body)
        if answer.status != 200 and not raw.startswith(b"HEAD"):
            assert_said(answer)
    known = hasty.send(ROUTES["classify"].raw)
    assert known.status == 200
    assert_right(ROUTES["classify"], known, sessions)


def test_every_route_has_its_mutants(server: Server) -> None:
    shown = {
        (method.upper(), path)
        for path, said in server.ask("GET", "/openapi.json").json["paths"].items()
        for method in said
    }
    asked = {(request.method, request.path) for request in ROUTES.values()}
    names = {"colours", "vectors"}
    for method, path in shown:
        filled = {path.format(name=name, version="fp32") for name in names}
        assert any((method, each) in asked for each in filled), path
