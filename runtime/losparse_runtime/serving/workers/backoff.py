"""How long to wait before a worker that died is started again."""

from __future__ import annotations

_SOON_S = 5.0
"""Who lived for so many seconds did not die of starting."""
_FIRST_S = 0.5
_MOST_S = 30.0
_MOST_AFTER_SERVICE_S = 1.0


class Backoff:
    """Waits longer each time when a worker dies while it starts, hardly when it had served, and not when for a while.

    One for each worker.
    """

    def __init__(self) -> None:
        self._in_a_row = 0

    def seconds(self, lived_s: float, *, served: bool) -> float:
        """Return how long to wait.

        Args:
            lived_s: seconds between its start and its end.
            served: whether it had begun to serve.

        Returns:
            0 for one that had served for a while; else 0.5, 1, 2 and so on, up to 30 seconds for one that had not begun
            to serve, and up to 1 for one that had: what killed it may be a request.
        """
        if served and lived_s >= _SOON_S:
            self._in_a_row = 0
            return 0.0
        self._in_a_row += 1
        return min(_FIRST_S * float(2 ** (self._in_a_row - 1)), _MOST_AFTER_SERVICE_S if served else _MOST_S)
