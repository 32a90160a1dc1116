"""All methods beside each other, at the same budgets on the same data.

    python benchmarks/methods.py --table finetuned --model MINILM_DIR --data DATA_DIR --work WORK_DIR [--task sst2]
    python benchmarks/methods.py --table oneshot-lm --model SMOLLM2_DIR --data DATA_DIR
    python benchmarks/methods.py --table oneshot-embed --model MINILM_DIR --data DATA_DIR [--only rom:0.8 ...]

    finetuned       MiniLM on SST-2, Banking77 and CoLA, every row trained as long; models stay in WORK_DIR
    oneshot-lm      no training: SmolLM2-135M, perplexity on WikiText-2's test set, calibrated on its training set; the
                    dense form is what a 4-bit file holds, dequantised
    oneshot-embed   no training: MiniLM, rank correlation of the similarities of sentence pairs with the dense model's

DATA_DIR holds sst2-harvard, banking77, glue-cola, wikitext2-raw-test and wikitext2-raw-train1mb. A row that is in the
results is not run again. Rows without training run in a process of their own, so that their peak of memory is theirs.
A row of a trained model says its form: what every layer keeps, and how many heads of which widths are left.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import _embed
import _finetune
import _lm
import torch
from _results import has_row, locked, machine, versions

from losparse.methods import ASVD, FWSVD, ROM, SVD, Method, OneShotLoSparse, method_to_dict

RESULTS = Path(__file__).parent / "results" / "methods.json"
MODELS = {"oneshot-lm": "SmolLM2-135M", "oneshot-embed": "all-MiniLM-L6-v2", "finetuned": "all-MiniLM-L6-v2"}
DATA = {"oneshot-lm": "WikiText-2", "oneshot-embed": "Banking77"}
RUN = {"oneshot-lm": _lm.run, "oneshot-embed": _embed.run}
KEEPS = (0.9, 0.8, 0.6)


def one_shot_methods(table: str, keep: float) -> dict[str, Method]:
    """Return the methods of a table without training by the names of its rows; published ones store plain factors."""
    plain = {"keep": keep, "pivots": False}
    rows: dict[str, Method] = {
        "svd": SVD(**plain),
        "asvd": ASVD(**plain),
        "rom": ROM(**plain, mean=False),
        "rom + pivots": ROM(keep=keep, mean=False),
        "rom + pivots + mean": ROM(keep=keep),
        "rom + pivots + mean + global": ROM(keep=keep, allocation="global"),
        "losparse one-shot": OneShotLoSparse(keep=keep),
        "losparse one-shot without rows": OneShotLoSparse(keep=keep, row_share=0.0),
        "rom + pivots + mean + joint": ROM(keep=keep, joint=True),
        "losparse one-shot + joint": OneShotLoSparse(keep=keep, joint=True),
    }
    if table == "oneshot-lm":
        rows["fwsvd"] = FWSVD(**plain, fisher="fast")
    return rows


def add(row: dict[str, Any]) -> None:
    """Add a row to the results, and say so."""
    print(" ".join(str(row[key]) for key in ("data", "method", "keep", "metric", "value")), flush=True)
    with locked(RESULTS) as data:
        data.setdefault("rows", []).append(row)
        data |= {"versions": versions(), "machine": machine()}


def missing(key: dict[str, Any], only: list[str] | None = None) -> bool:
    """Tell whether a row is wanted and not there yet."""
    if only and f"{key['method']}:{key['keep']:.2g}" not in only:
        return False
    with locked(RESULTS) as data:
        return not has_row(data, key)


def key_of(args: argparse.Namespace, data: str, name: str, keep: float) -> dict[str, Any]:
    """Return what a row is known by."""
    model = MODELS[args.table]
    return {"table": args.table, "model": model, "data": data, "method": name, "keep": keep, "seed": args.seed}


def run_one_shot(args: argparse.Namespace) -> None:
    """Run the missing rows of a table without training, each in a process of its own."""
    rows = [("dense", 1.0)]
    for keep in KEEPS:
        rows += [(name, keep) for name in one_shot_methods(args.table, keep)]
    for name, share in rows:
        key = key_of(args, DATA[args.table], name, share)
        if missing(key, args.only):
            command = [sys.executable, *sys.argv, "--row", f"{name}:{share:g}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            add(key | json.loads(done.stdout.splitlines()[-1]))


def one_shot_row(args: argparse.Namespace) -> dict[str, Any]:
    """Run one row without training in this process."""
    name, _, keep = args.row.rpartition(":")
    method = None if name == "dense" else one_shot_methods(args.table, float(keep))[name]
    figures = RUN[args.table](args.model, args.data, method, args.seed)
    return figures | {"method_settings": None if method is None else method_to_dict(method), "threads": args.threads}


def run_finetuned(args: argparse.Namespace) -> None:
    """Train the missing rows of one task, or of all."""
    for task in [args.task] if args.task else list(_finetune.TASKS):
        bench = _finetune.Bench(task, args.model, args.data, args.work)
        dense = key_of(args, task, "dense", 1.0) | {"seed": 0}
        figures = bench.dense(0)  # all rows start from it
        if missing(dense):
            add(dense | figures)
        rows = [
            (name, keep, row) for keep in _finetune.KEEPS[task] for name, row in _finetune.rows_of(task, keep).items()
        ]
        rows += [(name, keep, row) for name, (row, keep) in _finetune.dropped().items()]
        for name, keep, row in rows:
            key = key_of(args, task, name, round(keep, 3))
            if missing(key, args.only):
                settings = None if row.method is None else method_to_dict(row.method)
                add(key | bench.row(name, row, keep, args.seed) | {"method_settings": settings})


def main() -> None:
    """Run what is missing of a table, or one row of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=list(MODELS), required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="where trained models go; for finetuned")
    parser.add_argument("--task", choices=list(_finetune.TASKS))
    parser.add_argument("--only", nargs="*", metavar="METHOD:KEEP")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--row", metavar="METHOD:KEEP", help="run this row here and print it as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.row is not None:
        print(json.dumps(one_shot_row(args)))
    elif args.table == "finetuned":
        if args.work is None:
            parser.error("--table finetuned needs --work")
        run_finetuned(args)
    else:
        run_one_shot(args)


if __name__ == "__main__":
    main()
