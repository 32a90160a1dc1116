"""Accuracy against latency and bytes: every model of the table "finetuned" of one task, exported, in fp32 and int8.

    python benchmarks/front.py --task sst2 --model MINILM_DIR --data DATA_DIR --work WORK_DIR [--shape 1x16 1x128]
                               [--weight-bits 8] [--json FILE]
    python benchmarks/front.py --forms --task sst2 --model MINILM_DIR [--json FILE]
    python benchmarks/front.py --draw [--json FILE]

WORK_DIR is that of `methods.py --table finetuned`; exports go to its folder onnx, and one that is newer than its model
is not made again. Of every method and keep the model of the first seed is taken that is there. Each is exported by the
public path and run over the whole test set: in fp32 its logits must equal PyTorch's to 1e-4 and its predictions must
be identical, or no time is taken. Then all of them, dense, quantised, with fewer blocks or factored, are timed in turns
in one run. A model is on the front when no other is at least as fast and at least as right, and better in one of the
two. With --forms, models of random weights are timed in place of trained ones that are gone, for every row that says
its form; their accuracy is that of the trained model in PyTorch, and they go to the file front_forms.json.

FILE has one entry a kind of machine; its picture goes beside it, under its name and that of the kind.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import _finetune
import torch
from _exported import torch_logits, whole_test_set
from _form import exported_forms
from _front import GROUPS, first_seeds, group_of, on_front, points_of
from _results import kind_of, locked, machine, versions

from losparse_export import export_model
from losparse_runtime import Session, measure

METHODS = Path(__file__).parent / "results" / "methods.json"
RESULTS = Path(__file__).parent / "results"
FORMS = RESULTS / "front_forms.json"
FILES = {"sst2": "front.json"}  # of other tasks "front_TASK.json"
PRECISIONS = ("fp32", "int8")


def draw(data: dict[str, Any], picture: Path) -> None:
    """Draw accuracy against time and against bytes; the fronts as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shape = data["shapes"][0]
    points = points_of(data["models"], shape)
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.4), dpi=150, sharey=True)
    for axes, cost in zip(panels, ("time", "onnx_bytes"), strict=True):
        unit = 1.0 if cost == "time" else 1e6
        for name, (_, colour) in GROUPS.items():
            for precision, marker in (("fp32", "o"), ("int8", "^")):
                own = [p for p in points if group_of(p["method"]) == name and p["precision"] == precision]
                label = name if precision == "fp32" else None
                places = [p[cost] / unit for p in own]
                axes.scatter(places, [p["accuracy"] for p in own], 22, colour, marker, label=label, alpha=0.85)
        by_name = {point["name"]: point for point in points}
        front = [by_name[name] for name in on_front(points, cost)]
        axes.plot(
            [p[cost] / unit for p in front], [p["accuracy"] for p in front], color="#999999", linewidth=0.8, zorder=0
        )
        axes.grid(alpha=0.25)
    panels[0].set(xlabel=f"time at {shape.replace('x', ' x ')} tokens, as a share of dense fp32", ylabel=data["metric"])
    panels[1].set(xlabel="bytes of the ONNX folder, MB")
    panels[0].legend(loc="lower right", fontsize=8, title="circle fp32, triangle int8", title_fontsize=8)
    panels[0].set_ylim(bottom=min(p["accuracy"] for p in points) - 0.005)
    figure.tight_layout()
    figure.savefig(picture)


def onnx_folder(bench: _finetune.Bench, row: dict[str, Any], precision: str, weight_bits: int) -> Path:
    """Return where an export goes."""
    return bench.work / "onnx" / f"{row['folder']}-{precision}{weight_bits if precision == 'int8' else ''}"


