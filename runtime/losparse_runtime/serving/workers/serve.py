"""Which processes serve: this one alone, or workers below it."""

from __future__ import annotations

import os
import socket

from ...errors import InputError
from ..settings import ServeSettings
from .listening import OWN_DESCRIPTORS, bind, descriptors_for
from .running import MakeApp, serve_here
from .supervisor import Supervisor


def serve(make_app: MakeApp, settings: ServeSettings, listener: socket.socket | None = None) -> int:
    """Serve until SIGTERM or SIGINT says to stop, and the requests under way are answered.

    Args:
        make_app: makes the application; called in the process that serves it.
        settings: of the server.
        listener: a bound socket to take instead of `settings.host` and `settings.port`; it is closed in the end.

    Returns:
        The exit code of the process: 0 after a stop that somebody asked for.

    Raises:
        LosparseRuntimeError: the address cannot be had, or the application does not start; in one line.
    """
    if settings.workers > 1 and not hasattr(os, "fork"):
        raise InputError(
            f"workers must be 1 on this system, which has no fork, got {settings.workers}; start a server on each of "
            "several ports instead"
        )
    chosen = bind(settings.host, settings.port) if listener is None else listener
    with chosen:
        if settings.workers == 1:
            descriptors_for(settings.connections, OWN_DESCRIPTORS)
            return serve_here(make_app, settings, chosen)
        return Supervisor(make_app, settings, chosen).run()
