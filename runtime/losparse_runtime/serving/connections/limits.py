"""What a connection may take."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import ServeSettings


@dataclass(frozen=True)
class Limits:
    """What a connection may take.

    Attributes:
        connections: open ones of this process.
        head_s: seconds for the head of a request, from its first byte.
        body_s: seconds for its body, from the end of its head.
        idle_s: seconds between two requests, and before the first.
        write_s: seconds for which a client may read nothing of an answer that waits for it.
        linger_s: seconds in which a client may still send what nobody reads, after its answer.
        last_s: seconds that an idle connection is kept for one more request while the server stops: who has just sent
            one is answered.
        head_bytes: of request line and headers.
        headers: how many.
    """

    connections: int = 1024
    head_s: float = 10
    body_s: float = 30
    idle_s: float = 75
    write_s: float = 30
    linger_s: float = 5
    last_s: float = 0.5
    head_bytes: int = 32 * 1024
    headers: int = 100

    @classmethod
    def of(cls, settings: ServeSettings, connections: int | None = None) -> Limits:
        """Return the limits that a server's settings ask for.

        Args:
            settings: of the server.
            connections: open ones of this process; None for those of the settings.
        """
        most = settings.connections if connections is None else connections
        return cls(most, settings.head_s, settings.body_s, settings.idle_s, write_s=settings.body_s)
