"""Clients that are slow, send halves, or send too much; beside them others are answered all the time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import uvloop

from .client import ClosedLoop, make_request
from .contenders import read_ours
from .figures import percentile_ms
from .memory import watched
from .processes import Server
from .survival import PATH, Subject, require, require_flat, statuses

_HEAD = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_GIB = 1024**3
_CHUNK = b"a" * 65536
_LIMIT_S = 30.0
_TOO_LARGE, _TOO_SLOW = 413, 408
_MOST_SENT = 32 * 1024 * 1024
"""Bytes of an endless body that may be gone before the refusal is seen: its limit of 8 MiB, and buffers on the way."""


async def exchange(port: int, parts: AsyncIterator[bytes]) -> tuple[int, int]:
    """Send parts until the server has answered or closed; returns the status, 0 for none, and the bytes sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.ensure_future(reader.readline())
    sent = 0
    try:
        async for part in parts:
            if answer.done():
                break
            writer.write(part)
            await writer.drain()
            sent += len(part)
        line = await asyncio.wait_for(answer, _LIMIT_S)
    except ConnectionError:
        line = answer.result() if answer.done() and answer.exception() is None else b""
    finally:
        writer.close()
    return (int(line.split()[1]) if line else 0), sent


async def once(*parts: bytes) -> AsyncIterator[bytes]:
    """Yield parts as they are."""
    for each in parts:
        yield each


async def slowly(data: bytes, every_s: float) -> AsyncIterator[bytes]:
    """Yield single bytes, with time between them, and then wait."""
    for byte in data:
        yield bytes((byte,))
        await asyncio.sleep(every_s)


async def gigabyte(head: bytes, *, chunked: bool) -> AsyncIterator[bytes]:
    """Yield a head and 1 GiB."""
    yield head
    for _ in range(_GIB // len(_CHUNK)):
        yield b"%x\r\n%s\r\n" % (len(_CHUNK), _CHUNK) if chunked else _CHUNK


async def _attack(port: int, seconds: float) -> dict[str, list[tuple[int, int]]]:
    """Do all of it at once."""
    said = f"{_HEAD}Content-Length: {_GIB}\r\n\r\n".encode()
    chunks = f"{_HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
    half = f'{_HEAD}Content-Length: 1000\r\n\r\n{{"texts": "a'.encode()
    kinds: dict[str, Sequence[AsyncIterator[bytes]]] = {
        "slow head": [slowly(_HEAD.encode(), seconds / 8) for _ in range(8)],
        "half body": [once(half) for _ in range(8)],
        "1 GiB, said": [gigabyte(said, chunked=False) for _ in range(4)],
        "1 GiB, chunked": [gigabyte(chunks, chunked=True) for _ in range(4)],
    }
    found = await asyncio.gather(
        *(asyncio.gather(*(exchange(port, parts) for parts in each)) for each in kinds.values())
    )
    return dict(zip(kinds, (list(each) for each in found), strict=True))


def hostile(subject: Subject) -> str:
    """Slow heads, half bodies, bodies of 1 GiB and texts of 10,000 tokens, while others are answered."""
    limit = max(1.0, subject.seconds / 8)
    with subject.served("--head-timeout", f"{limit}", "--body-timeout", f"{limit}") as server:
        subject.check_alive(server)
        loop = ClosedLoop(server.port, subject.requests, 4)

        async def all_at_once() -> dict[str, list[tuple[int, int]]]:
            running = asyncio.ensure_future(loop.run(600))
            found = await _attack(server.port, subject.seconds)
            loop.stop()
            await running
            return found

        with watched(server) as memory:
            found = uvloop.run(all_at_once())
        require(all(each.status == 200 for each in loop.replies), f"others got {statuses(loop.replies)}")
        subject.check(loop.replies)
        for kind, status in (("slow head", _TOO_SLOW), ("half body", _TOO_SLOW)):
            require({each for each, _ in found[kind]} == {status}, f"{kind}: {found[kind]}, not {status}")
        for kind in ("1 GiB, said", "1 GiB, chunked"):
            require({each for each, _ in found[kind]} <= {0, _TOO_LARGE}, f"{kind}: {found[kind]}")
            require(any(each == _TOO_LARGE for each, _ in found[kind]), f"{kind}: nobody was told: {found[kind]}")
            require(max(sent for _, sent in found[kind]) <= _MOST_SENT, f"{kind}: {found[kind]} bytes were taken")
        words = require_flat(memory)
        long = _long_text(subject, server)
        subject.check_alive(server)
    p99 = percentile_ms([each.seconds for each in loop.replies], 99)
    sent = max(each for kind in found if "GiB" in kind for _, each in found[kind])
    return (
        f"8 slow heads and 8 half bodies 408, 8 bodies of 1 GiB 413 after at most {sent / 1024**2:.1f} MiB; {long}; "
        f"{len(loop.replies)} requests of others beside them right, p99 {p99:.0f} ms; {words}"
    )


def _long_text(subject: Subject, server: Server) -> str:
    """Ask about a text of 10,000 tokens and more; it is cut as a session cuts it."""
    text = " ".join([subject.expected.texts[0]] * (10_000 // len(subject.expected.texts[0].split()) + 1))
    (right,) = subject.session.classify([text])
    loop = ClosedLoop(server.port, [make_request(PATH, json.dumps({"texts": text}).encode())], 1, once=True)
    uvloop.run(loop.run(60))
    (reply,) = loop.replies
    require(reply.status == 200, f"a long text: {reply.status} {reply.body[:200]!r}")
    label, score = read_ours(reply.body)
    require(label == right.label and abs(score - right.score) <= subject.tolerance, f"a long text: {label} {score}")
    return f"a text of {len(text.split())} words cut as a session cuts it"
