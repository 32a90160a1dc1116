"""The tables of times, one function a block of a page."""

from __future__ import annotations

from typing import Any

from _front import group_of, on_front, points_of
from _results import KINDS
from _table import TASKS, load, table


def latency() -> str:
    """Speed of the exported SST-2 models against the dense export."""
    data = load("sst2_export.json")
    if not data:
        return ""
    models = data["models"]
    shapes = list(next(iter(models.values()))["latency"])
    rows = []
    for name, row in models.items():
        cells = [f"{row['latency'][s]['median_ms']:.1f} ms, {row['latency'][s]['speedup']:.2f}x" for s in shapes]
        same = "all" if row["predictions_identical"] else f"{row['same_predictions']:.1%}"  # fp32 must be identical
        rows.append([name, f"{row['test_accuracy']:.1%}", same, f"{row['onnx_bytes'] / 1e6:.1f} MB", *cells])
    head = ["exported model", "test accuracy", "predictions equal to PyTorch's", "file", *shapes]
    largest = max(row["max_abs_difference"] for row in models.values() if row.get("precision", "fp32") == "fp32")
    return (
        "The SST-2 models exported, batch x tokens, median and speed-up over the dense fp32 export timed in turns in "
        f"one run at {data['threads']} thread on {data['machine']}, onnxruntime {data['versions']['onnxruntime']}. In "
        f"fp32 the largest difference of any logit of the whole test set from PyTorch's is {largest:.0e}.\n\n"
        + table(head, rows)
    )


def training_cost() -> str:
    """What a training step costs against one of plain fine-tuning."""
    data = load("training_cost.json")
    if not data:
        return ""
    rows = [
        [row["variant"], f"{row['step_ms']:.0f} ms", f"{row['time_ratio']:.2f}x", f"{row['memory_ratio']:.2f}x"]
        for row in data["rows"]
    ]
    return (
        f"A training step of MiniLM, {data['batch']} x {data['length']} tokens, against plain fine-tuning in turns: "
        f"median of {data['steps']} at {data['threads']} thread on {data['machine']}; memory is the peak of a process "
        "of its own, above what it held before the model.\n\n" + table(["training", "step", "time", "memory"], rows)
    )


def by_kind(name: str) -> list[dict[str, Any]]:
    """Return what a results file has of every kind of machine, those with the best instructions first."""
    kinds = load(name).get("kinds", {})
    return [kinds[kind] for kind in (*KINDS, *sorted(kinds.keys() - KINDS.keys())) if kind in kinds]


def front() -> str:
    """The models that no other beats in accuracy and time, and ours that a model without this library beats."""
    return "\n\n".join(front_of(data) for data in [*by_kind("front.json"), *by_kind("front_forms.json")])


def front_of(data: dict[str, Any]) -> str:
    """The front of one run."""
    shape = data["shapes"][0]
    points = points_of(data["models"], shape)
    by_name = {point["name"]: point for point in points}
    lines = [
        [
            f"{point['method']}, keep {point['keep']:.2g}, {point['precision']}",
            f"{point['accuracy']:.1%}",
            *(f"{point['latency'][each]['speedup']:.2f}x" for each in data["shapes"]),
            f"{point['onnx_bytes'] / 1e6:.1f} MB",
        ]
        for point in (by_name[name] for name in on_front(points, "time"))
    ]
    head = ["on the front", data["metric"], *(f"{each} against dense fp32" for each in data["shapes"]), "ONNX folder"]
    trained = "models of random weights in the forms of trained ones" if data.get("forms") else "models"
    text = (
        f"{len(points)} {trained} of the {TASKS[data['task']]} columns, exported and timed in turns in one run, "
        f"{data['threads']} thread on {data['machine']}, onnxruntime {data['versions']['onnxruntime']}, int8 with "
        f"weights of {data['weight_bits']} bits. On the front of accuracy and time at {shape} are, fastest "
        f"first:\n\n{table(head, lines)}\n\n"
    )
    ours = [point for point in points if point["method"].startswith("losparse") and 0.15 < point["keep"] < 0.35]
    plain = [point for point in points if group_of(point["method"]) in ("dense", "fewer dense blocks")]
    beaten = []
    for point in ours:
        better = [
            f"{other['name']}, {100 * (other['accuracy'] - point['accuracy']):.1f} points ahead"
            for other in plain
            if other["time"] < point["time"] and other["accuracy"] > point["accuracy"]
        ]
        beaten += [f"* {point['name']}: by {'; '.join(better)}"] if better else []
    if not beaten:
        return text + "No dense, quantised or shortened model beats one of ours at keep 0.3 or 0.2 in both."
    return text + "Of ours at keep 0.3 and 0.2, these are beaten in both by a plain model:\n\n" + "\n".join(beaten)


def times() -> str:
    """How fast every method's model is: all of one task, timed in one run."""
    return "\n\n".join(times_of(data) for data in by_kind("front_cola.json"))


def times_of(data: dict[str, Any]) -> str:
    """How fast every model of one run is."""
    rows: dict[tuple[str, float], dict[str, dict[str, Any]]] = {}
    for model in data["models"].values():
        rows.setdefault((model["method"], model["keep"]), {})[model["precision"]] = model
    cells = [(shape, precision) for shape in data["shapes"] for precision in ("fp32", "int8")]
    fastest = sorted(rows.items(), key=lambda row: -row[1]["int8"]["latency"][data["shapes"][0]]["speedup"])
    lines = [
        [
            method,
            f"{keep:.2g}",
            *(f"{models[precision]['latency'][shape]['speedup']:.2f}x" for shape, precision in cells),
            *(f"{models[precision]['onnx_bytes'] / 1e6:.1f}" for precision in ("fp32", "int8")),
        ]
        for (method, keep), models in fastest
    ]
    head = ["method", "keep", *(f"{shape} {precision}" for shape, precision in cells), "MB fp32", "MB int8"]
    return (
        f"Speed-up over dense fp32 of all {len(data['models'])} models of the {TASKS[data['task']]} columns, "
        f"{data['threads']} thread on {data['machine']}, onnxruntime {data['versions']['onnxruntime']}:\n\n"
        f"{table(head, lines)}"
    )
