"""Several workers: one that dies or hangs takes with it the requests it had, said clearly, and nothing else."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from losparse_runtime.serving.workers.backoff import Backoff

from .connection_games import GAMES
from .processes import Client, Process, request, serving, toy, wait_for


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Two workers; every test leaves both alive."""
    with serving(tmp_path_factory.mktemp("two") / "log", workers=2, hang_s=0.6, drain_s=5) as started:
        started.logged("worker is ready", 2)
        yield started


def _pid(client: Client) -> int:
    answer = client.get("/pid")
    assert answer.status == 200, answer.body
    pid: int = answer.json["pid"]
    return pid


def _rest(client: Client) -> bytes:
    """Return what comes until the connection is closed."""
    parts = []
    with suppress(ConnectionResetError):
        while part := client.socket.recv(65536):
            parts.append(part)
    return b"".join(parts)


def _kill(server: Process, pid: int) -> float:
    """Kill a worker; returns after how many seconds another had taken its place."""
    ready = len(server.records("worker is ready"))
    begin = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    server.logged("worker is ready", ready + 1)
    return time.monotonic() - begin


def test_connections_are_shared_out_and_stay(server: Process) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(6)]
        pids = [_pid(client) for client in clients]
        assert sorted(Counter(pids).values()) == [3, 3]
        assert server.process.pid not in pids
        assert [_pid(client) for client in clients] == pids


def test_a_killed_worker_takes_its_requests_with_it_and_nothing_else(server: Process) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(14)]
        doomed = _pid(clients[0])
        asking, half_head, half_body, streaming, pipelined, *idle = [
            client for client in clients if _pid(client) == doomed
        ]
        half_head.send(b"GET /pid HTTP/1.1\r\nHo")
        half_body.send(b"POST /length HTTP/1.1\r\nHost: toy\r\nContent-Length: 10\r\n\r\nabc")
        streaming.send(request("/stream/2000"))
        assert streaming.socket.recv(15) == b"HTTP/1.1 200 OK"
        pipelined.send(request("/pid") + request("/sleep/15"))
        assert pipelined.answer().json["pid"] == doomed
        asking.send(request("/sleep/15"))
        wait_for(lambda: idle[0].get("/pid").json["asleep"] == 2, "both requests under way")

        assert _kill(server, doomed) < 5
        for client in (asking, half_head, half_body, pipelined):
            answer = client.answer()
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1" and answer.headers["connection"] == "close"
            assert answer.json == {"error": "the worker that had this request ended (signal 9); send it again"}
            assert client.is_closed()
        assert not _rest(streaming).endswith(b"0\r\n\r\n")  # closed within the answer
        assert idle
        for client in idle:
            assert _pid(client) != doomed  # on the connection that it had with the dead one
    ended = server.records("worker ended")[-1]
    assert ended["reason"] == "signal 9" and ended["lost"] == 5


def test_workers_refuse_what_a_process_alone_refuses(server: Process) -> None:
    for name, (data, status, _) in GAMES.items():
        if status == 431:
            continue  # this server takes heads of the usual size
        with server.client() as client:
            client.send(data)
            assert client.answer().status == status, name
            assert client.is_closed()
    with server.client() as client:
        client.send(request("/stream/40") + request("/length", b"x" * 300000) + request("/pid"))
        assert len(client.answer().body) == 40 * 65536
        assert client.answer().json == {"length": 300000}
        assert client.answer().status == 200


def _ask_on(server: Process, stop: threading.Event, seen: Counter[str], problems: list[str]) -> None:
    client = server.client()
    while not stop.is_set():
        try:
            answer = client.get("/pid")
        except ConnectionError as error:
            seen["closed"] += 1
            if "closed after b''" not in str(error) and not isinstance(error, ConnectionResetError | BrokenPipeError):
                problems.append(str(error))
        except TimeoutError:
            problems.append("no answer")
            return
        else:
            seen[str(answer.status)] += 1
            if answer.status == 200:
                continue
            if "(signal 9)" not in answer.json["error"]:
                problems.append(answer.json["error"])
        client.socket.close()
        client = server.client()
    client.socket.close()


def test_kills_under_load_lose_nothing_that_was_not_under_way(server: Process) -> None:
    stop, seen, problems = threading.Event(), Counter[str](), list[str]()
    threads = [threading.Thread(target=_ask_on, args=(server, stop, seen, problems)) for _ in range(8)]
    for thread in threads:
        thread.start()
    kills = 3
    for _ in range(kills):
        answered = seen["200"]
        wait_for(lambda: seen["200"] > answered + 200, "answers under load")  # noqa: B023
        with server.client() as client:
            doomed = _pid(client)
        assert _kill(server, doomed) < 5
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems
    # At most one request of each client is under way when a worker dies, and then it is refused in words. That no
    # connection is closed behind a whole answer needs what only Linux's kernel tells.
    assert seen["503"] + seen["closed"] <= kills * len(threads)
    assert sys.platform != "linux" or not seen["closed"], seen


def test_a_worker_that_hangs_is_killed_and_replaced(server: Process) -> None:
    with server.client() as client:
        doomed = _pid(client)
        ready = len(server.records("worker is ready"))
        client.send(request("/hang/15"))
        server.logged("worker is ready", ready + 1)
        answer = client.answer()
        assert answer.status == 503 and "(it hung and was killed)" in answer.json["error"]
    assert server.records("worker hangs")[-1]["pid"] == doomed
    assert "in hang" in server.text  # where it hung


