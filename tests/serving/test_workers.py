"""One process that serves: it starts or says why not in one line, drains when it is told to stop, and ends with 0."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from losparse_runtime.errors import InputError
from losparse_runtime.serving.workers.listening import bind, url_of

from .processes import request, serving, toy


def test_a_request_under_way_is_answered_before_the_process_ends(tmp_path: Path) -> None:
    with serving(tmp_path / "log") as server, server.client() as client:
        client.send(request("/sleep/0.3"))
        with server.client() as other:
            assert other.get("/pid").json["pid"] == server.process.pid  # so the first one has begun as well
        server.signal(signal.SIGTERM)
        answer = client.answer()
        assert answer.status == 200 and answer.headers["connection"] == "close"
        assert server.end() == 0


def test_the_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with serving(tmp_path / "log") as server, server.client() as client:
        client.send(request("/sleep/15"))
        server.signal(signal.SIGINT)
        server.logged("stopping")
        server.signal(signal.SIGINT)
        assert server.end() == 128 + signal.SIGINT


def test_sighup_asks_the_application_to_reload(tmp_path: Path) -> None:
    with serving(tmp_path / "log") as server, server.client() as client:
        server.signal(signal.SIGHUP)
        server.logged("asked to reload")
        assert client.get("/pid").json["reloads"] == 1


def test_an_application_that_cannot_start_says_so_in_one_line(tmp_path: Path) -> None:
    with toy(tmp_path / "log", fail="refuses") as server:
        assert server.end() == 2
        assert server.text == "losparse: toy/losparse.json: is missing; export the model again\n"


def test_an_address_is_bound_or_refused_in_one_line() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert url_of(first) == f"http://127.0.0.1:{port}"
        first.listen()
        with pytest.raises(InputError, match=rf"^cannot listen on 127.0.0.1 port {port}: .*port 0 for any"):
            bind("127.0.0.1", port)
    for no_address_of_ours in ("192.0.2.1", "x" * 64):  # neither asks a name server
        with pytest.raises(InputError, match=rf"^cannot listen on {no_address_of_ours} port 1: "):
            bind(no_address_of_ours, 1)
    if socket.has_ipv6:
        with bind("::1", 0) as six:
            assert url_of(six) == f"http://[::1]:{six.getsockname()[1]}"
