"""All methods beside each other, at the same budgets on the same data.

    python benchmarks/methods.py --table oneshot-lm --model SMOLLM2_DIR --data DATA_DIR
    python benchmarks/methods.py --table oneshot-embed --model MINILM_DIR --data DATA_DIR [--only rom:0.8 ...]

    oneshot-lm      no training: SmolLM2-135M, perplexity on WikiText-2's test set, calibrated on its training set; the
                    dense form is what a 4-bit file holds, dequantised
    oneshot-embed   no training: MiniLM, rank correlation of the similarities of sentence pairs with the dense model's

DATA_DIR holds wikitext2-raw-test, wikitext2-raw-train1mb and banking77. A row that is in the results is not run
again; every row runs in a process of its own, so that its peak of memory is its own.
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
import _lm
import torch
from _results import has_row, locked, machine, versions

from losparse.methods import ASVD, FWSVD, ROM, SVD, Method, OneShotLoSparse, method_to_dict

RESULTS = Path(__file__).parent / "results" / "methods.json"
TABLES = {"oneshot-lm": _lm.run, "oneshot-embed": _embed.run}
MODELS = {"oneshot-lm": "SmolLM2-135M", "oneshot-embed": "all-MiniLM-L6-v2"}
DATA = {"oneshot-lm": "WikiText-2", "oneshot-embed": "Banking77"}
KEEPS = (0.9, 0.8, 0.6)


def methods(table: str, keep: float) -> dict[str, Method]:
    """Return the methods of a table by the names of its rows; "as published" ones store plain factors."""
    plain = {"keep": keep, "pivots": False}
    rows: dict[str, Method] = {
        "svd": SVD(**plain),
        "asvd": ASVD(**plain),
        "rom": ROM(**plain, mean=False),
        "rom + pivots": ROM(keep=keep, mean=False),
        "rom + pivots + mean": ROM(keep=keep),
        "rom + pivots + mean + global": ROM(keep=keep, allocation="global"),
        "losparse one-shot": OneShotLoSparse(keep=keep),
        "losparse one-shot without rows": OneShotLoSparse(keep=keep, rows=False),
    }
    if table == "oneshot-lm":
        rows["fwsvd"] = FWSVD(**plain, fisher="fast")
    return rows


def run_row(table: str, name: str, keep: float, args: argparse.Namespace) -> dict[str, Any]:
    """Run one row in this process."""
    torch.set_num_threads(args.threads)
    method = None if name == "dense" else methods(table, keep)[name]
    figures = TABLES[table](args.model, args.data, method, args.seed)
    settings = None if method is None else method_to_dict(method)
    return {
        "table": table,
        "model": MODELS[table],
        "data": DATA[table],
        "method": name,
        "keep": keep,
        "seed": args.seed,
    } | (figures | {"method_settings": settings, "threads": args.threads})


def run_table(args: argparse.Namespace) -> None:
    """Run the rows that are missing, each in a process of its own."""
    rows = [("dense", 1.0), *((name, keep) for keep in KEEPS for name in methods(args.table, keep))]
    for name, keep in rows:
        if args.only and f"{name}:{keep:g}" not in args.only:
            continue
        key = {"table": args.table, "method": name, "keep": keep, "seed": args.seed}
        with locked(RESULTS) as data:
            if has_row(data, key):
                continue
        command = [sys.executable, *sys.argv, "--row", f"{name}:{keep:g}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        print({k: v for k, v in row.items() if k in ("method", "keep", "value", "compress_seconds")}, flush=True)
        with locked(RESULTS) as data:
            data.setdefault("rows", []).append(row)
            data |= {"versions": versions(), "machine": machine()}


def main() -> None:
    """Run what is missing of a table, or one row of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=list(TABLES), required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", metavar="METHOD:KEEP")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--row", metavar="METHOD:KEEP", help="run this row here and print it as JSON")
    args = parser.parse_args()
    if args.row is None:
        run_table(args)
        return
    name, _, keep = args.row.rpartition(":")
    print(json.dumps(run_row(args.table, name, float(keep), args)))


if __name__ == "__main__":
    main()
