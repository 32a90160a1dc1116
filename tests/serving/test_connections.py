"""Connections: what is no request of HTTP/1.1 gets a 4xx and a closed connection, never silence and never a 5xx."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from losparse_runtime.serving.connections import Limits

from .connection_games import CHUNKED, GAMES, HOST, POST
from .processes import Thread, in_thread, request


@pytest.fixture(scope="module")
def server() -> Iterator[Thread]:
    with in_thread(Limits(head_bytes=4096, headers=20)) as started:
        yield started


@pytest.mark.parametrize("name", GAMES)
def test_a_header_game_gets_an_error_and_a_closed_connection(server: Thread, name: str) -> None:
    data, status, text = GAMES[name]
    for parts in ([data], [data[i : i + 1] for i in range(len(data))] if len(data) < 300 else [data[:100], data[100:]]):
        with server.client() as client:
            try:
                for part in parts:
                    client.send(part)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before all of it was sent
            answer = client.answer()
            assert answer.status == status
            assert text in answer.json["error"] and "\n" not in answer.json["error"]
            assert answer.headers["connection"] == "close"
            assert client.is_closed()
    with server.client() as client:
        assert client.get("/pid").status == 200


# What looks odd and is right.
RIGHT = {
    "the whole URL, as a proxy sends it": (b"GET http://toy/pid HTTP/1.1\r\n" + HOST + b"\r\n", b""),
    "empty lines before": (b"\r\n\r\nGET /pid HTTP/1.1\r\n" + HOST + b"\r\n", b""),
    "HTTP/1.0 without a host": (b"GET /pid HTTP/1.0\r\n\r\n", b""),
    "pieces with headers behind": (CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n\r\n", b'{"length":3}'),
    "a piece with an extension": (CHUNKED + b"3;a=b\r\nabc\r\n0\r\n\r\n", b'{"length":3}'),
    "a wish for HTTP/2": (
        b"GET /pid HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        b"",
    ),
    "a wish for HTTP/2 with a body": (
        POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
        b'{"length":3}',
    ),
    "a wish for a web socket": (
        b"GET /pid HTTP/1.1\r\n" + HOST + b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_looks_odd_and_is_right_is_answered(server: Thread, name: str) -> None:
    data, body = RIGHT[name]
    with server.client() as client:
        client.send(data)
        answer = client.answer()
        assert answer.status == 200 and body in answer.body
        if b"HTTP/1.0" not in data:
            assert client.get("/pid").status == 200  # on the same connection


def test_requests_behind_one_another_are_answered_in_order(server: Thread) -> None:
    upgrading = POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nab"
    with server.client() as client:
        client.send(request("/sleep/0.05") + request("/length", b"abc") + upgrading + request("/stream/2") * 2)
        assert [client.answer().status for _ in range(2)] == [200, 200]
        assert client.answer().json == {"length": 2}
        assert [len(client.answer().body) for _ in range(2)] == [131072, 131072]


def test_what_is_wrong_is_said_behind_the_answers_before_it(server: Thread) -> None:
    for wrong in (b"nonsense\r\n\r\n", CHUNKED + b"zz\r\n"):
        with server.client() as client:
            client.send(request("/sleep/0.1") + request("/length", b"abc") + wrong)
            assert [client.answer().status for _ in range(3)] == [200, 200, 400]
            assert client.is_closed()


def test_an_answer_before_the_body_leaves_the_connection_usable(server: Thread) -> None:
    with server.client() as client:
        client.send(b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n")
        assert client.answer().status == 404
        client.send(b"x" * 100000)
        assert client.get("/pid").status == 200


def test_the_interim_answer_is_sent(server: Thread) -> None:
    with server.client() as client:
        client.send(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert client.answer().status == 100
        client.send(b"abc")
        assert client.answer().json == {"length": 3}


@pytest.fixture(scope="module")
def strict() -> Iterator[Thread]:
    """A server whose limits of time can be waited for."""
    limits = Limits(connections=4, head_s=0.2, body_s=0.3, idle_s=0.4, write_s=0.3, linger_s=0.3, last_s=0.1)
    with in_thread(limits, drain_s=0.2) as started:
        yield started


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"G", "head of a request must be there within 0.2 s"),
        (b"GET /pid HTTP/1.1\r\nHost: toy\r\n", "head of a request"),
        (POST + b"Content-Length: 10\r\n\r\nabc", "body of a request must be there within 0.3 s"),
        (CHUNKED + b"3\r\nabc\r\n", "body of a request"),
    ],
)
def test_a_slow_client_is_told_so(strict: Thread, data: bytes, text: str) -> None:
    with strict.client() as client:
        client.send(data)
        answer = client.answer()
        assert answer.status == 408 and text in answer.json["error"]
        assert client.is_closed()


def test_a_client_that_drips_is_told_so_too(strict: Thread) -> None:
    with strict.client() as client:
        client.send(b"GET /pid HTTP/1.1\r\nHost: toy\r\n")
        client.socket.settimeout(0.02)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:  # each header is in time; all of them are not
                client.send(b"X: y\r\n")
                try:
                    answer = client.answer()
                except TimeoutError:
                    continue
                assert answer.status == 408
                break
            client.socket.settimeout(5)
            while client.socket.recv(100):
                pass
            raise ConnectionResetError("closed")


def test_an_idle_connection_is_closed_without_a_word(strict: Thread) -> None:
    with strict.client() as client:
        assert client.is_closed()
    with strict.client() as client:
        assert client.get("/pid").status == 200
        assert client.is_closed()


def test_the_time_for_an_answer_is_none_of_the_clients(strict: Thread) -> None:
    with strict.client() as client:
        assert client.get("/sleep/0.6").status == 200


def test_a_client_that_does_not_read_is_dropped(strict: Thread) -> None:
    with strict.client() as client:
        client.send(request("/stream/400"))  # 25 MB: more than the buffers of both kernels
        with strict.client() as other:
            while other.get("/pid").json["streams"]:
                pass
        with pytest.raises(ConnectionError):  # closed within the answer
            client.answer()


def test_a_body_that_nobody_reads_is_not_read_for_ever(strict: Thread) -> None:
    with strict.client() as client:
        client.send(b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000000\r\n\r\n")
        assert client.answer().status == 404
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                client.send(b"x" * 1000000)


def test_connections_beyond_the_limit_are_refused(strict: Thread) -> None:
    clients = [strict.client() for _ in range(4)]
    try:
        assert all(client.get("/pid").status == 200 for client in clients)
        with strict.client() as client:
            answer = client.answer()
            assert answer.status == 503 and answer.headers["retry-after"] == "1"
            assert "4 connections are open" in answer.json["error"]
    finally:
        for client in clients:
            client.socket.close()


def test_what_is_not_answered_when_the_server_stops_is_refused_with_503() -> None:
    with in_thread(Limits(last_s=0.05), drain_s=0.2) as server:
        client = server.client()
        client.send(request("/sleep/15"))
        idle = server.client()
        assert idle.get("/pid").status == 200
    with client, idle:
        answer = client.answer()
        assert answer.status == 503 and answer.headers["retry-after"] == "1"
        assert "the server stops" in answer.json["error"]
        assert idle.is_closed()
