"""What the tables of results have in common: where results are, how a table is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"

TASKS = {"sst2": "SST-2", "banking77": "Banking77", "cola": "CoLA"}


def load(name: str) -> dict[str, Any]:
    """Read a results file; empty when it is not there yet."""
    path = RESULTS / name
    data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return data


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)
