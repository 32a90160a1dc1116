"""The tables of times, one function a block of a page."""

from __future__ import annotations

from typing import Any

from _front import group_of, on_front, points_of
from _table import TASKS, load, table


def speed_short() -> str:
    """One table for the README: a BERT-base encoder against what onnxruntime gives for nothing."""
    runs = [data for data in map(load, ("encoder_latency.json", "encoder_latency_vnni.json")) if data]
    if not runs:
        return ""
    names = {
        "dense-int8-default": "dense int8, onnxruntime's own",
        "factored-fp32": "losparse, fp32",
        "factored-int8": "losparse, int8",
    }
    rows = []
    for data in runs:
        for batch, length in ((1, 16), (1, 128), (8, 128)):
            speed = {
                row["variant"]: row["speedup"]
                for row in data["rows"]
                if (row["shape"], row["batch"], row["length"]) == ("12x768", batch, length)
            }
            rows.append([data["machine"], f"{batch} x {length}", *(f"{speed[name]:.1f}x" for name in names)])
    first = runs[0]
    return (
        f"An encoder of 12 x 768 at keep {first['keep']:g}, speed-up over dense fp32 as torch exports it; timed in "
        f"turns in one run at {first['rows'][0]['threads']} thread, onnxruntime {first['versions']['onnxruntime']}:\n\n"
        + table(["machine", "batch x tokens", *names.values()], rows)
    )


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


def encoders() -> str:
    """Speed of encoders of random weights, against what torch.onnx.export and onnxruntime give by default."""
    data, vnni = load("encoder_latency.json"), load("encoder_latency_vnni.json")
    if not data:
        return ""
    text = "".join(map(in_short, filter(None, (data, vnni)))) + (
        f"\nEncoders of random weights at keep {data['keep']:g} (low rank {data['low_rank']:g}), median and speed-up "
        f"over dense-fp32-default, timed in turns in one run at {data['rows'][0]['threads']} thread on "
        f"{data['machine']}, onnxruntime {data['versions']['onnxruntime']}. `default` is what torch.onnx.export "
        "writes, and its quantize_dynamic form, as onnxruntime runs them; `tuned` is our export of the dense model.\n\n"
        + encoder_table(data)
    )
    if vnni:
        text += f"\n\nThe same at {vnni['rows'][0]['threads']} thread on {vnni['machine']}:\n\n{encoder_table(vnni)}"
    return (
        f"{text}\n\nWhere the time goes, 12x768 at 1 x 128, in ms by operator, {data['machine']}:\n\n"
        + profile_table(data["profiles"]["12x768"])
    )


def in_short(data: dict[str, Any]) -> str:
    """One line on a BERT-base encoder."""
    call = ("12x768", 1, 128)
    own = [row for row in data["rows"] if (row["shape"], row["batch"], row["length"]) == call]
    speed = {row["variant"]: row["speedup"] for row in own}
    return (
        f"* {data['machine']}: 12 x 768 at 1 x 128 runs {speed['factored-fp32']:.1f}x as fast as dense fp32, "
        f"{speed['factored-int8']:.1f}x in int8; dense int8 as onnxruntime makes it, "
        f"{speed['dense-int8-default']:.1f}x\n"
    )


def encoder_table(data: dict[str, Any]) -> str:
    """Shapes and calls down, variants across."""
    names = list(dict.fromkeys(row["variant"] for row in data["rows"]))
    calls = sorted(
        {(row["shape"], row["batch"], row["length"]) for row in data["rows"]},
        key=lambda call: (int(call[0].partition("x")[0]), *call[1:]),
    )
    rows = []
    for shape, batch, length in calls:
        own = {
            row["variant"]: row
            for row in data["rows"]
            if (row["shape"], row["batch"], row["length"]) == (shape, batch, length)
        }
        cells = [f"{own[name]['median_ms']:.1f} ms, {own[name]['speedup']:.2f}x" for name in names]
        rows.append([f"{shape}, {batch} x {length}", *cells])
    return table(["layers x hidden, batch x tokens", *names], rows)


def profile_table(profiles: dict[str, dict[str, float]]) -> str:
    """Time by operator of a few variants; what takes little is added up."""
    names = [name for name in profiles if name != "dense-int8-default"]
    total = {op: max(profiles[name].get(op, 0.0) for name in names) for name in names for op in profiles[name]}
    shown = sorted((op for op, ms in total.items() if ms >= 0.5), key=lambda op: -total[op])
    rows = [[op, *(f"{profiles[name].get(op, 0.0):.1f}" for name in names)] for op in shown]
    rest = [sum(ms for op, ms in profiles[name].items() if op not in shown) for name in names]
    return table(["operator", *names], [*rows, ["everything else", *(f"{ms:.1f}" for ms in rest)]])


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


def front() -> str:
    """The models that no other beats in accuracy and time, and ours that a model without this library beats."""
    parts = [front_of(data) for data in (load("front.json"), load("front_vnni.json")) if data]
    return "\n\n".join(parts)


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
    text = (
        f"{len(points)} models of the {TASKS[data['task']]} columns, exported and timed in turns in one run, "
        f"{data['threads']} thread on {data['machine']}, onnxruntime {data['versions']['onnxruntime']}, int8 with "
        f"weights of {data.get('weight_bits', 7)} bits. On the front of accuracy and time at {shape} are, fastest "
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
    data = load("front_cola.json")
    if not data:
        return ""
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
