"""A report collected, and written as a page, as Markdown and as JSON."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from losparse_runtime.contract.files import write_json

from .. import __version__
from .compared import compared
from .content import headline, left_out, tables
from .facts import Facts, read_facts
from .markdown import to_markdown
from .page import to_html
from .pictures import pictures

JSON, MARKDOWN, PAGE = "report.json", "report.md", "report.html"


def collect_report(out: str | Path, against: str | Path | None = None) -> dict[str, Any]:
    """Collect all that a report says of a build.

    Args:
        out: folder of the build.
        against: folder of another one to compare it with.

    Returns:
        JSON values: "title", "passed", "headline", "tables" (each with "columns", and "rows" of cells that have the
        "text" that is shown and the "value" it shows), and "left_out", lines that say what there is none of.

    Raises:
        LosparseError: one of them is no finished build.
    """
    facts = read_facts(Path(out))
    return _collected(facts, None if against is None else read_facts(Path(against)))


def write_report(out: str | Path, against: str | Path | None = None) -> dict[str, Path]:
    """Write the report of a build into its folder.

    Args:
        out: folder of the build.
        against: folder of another one to compare it with.

    Returns:
        The files, by their names: report.html, report.md and report.json.

    Raises:
        LosparseError: one of them is no finished build, or matplotlib is not installed.
    """
    folder = Path(out)
    facts = read_facts(folder)
    report = _collected(facts, None if against is None else read_facts(Path(against)))
    page, text = to_html(report, pictures(facts)), to_markdown(report)
    _write(folder / PAGE, page)
    _write(folder / MARKDOWN, text)
    write_json(folder / JSON, report)
    return {name: folder / name for name in (PAGE, MARKDOWN, JSON)}


def _collected(facts: Facts, other: Facts | None) -> dict[str, Any]:
    found = [] if other is None else compared(facts, other)
    return {
        "format": 1,
        "losparse": __version__,
        "title": str(facts.data["name"]),
        "passed": bool(facts.variants) and all(entry["passed"] for entry in facts.variants.values()),
        "headline": headline(facts),
        "tables": [table.to_dict() for table in (*found, *tables(facts))],
        "left_out": left_out(facts),
    }


def _write(file: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as sink:
            sink.write(text)
        Path(temporary).chmod(0o644)  # mkstemp makes it private
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
