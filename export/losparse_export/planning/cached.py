"""Files that only save time: what cannot be read is as good as none, what cannot be written is told in the log."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def read_cached(file: Path) -> dict[str, Any]:
    """Read what is kept, by key; nothing where the file is missing or broken."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def write_cached(file: Path, data: Mapping[str, Any]) -> None:
    """Keep values for another run, where the cache can be written: a home may be read-only. Whole or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(dict(data), indent=1) + "\n", encoding="utf-8")
        temporary.replace(file)
    except OSError as error:
        logger.info("%s is not kept: %s", file.name, error)