def test_a_worker_that_is_told_to_stop_answers_first_and_is_replaced(server: Process) -> None:
    with server.client() as client:
        leaving = _pid(client)
        ready = len(server.records("worker is ready"))
        client.send(request("/sleep/1"))
        with server.client() as other, server.client() as another:
            looking = other if _pid(other) == leaving else another
            wait_for(lambda: looking.get("/pid").json["asleep"] == 1, "the request under way")
        os.kill(leaving, signal.SIGTERM)
        answer = client.answer()
        assert answer.status == 200 and answer.json["pid"] == leaving
        server.logged("worker is ready", ready + 1)


def test_sighup_reaches_every_worker(server: Process) -> None:
    asked = len(server.records("asked to reload"))
    server.signal(signal.SIGHUP)
    assert len({record["pid"] for record in server.logged("asked to reload", asked + 2)[asked:]}) == 2


def test_sigterm_under_load_answers_every_request(tmp_path: Path) -> None:
    with serving(tmp_path / "log", workers=2) as server:
        server.logged("worker is ready", 2)
        answered, lost = Counter[int](), list[str]()

        def ask() -> None:
            client = server.client()
            while True:
                try:
                    answer = client.get("/sleep/0.01")
                except ConnectionError as error:
                    lost.append(repr(error))
                    return
                answered[answer.status] += 1
                if answer.headers.get("connection") == "close":
                    client.socket.close()
                    return

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_for(lambda: answered[200] > 50, "answers")
        server.signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert server.end() == 0
        assert not lost and set(answered) == {200}
        assert not server.records("worker ended")


def test_requests_that_take_longer_than_the_drain_are_refused_and_the_second_signal_ends_all(tmp_path: Path) -> None:
    with serving(tmp_path / "log", workers=2, drain_s=0.3) as server, server.client() as client:
        client.send(request("/sleep/15"))
        server.signal(signal.SIGTERM)
        answer = client.answer()
        assert answer.status == 503 and "the server stops" in answer.json["error"]
        assert server.end() == 0
    with serving(tmp_path / "log", workers=2) as server, server.client() as client:
        pid = _pid(client)
        client.send(request("/sleep/15"))
        server.signal(signal.SIGTERM)
        server.logged("stopping")
        server.signal(signal.SIGTERM)
        assert server.end() == 128 + signal.SIGTERM
        assert client.is_closed()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_end_with_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    with serving(tmp_path / "log", workers=2) as server, server.client() as client:
        server.logged("worker is ready", 2)
        _pid(client)  # its connection is a worker's
        client.send(request("/sleep/0.2"))
        server.signal(signal.SIGKILL)
        assert client.answer().status == 200
        workers = [record["pid"] for record in server.records("worker is ready")]
        wait_for(lambda: not any(_lives(worker) for worker in workers), "the workers' end")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_connections_beyond_the_limit_of_all_workers_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path / "log", workers=2, connections=2) as server, ExitStack() as stack:
        server.logged("worker is ready", 2)
        clients = [stack.enter_context(server.client()) for _ in range(4)]
        for client in clients:
            _pid(client)
        with server.client() as client:
            answer = client.answer()
            assert answer.status == 503 and "4 connections are open already" in answer.json["error"]
        clients[0].socket.close()
        wait_for(lambda: _is_taken(server), "a seat that is free again")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits other processes")
def test_a_supervisor_without_descriptors_lets_connections_wait(tmp_path: Path) -> None:
    with serving(tmp_path / "log", workers=2) as server, ExitStack() as stack:
        server.logged("worker is ready", 2)
        used = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 1, used + 1))
        first, second = (stack.enter_context(server.client()) for _ in range(2))
        _pid(first)
        second.send(request("/pid"))
        server.logged("a connection could not be accepted")
        first.socket.close()
        assert second.answer().status == 200


def _is_taken(server: Process) -> bool:
    with server.client() as client:
        return client.get("/pid").status == 200


def test_a_broken_folder_is_said_once_and_a_start_that_crashes_is_tried_again(tmp_path: Path) -> None:
    with toy(tmp_path / "refuses", fail="refuses", workers=2) as server:
        assert server.end() == 2
        lines = [line for line in server.text.splitlines() if not line.startswith("{")]
        assert lines == ["losparse: toy/losparse.json: is missing; export the model again"]
    with toy(tmp_path / "ends", fail="ends", workers=2) as server:
        assert server.end() == 2
        assert "no worker could be started, 6 tries in a row: exit code 7" in server.text.splitlines()[-1]
        assert [record["restart_in_s"] for record in server.records("worker ended")] == [0.5, 0.5, 1, 1, 2]


def test_a_stop_while_workers_start_is_a_stop(tmp_path: Path) -> None:
    with toy(tmp_path / "log", fail="sleeps", workers=2) as server:
        server.logged("worker starts", 2)
        server.signal(signal.SIGTERM)
        assert server.end() == 0


def test_backoff_doubles_and_forgets() -> None:
    backoff = Backoff()
    assert [backoff.seconds(0.1, served=False) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.seconds(60, served=False) == 30  # a minute of starting is no service
    assert backoff.seconds(1, served=True) == 1  # killed soon after it was ready: back within 5 s all the same
    assert backoff.seconds(60, served=True) == 0
    assert backoff.seconds(1, served=True) == 0.5
