"""One count of several workers: prometheus_client's files, of which each worker writes its own and reads all."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that prometheus_client reads when it is imported."""
_IN_MEMORY = Path("/dev/shm")

logger = logging.getLogger(__name__)


@contextmanager
def counted_together(workers: int) -> Iterator[None]:
    """Let workers count together. It must begin before prometheus_client is imported.

    A folder that the variable names already is taken as it is, and left.

    Args:
        workers: how many; for one nothing is done.
    """
    if workers == 1 or MULTIPROCESS in os.environ:
        yield
        return
    try:
        folder = tempfile.TemporaryDirectory(
            prefix="losparse-counts-", dir=_IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
        )
    except OSError as error:
        logger.warning("no folder for counts can be made (%s): each worker's /metrics counts its own requests", error)
        yield
        return
    with folder as path:
        os.environ[MULTIPROCESS] = path
        try:
            yield
        finally:
            del os.environ[MULTIPROCESS]
