"""Latency against keep, for the picture of docs/speed.md: 12 x 768, one text of 128 tokens, one thread.

    python benchmarks/latency_by_keep.py            measures the keeps that are missing, then draws
    python benchmarks/latency_by_keep.py --draw     draws alone

Every keep is one `losparse estimate`: dense and factored, fp32 and int8, timed in turns; a quarter of the budget, but
at most 5 %, is low rank. Drawn are ratios within a run, since times differ from run to run; the dense lines are the
medians over all runs.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from _results import locked, machine, versions
from transformers import BertConfig

from losparse import LoSparse
from losparse_export import Call, estimate_model

RESULTS = Path(__file__).parent / "results" / "latency_by_keep.json"
PICTURE = RESULTS.with_suffix(".png")
KEEPS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
CONFIG = BertConfig(vocab_size=1000)  # 12 x 768


def measure_keep(keep: float) -> None:
    """Add the rows of one keep to the results."""
    method = LoSparse(keep=keep, low_rank=min(0.05, keep / 4), structure="foldable")
    found = estimate_model(CONFIG, method, call=Call(), grid=False, opponents=False)
    with locked(RESULTS) as data:
        rows = [asdict(row) | {"asked_keep": keep} for row in found.rows]
        data["rows"] = [row for row in data.get("rows", []) if row["asked_keep"] != keep] + rows
        data |= {"machine": machine(), "versions": versions(), "call": asdict(found.call)}
    print(keep, found.verdict, flush=True)


def draw(data: dict[str, Any]) -> None:
    """Draw latency against keep, dense as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), dpi=150)
    for precision, colour in (("fp32", "#1f5fa8"), ("int8", "#c8501e")):
        rows = [row for row in data["rows"] if row["precision"] == precision]
        dense = median(1 / row["speedup"] for row in rows if row["form"] == "dense")
        axes.axhline(dense, color=colour, linestyle="--", linewidth=1)
        axes.annotate(f"dense {precision}", (0.705, dense - 0.01), color=colour, va="top", ha="right", fontsize=8)
        points = sorted((row["asked_keep"], 1 / row["speedup"]) for row in rows if row["form"] == "factored")
        axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=f"factored {precision}")
    axes.set(
        xlabel="keep: kept share of the blocks' parameters", ylabel="time, as a share of dense fp32", ylim=(0, 1.05)
    )
    axes.set_title("12 x 768 encoder, 1 x 128 tokens, one thread", fontsize=10)
    axes.legend(loc="upper left", fontsize=8, bbox_to_anchor=(0.0, 0.93))
    axes.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(PICTURE)


def main() -> None:
    """Measure what is missing, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true")
    args = parser.parse_args()
    with locked(RESULTS) as data:
        done = {row["asked_keep"] for row in data.get("rows", [])}
    for keep in () if args.draw else [keep for keep in KEEPS if keep not in done]:
        measure_keep(keep)
    with locked(RESULTS) as data:
        draw(data)


if __name__ == "__main__":
    main()
