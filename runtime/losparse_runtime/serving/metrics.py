"""What a server counts, for Prometheus.

Several workers count together (`counting`), and each of them answers for all.
"""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from ..batching.batcher import Ran
from .counting import MULTIPROCESS

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class Metrics:
    """The counters of one server.

    Args:
        registry: where they are kept; a new one by default, so that two servers in one process do not mix.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        kept = CollectorRegistry() if registry is None else registry
        self._registry = kept
        self.requests = Histogram(
            "losparse_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ("model", "route", "status"),
            buckets=_SECONDS,
            registry=kept,
        )
        self.runs = Histogram(
            "losparse_run_seconds", "Seconds of one run of a model.", ("model",), buckets=_SECONDS, registry=kept
        )
        self.waits = Histogram(
            "losparse_queue_wait_seconds",
            "Seconds that the oldest row of a run had waited.",
            ("model",),
            buckets=_SECONDS,
            registry=kept,
        )
        self.rows = Histogram(
            "losparse_batch_rows", "Rows in one run of a model.", ("model",), buckets=_ROWS, registry=kept
        )
        self.tokens = Histogram(
            "losparse_batch_tokens",
            "Tokens in one run of a model, padding included.",
            ("model",),
            buckets=_TOKENS,
            registry=kept,
        )
        self.text_tokens = Counter(
            "losparse_text_tokens", "Tokens of texts, without padding.", ("model",), registry=kept
        )
        self.rejected = Counter(
            "losparse_rejected",
            "Requests that were refused, by why: busy, deadline, client (its own fault), gone, error.",
            ("model", "reason"),
            registry=kept,
        )
        self.queue = Gauge(
            "losparse_queue_rows",
            "Rows that wait, when last one came or went.",
            ("model",),
            registry=kept,
            multiprocess_mode="livesum",
        )
        self._answered: dict[tuple[str, str, int], Histogram] = {}
        self.reloads = Counter("losparse_reloads", "Replaced folders that were opened.", ("model",), registry=kept)

    def answered(self, model: str, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        key = (model, route, status)
        child = self._answered.get(key)
        if child is None:
            child = self._answered[key] = self.requests.labels(model, route, str(status))
        child.observe(seconds)

    def heard(self, model: str, ran: Ran) -> None:
        """Count a run."""
        self.runs.labels(model).observe(ran.seconds)
        self.waits.labels(model).observe(max(0.0, ran.waited_s))
        self.rows.labels(model).observe(ran.rows)
        self.tokens.labels(model).observe(ran.tokens)

    def page(self) -> bytes:
        """Return what Prometheus reads, of all workers."""
        if MULTIPROCESS not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def forget_worker(pid: int) -> None:
    """Leave what a worker that ended had waiting out of the sums; what it counted stays."""
    if MULTIPROCESS in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]
