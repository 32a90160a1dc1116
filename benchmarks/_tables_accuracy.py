"""The tables of accuracies, one function a block of a page."""

from __future__ import annotations

from statistics import mean
from typing import Any

from _table import TASKS, load, table

from losparse.methods.losparse.shares import in_words


def accuracy_short() -> str:
    """One table for the README: a fifth of the layers' parameters, beside half of the blocks."""
    rows = [row for row in load("methods.json").get("rows", []) if row["table"] == "finetuned"]
    wanted = {
        ("dense", 1.0): "dense",
        ("3 of 6 blocks + distillation", 0.5): "half of the blocks, distilled",
        ("losparse", 0.2): "losparse, structure foldable",
        ("losparse + distillation", 0.2): "losparse, foldable, distilled",
        ("narrow", 0.2): "losparse, narrow, with low rank in the attention",
        ("narrow without low rank", 0.2): "losparse (the default: narrow, without low rank)",
        ("pruning", 0.2): "pruning",
        ("svd", 0.2): "svd",
    }
    lines = []
    for (method, keep), shown in wanted.items():
        cells = []
        for task in TASKS:
            values = [
                row["value"]
                for row in rows
                if row["method"] == method and row["data"] == task and abs(row["keep"] - keep) < 0.01
            ]
            cells.append(f"{100 * mean(values):.1f}" if values else "")
        if any(cells):
            lines.append([shown, f"{keep:g}", *cells])
    return (
        "MiniLM, every row trained as long from the same fine-tuned model; accuracy on the test set in per cent, for "
        "CoLA Matthews correlation x 100. The standard errors are about 0.8, 0.5 and 3:\n\n"
        + table(["model", "keep", *TASKS.values()], lines)
    )


def sst2() -> str:
    """Accuracy of every row beside the best dense model."""
    data = load("sst2.json")
    if "dense" not in data:
        return ""
    best = data["dense_test_accuracy"]

    def line(name: str, keep: str, same: list[dict[str, Any]]) -> list[str]:
        row, tests = same[0], [row["test_accuracy"] for row in same]
        spread = f" ({min(tests):.1%}-{max(tests):.1%}, {len(tests)} seeds)" if len(tests) > 1 else ""
        return [
            name,
            keep,
            f"{row['training']['learning_rate']:g}",
            f"{mean(row['dev_accuracy'] for row in same):.1%}",
            f"{mean(tests):.1%}{spread}",
            f"{mean(tests) / best:.1%}",
            f"{row['file_bytes'] / 1e6:.1f} MB",
        ]

    rows = [line("dense", "1", [data["dense"]])]
    if "dense_as_much_training" in data:
        rows.append(line("dense, trained as long as the rows below", "1", [data["dense_as_much_training"]]))
    order = {"losparse+distillation": 0, "losparse": 1, "svd": 2, "pruning": 3}
    seeds: dict[tuple[str, float, float], list[dict[str, Any]]] = {}
    for row in sorted(data["rows"], key=lambda r: (-r["keep"], order.get(r["method"], 9), r["structure"], r["seed"])):
        name = row["method"] if row["method"] == "svd" else f"{row['method']}, {row['structure']}"
        name += ", hidden states too" if row["training"].get("distill_hidden") else ""
        settings = row["method_settings"]
        if "low_rank" in settings:
            name += f", low rank {in_words(settings['low_rank'])}"
        seeds.setdefault((name, row["keep"], row["training"]["learning_rate"]), []).append(row)
    rows += [line(name, f"{keep:g}", same) for (name, keep, _), same in seeds.items()]
    text = table(["model", "keep", "learning rate", "dev", "test", "of dense", "file"], rows)
    settings = data["settings"]["rows"]
    torch, transformers = data["versions"]["torch"], data["versions"]["transformers"]
    return (
        f"{text}\n\n{settings['epochs']:g} epochs, batch {settings['batch_size']}, seed {settings['seed']} or the mean "
        f"of several, embeddings frozen, fp32 (other seeds partly under bf16 autocast); torch {torch}, transformers "
        f"{transformers}."
    )


def by_method(name: str, show: str, better: str) -> str:
    """A table without training: methods down, keeps across."""
    rows = [row for row in load("methods.json").get("rows", []) if row["table"] == name]
    if not rows:
        return ""
    keeps = sorted({row["keep"] for row in rows if row["method"] != "dense"}, reverse=True)
    dense = next((row for row in rows if row["method"] == "dense"), None)
    lines = [["dense", *[format(dense["value"], show)] * len(keeps), "", ""]] if dense else []
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != "dense"):
        own = {row["keep"]: row for row in rows if row["method"] == method}
        cells = [format(own[keep]["value"], show) if keep in own else "" for keep in keeps]
        slowest = max(own.values(), key=lambda row: row["compress_seconds"])
        memory = max(row["peak_bytes"] / row["weights_bytes"] for row in own.values())
        lines.append([method, *cells, f"{slowest['compress_seconds']:.0f} s", f"{memory:.1f}x"])
    first = rows[0]
    head = [f"{first['metric']}, {better}", *(f"keep {keep:g}" for keep in keeps), "at most", "peak memory / weights"]
    return f"{first['model']}, {first['data']}, no training:\n\n" + table(head, lines)


def oneshot_lm() -> str:
    """Perplexity of a language model after compression without training."""
    return by_method("oneshot-lm", ",.2f", "lower is better")


def oneshot_embed() -> str:
    """How well similarities of sentence embeddings survive compression without training."""
    return by_method("oneshot-embed", ".3f", "higher is better")


def finetuned() -> str:
    """Every method at the same training budget: methods down, tasks and keeps across; then dropped blocks."""
    rows = [row for row in load("methods.json").get("rows", []) if row["table"] == "finetuned"]
    if not rows:
        return ""
    cells: dict[tuple[str, str, float], list[float]] = {}
    for row in rows:
        cells.setdefault((row["method"], row["data"], row["keep"]), []).append(row["value"])
    tasks = [task for task in TASKS if any(row["data"] == task for row in rows)]
    dropped = {row["method"] for row in rows if row["method"][0].isdigit()}
    columns = sorted(
        {(row["data"], row["keep"]) for row in rows if row["method"] not in dropped | {"dense"}},
        key=lambda column: (tasks.index(column[0]), -column[1]),
    )

    def cell(method: str, task: str, keep: float) -> str:
        values = cells.get((method, task, keep), [])
        if not values:
            return ""
        mean = 100 * sum(values) / len(values)
        spread = f" ({100 * min(values):.1f}-{100 * max(values):.1f})" if len(values) > 1 else ""
        return f"{mean:.1f}{spread}"

    methods = sorted({row["method"] for row in rows} - dropped - {"dense"})
    first = table(
        ["method", *(f"{TASKS[task]}, keep {keep:g}" for task, keep in columns)],
        [
            ["dense", *(cell("dense", task, 1.0) for task, _ in columns)],
            *([method, *(cell(method, task, keep) for task, keep in columns)] for method in methods),
        ],
    )
    shares = {row["method"]: row["keep"] for row in rows if row["method"] in dropped}
    second = table(
        ["dense blocks, trained as long", "keep", *(TASKS[task] for task in tasks)],
        [
            [method, f"{share:.2f}", *(cell(method, task, share) for task in tasks)]
            for method, share in sorted(shares.items(), key=lambda item: (-item[1], item[0]))
        ],
    )
    return first + ("\n\n" + second if dropped else "")
