"""The report as Markdown, for a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

LARGEST = 60_000
"""Bytes: platforms cut longer comments."""
_LINE = 2000
"""Most characters of a title or headline."""
_OPEN = ("compared", "recipes", "models", "gates")
"""Tables that stand open; the others are folded."""


def to_markdown(report: Mapping[str, Any]) -> str:
    """Write a report as Markdown; long tables are left out at the end where it would be too long.

    Args:
        report: as `collect_report` returns it.
    """
    verdict = "passed" if report["passed"] else "failed"
    text = f"## {_escaped(report['title'][:_LINE])}: {verdict}\n\n{_escaped(report['headline'][:_LINE])}\n"
    left = []
    for table in sorted(report["tables"], key=lambda table: table["name"] not in _OPEN):
        part = _table(table)
        if len((text + part).encode()) > LARGEST - 1000:
            left.append(table["title"])
            continue
        text += part
    if left:
        text += f"\nNot shown here, for their length: {', '.join(left)}; the page has them.\n"
    return text


def _table(table: Mapping[str, Any]) -> str:
    lines = [_row(table["columns"]), _row(["---"] * len(table["columns"]))]
    lines += [_row([_marked(cell) for cell in row]) for row in table["rows"]]
    body = "\n".join(lines) + "\n"
    note = f"\n{_escaped(table['note'])}\n" if table["note"] else ""
    if table["name"] in _OPEN:
        return f"\n### {_escaped(table['title'])}\n\n{body}{note}"
    return f"\n<details><summary>{_escaped(table['title'])}</summary>\n\n{body}{note}\n</details>\n"


def _marked(cell: Mapping[str, Any]) -> str:
    text = _escaped(cell["text"])
    return f"**{text}**" if cell.get("mark") == "bad" else text


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    """Return a text that Markdown and HTML show as it is."""
    for mark, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(mark, safe)
    return " ".join(re.sub(r"([|`*_\[\]\\~])", r"\\\1", text).split())
