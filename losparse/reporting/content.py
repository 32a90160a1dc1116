"""All that a report says of one build, as data: a sentence, the gates, and tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from . import numbers
from .facts import Facts
from .tables import Cell, Table, dropping_empty, number, words

_MOST_OPERATORS = 12
"""Rows of the table of operators; the rest is summed up in one."""


def headline(facts: Facts) -> str:
    """Say in one sentence what came of a build."""
    best = facts.best_variant()
    if best is None:
        return "No variant equals PyTorch, so nothing is shipped."
    parts = [*_of_speed(facts, best), *_of_size(facts, best), *_of_accuracy(facts, best)]
    said = f"{best}: " + ", ".join(parts) if parts else best
    if not facts.shipped:
        return f"Nothing is shipped: every variant failed a gate. The nearest is {said}."
    left = [name for name in facts.variants if name not in facts.shipped]
    return f"{said}." + (f" Not shipped: {', '.join(left)}." if left else "")


def _of_speed(facts: Facts, name: str) -> Iterator[str]:
    rows = [(shape, facts.time(name, shape)) for shape in facts.shapes]
    speedups = [float(row["speedup"]) for _, row in rows if row is not None]
    if speedups:
        yield f"{_span(speedups)} as fast as {facts.base} fp32"
    over = [value for shape, row in rows if row is not None and (value := facts.over_free(name, shape)) is not None]
    if over:
        yield f"{_span(over)} as fast as the fastest dense model"


def _span(ratios: list[float]) -> str:
    low, high = numbers.times(min(ratios)), numbers.times(max(ratios))
    return low if low == high else f"{low} to {high}"


def _of_size(facts: Facts, name: str) -> Iterator[str]:
    own, other = facts.models[name]["bytes"], facts.models[facts.base]["bytes"]
    if own and other:
        yield f"{numbers.megabytes(own)} of {numbers.megabytes(other)}"


def _of_accuracy(facts: Facts, name: str) -> Iterator[str]:
    delta = dict(facts.deltas(name)).get(facts.base)
    if delta is not None:
        way = "below" if delta["delta"] <= 0 else "above"
        yield f"{numbers.plus_minus(abs(delta['delta']), delta['error'])} points {way} {facts.base}"


def tables(facts: Facts) -> list[Table]:
    """Return the tables of a build, those that have rows."""
    found = (_models(facts), _gates(facts), _parts(facts), _operators(facts), _layers(facts), _steps(facts))
    return [table for table in (*found, _recipe(facts), _versions(facts)) if table.rows]


def left_out(facts: Facts) -> list[str]:
    """Say what a report has not, and why."""
    found = []
    if facts.data.get("metric") is None:
        found.append("Accuracy was not measured: the recipe has no labelled texts as data.test or data.validation.")
    if not facts.results:
        found.append("Nothing was timed.")
    elif not any("openvino" in name for name in facts.models):
        found.append("The dense model in OpenVINO was not timed: it is not installed, or the recipe leaves it out.")
    for key, what in (
        ("parts", "where the bytes are"),
        ("operators", "a profile of operators"),
        ("layers", "a picture of the layers"),
        ("training", "training curves"),
        ("keep", "latency against keep"),
    ):
        if not facts.details.get(key):
            found.append(f"There is no word of {what}: it was not measured, or there is none of it in this build.")
    return found


def _models(facts: Facts) -> Table:
    metric = facts.data.get("metric") or "accuracy"
    shapes = facts.shapes
    columns = ["model", "shipped", f"{metric}, points", f"against {facts.base}", "against PyTorch", "size", "parity"]
    columns += [heading for shape in shapes for heading in (_shape(shape), "speed-up")]
    rows = [_model_row(facts, name, entry) for name, entry in facts.models.items()]
    kept, cells = dropping_empty(columns, rows)
    texts = facts.data.get("texts")
    note = f"± is the standard error, on {texts:,} texts. " if texts else ""
    if shapes:
        bench = facts.data["bench"]
        note += (
            f"Median times on {_threads(bench['threads'])}, all models in turns; speed-up is over {facts.base} fp32."
        )
        if any(row.get("noisy") for row in facts.results):
            note += " * The machine was disturbed: such a time is not to be quoted, its speed-up holds in its interval."
    return Table("models", "Accuracy, size and speed", note, tuple(kept), cells)


def _model_row(facts: Facts, name: str, entry: Mapping[str, Any]) -> list[Cell]:
    accuracy, deltas = entry.get("accuracy") or {}, dict(facts.deltas(name))
    value = accuracy.get("value")
    row = [Cell(name), _shipped(entry), Cell(numbers.plus_minus(value, accuracy.get("error")), value)]
    for other in (facts.base, "pytorch"):
        delta = deltas.get(other) or {}
        shown = numbers.plus_minus(delta.get("delta"), delta.get("error"), signed=True)
        row.append(Cell(shown, delta.get("delta")))
    parity = (entry.get("parity") or {}).get("max_abs")
    row += [number(entry.get("bytes"), numbers.megabytes), number(parity, numbers.small)]
    for shape in facts.shapes:
        timed = facts.time(name, shape) or {}
        row += _times(timed)
    return row


def _times(timed: Mapping[str, Any]) -> list[Cell]:
    """Return time and speed-up at one shape; of a disturbed machine they are marked."""
    mark, star = ("noisy", " *") if timed.get("noisy") else ("", "")
    ms, speedup = timed.get("median_ms"), timed.get("speedup")
    low, high = timed.get("speedup_low"), timed.get("speedup_high")
    return [
        Cell(numbers.milliseconds(ms) + star, ms, mark),
        Cell(numbers.times(speedup), speedup, low=low, high=high),
    ]


def _shipped(entry: Mapping[str, Any]) -> Cell:
    if entry["kind"] != "variant":
        return Cell("")
    return Cell("yes", mark="good") if entry["passed"] else Cell("no", mark="bad")


def _gates(facts: Facts) -> Table:
    rows = [
        (Cell(each["variant"]), Cell(each["gate"]), Cell(each["words"]), _verdict(bool(each["passed"])))
        for each in facts.data.get("verdicts", ())
    ]
    judged = {each["words"] for each in facts.data.get("verdicts", ())}
    for name, entry in facts.variants.items():
        rows += [
            (Cell(name), Cell(line.partition(":")[0]), Cell(line), _verdict(False))
            for line in entry["failures"]
            if line not in judged
        ]
    return Table("gates", "Gates", "", ("variant", "gate", "measured", "verdict"), tuple(rows))


def _verdict(passed: bool) -> Cell:
    return Cell("passed", mark="good") if passed else Cell("failed", mark="bad")


def _parts(facts: Facts) -> Table:
    parts = facts.details.get("parts") or {}
    names = list(dict.fromkeys(part for found in parts.values() for part in found))
    rows = []
    for model, found in parts.items():
        total = number(sum(found.values()), numbers.megabytes)
        rows.append((Cell(model), *(number(found.get(part), numbers.megabytes) for part in names), total))
    return Table("parts", "Where the bytes are", "", ("model", *names, "all"), tuple(rows))


def _operators(facts: Facts) -> Table:
    profiles = facts.details.get("operators") or {}
    spent: dict[str, float] = {}
    for rows in profiles.values():
        for row in rows:
            spent[row["operator"]] = max(spent.get(row["operator"], 0.0), row["ms"])
    shown = sorted(spent, key=lambda name: -spent[name])[:_MOST_OPERATORS]
    table = [(Cell(name), *(_operator(rows, name) for rows in profiles.values())) for name in shown]
    if len(spent) > len(shown):
        rest = [sum(row["ms"] for row in rows if row["operator"] not in shown) for rows in profiles.values()]
        table.append((Cell("all others"), *(number(value, numbers.milliseconds) for value in rest)))
    note = (
        "Milliseconds of a run by kind of operator. Measuring them takes time itself, and what passes between two "
        "operators is in none of them: so their sum is not what a run takes, which was timed in the same turns."
    )
    runs = facts.details.get("runs") or {}
    for what, key in (("sum", "operators_ms"), ("a run, not profiled", "run_ms")) if runs else ():
        found = [(runs.get(name) or {}).get(key) for name in profiles]
        table.append((Cell(what), *(number(value, numbers.milliseconds) for value in found)))
    return Table("operators", "Operators, before and after", note, ("operator", *profiles), tuple(table))


def _operator(rows: list[Mapping[str, Any]], name: str) -> Cell:
    found = [row["ms"] for row in rows if row["operator"] == name]
    return number(sum(found) if found else None, numbers.milliseconds)


def _layers(facts: Facts) -> Table:
    columns = ("layer", "shape", "rank", "kept", "parameters", "form", "error", "parity")
    rows = []
    for layer in facts.details.get("layers") or ():
        kept = layer["parameters"] / layer["dense_parameters"] if layer.get("dense_parameters") else None
        rows.append(
            (
                Cell(layer["name"]),
                Cell(" x ".join(map(str, layer["shape"]))),
                number(layer.get("rank"), numbers.count),
                number(layer.get("kept"), numbers.count),
                number(kept, numbers.share),
                Cell(layer.get("lowering") or ""),
                number(layer.get("error"), numbers.share),
                number(layer.get("parity"), numbers.small),
            )
        )
    note = (
        "Kept: rows or columns of the sparse part. Parameters: share of the dense layer's. Error: norm of the "
        "difference from the dense weight over its norm. Parity: largest difference between PyTorch and the graph, "
        "where it has that place."
    )
    kept_columns, cells = dropping_empty(columns, rows)
    return Table("layers", "Layers", note, tuple(kept_columns), cells)


def _steps(facts: Facts) -> Table:
    rows = tuple(
        (Cell(step["name"]), number(step["seconds"], numbers.seconds), Cell(step["digest"][:12]))
        for step in facts.data.get("steps", ())
    )
    return Table("steps", "Steps", "", ("step", "time", "digest of what it wrote"), rows)


def _recipe(facts: Facts) -> Table:
    rows = tuple(words(name, value) for name, value in flat(facts.data.get("recipe", {})) if value != "null")
    return Table("recipe", "Recipe", "Keys without a value are left out.", ("key", "value"), rows)


def flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield keys and values of a recipe, a line each."""
    for key, inner in value.items():
        name = f"{before}.{key}" if before else str(key)
        if isinstance(inner, Mapping) and inner:
            yield from flat(inner, name)
        else:
            yield name, inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)


def _versions(facts: Facts) -> Table:
    machine = facts.data.get("machine", {})
    bench = facts.data.get("bench") or {}
    found = {**facts.data.get("versions", {}), **bench.get("versions", {})}
    rows = [words(name, str(value)) for name, value in {**machine, **found}.items()]
    return Table("versions", "Machine and versions", "", ("what", "which"), tuple(rows))


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def _shape(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
