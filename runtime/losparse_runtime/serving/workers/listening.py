"""The socket that clients connect to."""

from __future__ import annotations

import logging
import socket

from ...errors import InputError, one_line
from ..logs import fields

BACKLOG = 2048
"""Connections that wait until they are accepted; the kernel's own limit may be lower."""
OWN_DESCRIPTORS = 64
"""Of a server beside those of connections: its listener, channels, refused connections, logs, files of models."""

logger = logging.getLogger("losparse_runtime.serving")


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


def descriptors_for(connections: int, others: int) -> int:
    """Let this process, and those that it forks, open as many connections as they may.

    Args:
        connections: that may be open at once.
        others: descriptors beside those.

    Returns:
        How many connections may really be: fewer where the system's hard limit is lower.
    """
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + others
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    most = max(1, soft - others)
    logger.warning("fewer connections than asked for: the system's limit of open files", extra=fields(connections=most))
    return most
