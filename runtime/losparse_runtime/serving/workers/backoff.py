"""How long to wait before a worker that died is started again."""

from __future__ import annotations

_SOON_S = 5.0
"""Who lived for so many seconds did not die of starting."""
_FIRST_S = 0.5
_MOST_S = 30.0


class Backoff:
    """Waits longer each time when a worker dies as soon as it is started, and not at all when it had served.

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
            0 for one that had served for a while; else 0.5, 1, 2 and so on up to 30 seconds.
        """
        if served and lived_s >= _SOON_S:
            self._in_a_row = 0
            return 0.0
        self._in_a_row += 1
        return min(_FIRST_S * float(2 ** (self._in_a_row - 1)), _MOST_S)
