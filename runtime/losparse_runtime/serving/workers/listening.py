"""The socket that clients connect to."""

from __future__ import annotations

import socket

from ...errors import InputError, one_line

BACKLOG = 2048
"""Connections that wait until they are accepted; the kernel's own limit may be lower."""


def bind(host: str, port: int) -> socket.socket:
    """Take an address, without listening on it yet: who connects before the models are open is refused at once.

    Args:
        host: name or address, of either family.
        port: 0 for any that is free.

    Returns:
        A bound socket.

    Raises:
        InputError: the address is taken, or not of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            # Otherwise a server that was stopped a moment ago keeps its port for a minute.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:  # a name that is no name is a UnicodeError
        raise InputError(
            f"cannot listen on {host} port {port}: {one_line(error)}; choose others by host and port, "
            "port 0 for any that is free"
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Return where a bound socket is reached, as in "http://127.0.0.1:8000"."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
