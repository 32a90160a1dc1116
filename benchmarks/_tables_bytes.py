"""The table of bytes, by part of a model."""

from __future__ import annotations

from typing import Any

from _table import load, table

_PARTS = ("embeddings", "layers", "heads", "norms", "other")
_TABLES = {"float": "fp32", "int8": "int8"}


def bytes_by_part() -> str:
    """Where the bytes of exported models are, with tables of embeddings in fp32 and in int8."""
    data = load("bytes.json")
    if not data:
        return ""
    models = list(dict.fromkeys(row["model"] for row in data["rows"]))
    beside = ", ".join(f"{data['tokenizers'][name] / 1e6:.1f} MB ({name})" for name in models)
    return (
        "Exported models in MB, by part: as they are, and with random factors at "
        f'`{_settings(data["method"])}`. "Other" are names, constants and the graph. Files of the tokenizer are not '
        f"counted: {beside}.\n\n"
        + table(
            ["model", "products", "tables", *_PARTS, "file", "of the dense fp32 file"],
            [_row(row, data["rows"]) for row in data["rows"]],
        )
    )


def _row(row: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    dense = next(other["total"] for other in rows if other["model"] == row["model"])
    sizes = [f"{row['bytes'][part] / 1e6:.2f}" for part in _PARTS]
    tables = _TABLES[row["embeddings"]]
    file = f"{row['total'] / 1e6:.1f}"
    return [f"{row['model']}, {row['form']}", row["precision"], tables, *sizes, file, f"{row['total'] / dense:.0%}"]


def _settings(method: dict[str, Any]) -> str:
    return ", ".join(f"{name}={method[name]}" for name in ("keep", "low_rank", "structure"))