def exported(bench: _finetune.Bench, row: dict[str, Any], weight_bits: int) -> dict[str, dict[str, Any]]:
    """Export one trained model and run it over the test set, unless that was done since; figures by precision."""
    source, target = bench.work / row["folder"], bench.work / "onnx"
    figures = target / f"{row['folder']}-{weight_bits}.json"
    trained = (source / "model.safetensors").stat().st_mtime
    if figures.is_file() and figures.stat().st_mtime > trained:
        done: dict[str, dict[str, Any]] = json.loads(figures.read_text())
        return done
    test, found, reference = bench.task.test, {}, None
    for precision in PRECISIONS:
        out = onnx_folder(bench, row, precision, weight_bits)
        bits = {"weight_bits": weight_bits} if precision == "int8" else {}
        report = export_model(source, out, precision=precision, **bits, overwrite=True)
        session = Session(report.folder)
        reference = torch_logits(session, source, test.texts) if reference is None else reference
        own = whole_test_set(session, reference, test.texts, test.labels, precision)
        own |= {key: row[key] for key in ("method", "keep", "seed", "folder")}
        value = own[f"test_{bench.task.metric}"]
        found[precision] = own | {"precision": precision, "value": value, "onnx_bytes": sum(report.bytes.values())}
        print(row["folder"], precision, value, own["same_predictions"], flush=True)
    figures.write_text(json.dumps(found))
    return found


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Export, compare, time."""
    bench = _finetune.Bench(args.task, args.model, args.data, args.work)
    with locked(METHODS) as methods:
        rows = [row for row in methods["rows"] if row["table"] == "finetuned" and row["data"] == args.task]
    table = first_seeds(row for row in rows if (bench.work / row["folder"] / "model.safetensors").is_file())
    for name in sorted({row["method"] for row in rows} - {row["method"] for row in table}):
        print(f"no model of {name} in {bench.work}: left out", flush=True)
    sessions: dict[str, Session] = {}
    models: dict[str, dict[str, Any]] = {}
    for row in table:
        for precision, figures in exported(bench, row, args.weight_bits).items():
            name = f"{row['method']} {row['keep']:.2g} {precision}"
            models[name] = figures | {"latency": {}}
            if not args.export:
                folder = onnx_folder(bench, row, precision, args.weight_bits)
                sessions[name] = Session(folder, threads=args.threads)
    if args.export:
        return {}
    time_models(sessions, models, args.shape)
    return {"metric": f"{bench.task.metric} on the test set of {args.task}"} | told(args, models)


def time_models(sessions: dict[str, Session], models: dict[str, dict[str, Any]], shapes: list[str]) -> None:
    """Time all models in turns at every shape, and put the times to them."""
    for shape in shapes:
        batch, length = (int(number) for number in shape.split("x"))
        for name, latency in measure(sessions, batch=batch, length=length, min_seconds=3, memory=False).items():
            models[name]["latency"][shape] = latency.to_dict()


def told(args: argparse.Namespace, models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return results with what they were measured under."""
    return {
        "task": args.task,
        "shapes": args.shape,
        "threads": args.threads,
        "weight_bits": args.weight_bits,
        "machine": machine(),
        "versions": versions(),
        "models": models,
    }


def run_forms(args: argparse.Namespace) -> dict[str, Any]:
    """Time models of random weights that have the forms of the trained ones, and the dense one in front of them."""
    with locked(METHODS) as methods:
        rows = [row for row in methods["rows"] if row["table"] == "finetuned" and row["data"] == args.task]
    table = [row for row in first_seeds(rows) if row["method"] == "dense" or "form" in row]
    sessions: dict[str, Session] = {}
    models: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as work:
        for row, precision, folder in exported_forms(table, args.model, Path(work), args.weight_bits):
            name = f"{row['method']} {row['keep']:.2g} {precision}"
            told_of = {key: row[key] for key in ("method", "keep", "value")}
            size = sum(file.stat().st_size for file in folder.iterdir())
            models[name] = told_of | {"precision": precision, "onnx_bytes": size, "latency": {}}
            sessions[name] = Session(folder, threads=args.threads)
        time_models(sessions, models, args.shape)
    metric = f"{table[0]['metric']} of the trained models in PyTorch, on the test set of {args.task}"
    return {"metric": metric, "forms": True} | told(args, models)


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(_finetune.TASKS), default="sst2")
    for name in ("model", "data", "work"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--shape", nargs="+", default=["1x128", "1x16"], metavar="BATCHxLENGTH")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", action="store_true", help="export and count alone; time another day")
    parser.add_argument("--weight-bits", type=int, default=7, help="of int8; 8 for CPUs with VNNI")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--forms", action="store_true", help="time models of random weights that have the forms")
    parser.add_argument("--draw", action="store_true", help="draw what was measured")
    args = parser.parse_args()
    file = args.json or (FORMS if args.forms else RESULTS / FILES.get(args.task, f"front_{args.task}.json"))
    if not args.draw:
        if args.model is None or (not args.forms and None in (args.data, args.work)):
            parser.error("--model, --data and --work are needed, or --model and --forms, or --draw")
        torch.set_num_threads(args.threads)
        result = run_forms(args) if args.forms else run(args)
        if not result:
            return
        with locked(file) as data:
            data.setdefault("kinds", {})[kind_of(result["machine"])] = result
    for kind, found in json.loads(file.read_text())["kinds"].items():
        draw(found, file.with_name(f"{file.stem}_{kind}.png"))


if __name__ == "__main__":
    main()
